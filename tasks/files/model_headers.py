"""Prints what the headers of model files say, a line of JSON each, for the paths given. Runs on the box.

Only the first megabytes of a file are read: a header is 6 to 30 MB, most of it the vocabulary.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from tasks.planning.gguf_header import Header, HeaderError, HeaderTruncatedError, read_header

FIRST_READ = 16 << 20
LAST_READ = 256 << 20
"""Bytes. No header of any model is longer; a file that claims one is refused."""


def header_of(path: str) -> Header:
    """The header of a file on this box.

    :raises HeaderError: when it is no GGUF file
    :raises OSError: when it cannot be read
    """
    size = FIRST_READ
    while True:
        with Path(path).open("rb") as file:
            data = file.read(size)
        try:
            return read_header(data)
        except HeaderTruncatedError:
            if size >= LAST_READ or len(data) < size:
                raise
        size *= 4


def described(path: str) -> dict[str, object]:
    """What is printed for a file: its tensors and metadata, or why they cannot be read."""
    try:
        header = header_of(path)
    except HeaderError as error:
        return {"path": path, "error": str(error)}
    except OSError as error:
        return {"path": path, "error": error.strerror or str(error)}
    tensors = [[tensor.name, list(tensor.shape), tensor.type, tensor.size] for tensor in header.tensors]
    # Texts such as chat templates are long and decide nothing about memory.
    metadata = {
        key: value for key, value in header.metadata.items() if not (isinstance(value, str) and len(value) > 80)
    }
    own = {"length": header.length, "sha256": header.sha256}
    return {"path": path, "tensors": tensors, "metadata": metadata, **own}


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        print(json.dumps(described(argument), allow_nan=True))
