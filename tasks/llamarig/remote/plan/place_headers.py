"""Writes headers of models as sparse files of the models' size, for dry runs of models that are not on the box.

    python3 -m llamarig.remote.plan.place_headers DIRECTORY <headers.json

``headers.json``: name of the file -> its header (zlib, base64) and its size in bytes. No header is parsed here.
"""

from __future__ import annotations

import base64
import json
import os
import sys
import zlib
from pathlib import Path

MOST_BYTES = 64 << 20
"""Of one header. Without its vocabulary that of a large model takes some 100 KB."""


def place(directory: Path, headers: dict[str, tuple[str, int]]) -> None:
    """Write the files, for every user to read.

    :raises ValueError: for a name with a slash, or a header that is too long
    """
    directory.mkdir(parents=True, exist_ok=True)
    directory.chmod(0o755)
    for name, (packed, size) in headers.items():
        if "/" in name:
            raise ValueError(f"{name} is no file name")
        unpacker = zlib.decompressobj()
        data = unpacker.decompress(base64.b64decode(packed), MOST_BYTES)
        if not unpacker.eof:
            raise ValueError(f"the header of {name} has more than {MOST_BYTES} bytes")
        path = directory / name
        path.write_bytes(data)
        os.truncate(path, size)
        path.chmod(0o644)


if __name__ == "__main__":
    place(Path(sys.argv[1]), json.load(sys.stdin))
