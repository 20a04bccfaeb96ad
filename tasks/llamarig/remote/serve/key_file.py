"""Reads API key files as llama-server does, and rejects those whose keys no client could send or others could read.

    key_file.py PATH

exits with 1 and the reason where the file is not usable: an ExecStartPre= of each unit with a key. An owner may edit
the file and restart the unit without a deploy, and with a file that has no key llama-server accepts every request.

llama-server (common/arg.cpp) uses every line that is not empty and does not begin with `#` as a key, unchanged: a
carriage return, a byte order mark or a space at either end becomes part of the key. No message of this module contains
any part of the file. Unit files call it by its path, so it must not be moved, and it imports nothing of ours.
"""

from __future__ import annotations

import os
import re
import stat
import sys

LARGEST = 64 << 10
"""Bytes. A larger file is not a list of keys and was probably named by mistake."""

# Problems of a file. facts/key_files.py detects the same ones by a shell command, before our programs are on the box.
MISSING = "is not there"
NOT_A_FILE = "is not a regular file"
TOO_LARGE = f"is larger than {LARGEST >> 10} KiB, so not a list of keys"
EMPTY = "is empty"
BOM = "begins with a byte order mark (BOM), which llama-server reads as part of the first line"
CR = "has carriage returns (CR, Windows line endings), which llama-server reads as part of the keys"
NO_KEY = "has no usable key, only empty lines, comments (#), or lines with surrounding spaces or control characters"
# Problems that a deploy corrects by itself, so that its fact has owner and mode apart.
OTHER_OWNER = "does not belong to root, so its owner can replace the key"
OTHERS_MAY_READ = "can be read or written by others than root"

USABLE = r"[^\x00-\x1f\x7f# ]([^\x00-\x1f\x7f]*[^\x00-\x1f\x7f ])?"
"""A line that is not a comment and that a client can send unchanged as an HTTP header value."""


class KeyFileError(OSError):
    """The file has no usable key; the message has the path and the reason."""


def problem_of(content: bytes) -> str | None:
    """Return why a file with this content is not usable; None where it is."""
    if not content:
        return EMPTY
    if len(content) > LARGEST:
        return TOO_LARGE
    if content.startswith(b"\xef\xbb\xbf"):
        return BOM
    if b"\r" in content:
        return CR
    return None if _keys(content) else NO_KEY


def first_key(path: str) -> str:
    """Return the first usable key, decoded as Latin-1, which is how http.client encodes header values.

    :raises KeyFileError: when the file is not usable
    """
    try:
        # Non-blocking: opening a FIFO would otherwise wait for a writer.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except FileNotFoundError:
        raise KeyFileError(f"api_key_file {path} {MISSING}") from None
    try:
        problem, content = _problem_of_status(os.fstat(descriptor)), b""
        if problem is None:
            content = os.read(descriptor, LARGEST + 1)
            problem = problem_of(content)
    finally:
        os.close(descriptor)
    if problem is not None:
        raise KeyFileError(f"api_key_file {path} {problem}")
    return _keys(content)[0]


def _problem_of_status(status: os.stat_result) -> str | None:
    if not stat.S_ISREG(status.st_mode):
        return NOT_A_FILE
    if status.st_uid not in (0, os.geteuid()):  # who runs this is root on a box
        return OTHER_OWNER
    return OTHERS_MAY_READ if stat.S_IMODE(status.st_mode) & 0o077 else None


def _keys(content: bytes) -> list[str]:
    return [line for line in content.decode("latin-1").split("\n") if re.fullmatch(USABLE, line)]


def main(path: str) -> int:
    """Return 1, and print why, where the file is not usable."""
    try:
        first_key(path)
    except OSError as error:
        print(
            f"{error}: not started, because without a usable key everyone could use this server. Write the file anew, "
            "one key a line, owned by root and mode 600; then start this unit again",
            file=sys.stderr,
        )
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
