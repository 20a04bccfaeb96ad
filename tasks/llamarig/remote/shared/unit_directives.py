"""The directives of a unit file: everything that decides how its service runs, without comments and helper paths."""

from __future__ import annotations

import hashlib
import re

# Paths of the helpers differ between versions: earlier ones had /opt/llamarig/lib/tasks/files/wait_for_vram.py and
# -m tasks.files.probe_servers.
_HELPER_PATH = re.compile(r"/opt/llamarig/lib/\S*/(\w+\.py)")
_HELPER_MODULE = re.compile(r"-m (?:tasks\.files|llamarig\.remote\.\w+)\.(\w+)")
_OF_A_START = re.compile(r"(ExecStartPost|TimeoutStartSec|DefaultDependencies)=|\w+=(sysinit|shutdown)\.target\b")
"""Settings that decide how a start or a stop of the box goes, and nothing of a server that runs."""


def directives(text: str) -> tuple[str, ...]:
    """Return the sections and settings of a unit file in order, with helpers by their names alone.

    Left out is what concerns a start alone. A service needs no restart for a unit file with the directives that it was
    started with.
    """
    joined = re.sub(r"\\\n\s*", " ", text)
    lines = (line.strip() for line in joined.splitlines())
    return tuple(
        _HELPER_MODULE.sub(r"-m \1", _HELPER_PATH.sub(r"\1", line))
        for line in lines
        if line and line[0] not in "#;" and not _OF_A_START.match(line)
    )


def directives_sha256(text: str) -> str:
    """Return the sha256 of all directives."""
    return hashlib.sha256("\n".join(directives(text)).encode()).hexdigest()
