"""Who started a run: a user on a control machine, also where users and machines elsewhere have the same names."""

from __future__ import annotations

import getpass
import hashlib
import os
import re
import secrets
import socket
from contextlib import suppress
from pathlib import Path

_LENGTH = 8
_MACHINE_ID = Path("/etc/machine-id")


def owner() -> str:
    """Who starts the jobs of this run: ``user@machine (identity)``. Many machines are called localhost."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # no name for this user ID
        user = f"uid-{os.getuid()}"
    return f"{user}@{socket.gethostname()} ({identity()})"


def identity() -> str:
    """Eight hexadecimal digits of this user on this machine: drawn once, and kept in the user's state directory.

    Neither the machine's own id nor its network card would do: copies of a virtual machine share the first, and the
    second changes with the network. Where nothing can be kept, it is a digest of the machine's id.
    """
    try:
        return _kept(state_file())
    except (OSError, RuntimeError):  # there is no home, or nothing can be written there
        with suppress(OSError):
            return hashlib.sha256(_MACHINE_ID.read_bytes()).hexdigest()[:_LENGTH]
        return "0" * _LENGTH


def state_file() -> Path:
    """Where the identity is kept, by the XDG base directory specification.

    :raises RuntimeError: where the user has no home
    """
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local/state") / "llamarig/control-machine"


def _kept(path: Path) -> str:
    """The identity in a file, which is made if there is none. Of two runs that make it at once, one wins.

    :raises OSError: where the file can be neither read nor made
    """
    with suppress(OSError):
        if re.fullmatch(rf"[0-9a-f]{{{_LENGTH}}}", found := path.read_text(errors="replace").strip()):
            return found
    path.parent.mkdir(parents=True, exist_ok=True)
    drawn = secrets.token_hex(_LENGTH // 2)
    own = path.with_name(f".{path.name}.{drawn}")
    try:
        own.write_text(f"{drawn}\n")
        try:
            os.link(own, path)
        except FileExistsError:  # another run was faster, or the file is damaged
            if re.fullmatch(rf"[0-9a-f]{{{_LENGTH}}}", found := path.read_text(errors="replace").strip()):
                return found
            own.replace(path)
    finally:
        own.unlink(missing_ok=True)
    return drawn
