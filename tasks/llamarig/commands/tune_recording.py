"""Reads an owner's recorded conversation on the control machine. It is private: nothing of it is printed or stored."""

from __future__ import annotations

import stat
import subprocess
from pathlib import Path

from llamarig.declare.workload import Workload
from llamarig.remote.measure.recording import LARGEST, parse_recording


class RecordingError(Exception):
    """A recording cannot be used; the message says why, and the remedy."""


def recorded_text(declared: Workload) -> str:
    """The text of the recording; empty for a preset.

    :raises RecordingError: for one that cannot be read, or that others may read
    """
    if declared.recording is None:
        return ""
    path = Path(declared.recording).expanduser()
    try:
        found = path.stat()
        if stat.S_IMODE(found.st_mode) & 0o077:
            raise RecordingError(f"{path} can be read by others, and conversations are private: chmod 600 {path}")
        if found.st_size > LARGEST:
            raise RecordingError(f"{path} has more than {LARGEST >> 20} MiB: record a shorter conversation")
        if _is_in_git(path):
            raise RecordingError(f"{path} is in git, and conversations are private: git rm --cached {path}")
        text = path.read_text()
        parse_recording(text)
    except (OSError, UnicodeDecodeError) as error:
        raise RecordingError(f"{path} cannot be read ({getattr(error, 'strerror', None) or 'not UTF-8'})") from None
    except ValueError as error:
        raise RecordingError(f"{path}: {error}") from None
    return text


def _is_in_git(path: Path) -> bool:
    try:
        command = ["git", "-C", str(path.resolve().parent), "ls-files", "--error-unmatch", "--", path.name]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except OSError:  # no git
        return False
