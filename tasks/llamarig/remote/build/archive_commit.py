"""Finds out which commit of llama.cpp a source archive was made of, from what the archive says of itself."""

from __future__ import annotations

import re
import tarfile
from pathlib import Path

from llamarig.remote.shared.job_status import JobFailedError
from llamarig.remote.shared.jobs import Source

_COMMIT = re.compile(r"[0-9a-f]{40}")
_LARGEST = 1 << 20
"""Bytes of a file that is read."""


def commit_of(archive: Path, subdirectory: str) -> str:
    """Return the commit, possibly shortened; empty where the archive does not say.

    ``git archive`` writes it into a comment of the archive. llama-cpp-python packs the submodule's own HEAD, and names
    it in its changelog.

    :param subdirectory: of llama.cpp in the archive
    """
    with tarfile.open(archive) as tar:
        first = tar.next()
        if not subdirectory.strip("/") and (found := _COMMIT.fullmatch(tar.pax_headers.get("comment", ""))):
            return found[0]
        if first is None:
            return ""
        top, version = first.name.split("/")[0], re.search(r"-([0-9][\w.]*)$", first.name.split("/")[0])
        head = _text(tar, f"{top}/.git/modules/{subdirectory.strip('/')}/HEAD").strip()
        if _COMMIT.fullmatch(head):
            return head
        changes = _text(tar, f"{top}/CHANGELOG.md")
        section = (
            re.search(rf"^## \[{re.escape(version[1])}\]\n(.*?)(?=^## |\Z)", changes, re.M | re.S) if version else None
        )
        named = re.search(r"llama\.cpp to \S*?@([0-9a-f]{7,40})\b", section[1]) if section else None
        return named[1] if named else ""


def check_commit(source: Source, archive: Path) -> str:
    """Compare the declared commit with the archive's.

    :returns: a remark for the owner where the archive does not say it, else empty
    :raises JobFailedError: when the archive is of another commit
    """
    found = commit_of(archive, source.subdirectory or "")
    if not found:
        return "the archive does not say which commit it is of, so it is called what was declared"
    if source.commit.startswith(found):
        return ""
    raise JobFailedError(
        f"the archive is of llama.cpp {found}, declared {source.commit}: declare the commit that it is of, or another "
        "archive; nothing was built"
    )


def _text(tar: tarfile.TarFile, name: str) -> str:
    try:
        file = tar.extractfile(name)
    except KeyError:
        return ""
    return "" if file is None else file.read(_LARGEST).decode(errors="replace")
