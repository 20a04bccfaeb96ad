"""Prints the GGUF headers of model files, one line of JSON per path on the command line.

Only the beginning of a file is read: a header has 6 to 30 MB, most of it the vocabulary.
"""

from __future__ import annotations

import json
import stat
import sys
from pathlib import Path

from llamarig.remote.shared.gguf_header import Header, HeaderError, HeaderTruncatedError, read_header

FIRST_READ = 16 << 20
LAST_READ = 256 << 20
"""Bytes. Headers of real models are far shorter; a longer one is rejected."""


def read_whole_header(path: Path) -> tuple[bytes, Header]:
    """Read a file's first bytes until they contain its whole header; return them and the parsed header.

    :raises HeaderError: for a file that is not GGUF
    :raises OSError: when it cannot be read
    """
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        raise HeaderError("is no regular file")
    size = FIRST_READ
    while True:
        with path.open("rb") as file:
            data = file.read(size)
        try:
            return data, read_header(data, found.st_size)
        except HeaderTruncatedError:
            if size >= LAST_READ or len(data) < size:
                raise
        size *= 4


def describe(path: str) -> dict[str, object]:
    """Return what is printed for a file: its tensors and metadata, or the error."""
    try:
        _, header = read_whole_header(Path(path))
    except HeaderError as error:
        return {"path": path, "error": str(error)}
    except OSError as error:
        return {"path": path, "error": error.strerror or str(error)}
    tensors = [[tensor.name, list(tensor.shape), tensor.type, tensor.size] for tensor in header.tensors]
    return {
        "path": path,
        "tensors": tensors,
        "metadata": dict(header.metadata),
        "length": header.length,
        "sha256": header.sha256,
    }


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        print(json.dumps(describe(argument), allow_nan=True))
