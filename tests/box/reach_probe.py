"""Prints as JSON what a process can read, write, open and call; run on a box in the sandbox of a unit.

It needs nothing but Python's standard library, since the sandbox has nothing else of the tests.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import socket
import stat
import sys
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

KERNEL = ("/proc", "/sys", "/dev")
DISTRIBUTION = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64")
MOST = 2000
"""Files listed: with more than that, the sandbox has failed anyway."""


def readable_files() -> list[str]:
    """Files that can be opened, but for the distribution's programs and libraries, and the kernel's file systems."""
    return list(islice((str(path) for path in _walk(Path("/"), {*KERNEL, *DISTRIBUTION}) if _opens(path)), MOST))


def _walk(directory: Path, left_out: set[str]) -> Iterator[Path]:
    """Everything below a directory; links to directories are not followed."""
    try:
        entries = sorted(directory.iterdir())
    except OSError:
        return
    for path in entries:
        if str(path) in left_out:
            continue
        yield path
        if path.is_dir() and not path.is_symlink():
            yield from _walk(path, left_out)


def _opens(path: Path) -> bool:
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            return False
        path.open("rb").close()
    except OSError:
        return False
    return True


def writable_directories() -> list[str]:
    """Directories in which a file can be made."""
    found = []
    for path in [Path("/"), *_walk(Path("/"), {"/proc", "/sys", *DISTRIBUTION})]:
        probe = path / f"llamarig-probe-{os.getpid()}"
        try:
            if path.is_dir():
                probe.touch(exist_ok=False)
                probe.unlink()
                found.append(str(path))
        except OSError:
            continue
    return found


def others_processes() -> list[str]:
    """Processes of other users that can be seen."""
    return [path.name for path in Path("/proc").iterdir() if path.name.isdigit() and path.stat().st_uid != os.getuid()]


def devices() -> list[str]:
    """Device nodes that can be opened."""
    found = []
    for path in Path("/dev").rglob("*"):
        try:
            mode = path.lstat().st_mode
            if not stat.S_ISCHR(mode) and not stat.S_ISBLK(mode):
                continue
            os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY))
            found.append(str(path))
        except OSError:
            continue
    return found


def allowed(call: Callable[[], object]) -> bool:
    """Whether a call succeeds."""
    try:
        call()
    except OSError:
        return False
    return True


def system_call(name: str, *arguments: object) -> Callable[[], None]:
    """A call of the C library that raises OSError where it fails."""
    library = ctypes.CDLL(None, use_errno=True)

    def call() -> None:
        if getattr(library, name)(*arguments) == -1:
            raise OSError(ctypes.get_errno() or errno.EPERM, name)

    return call


def unix_socket(path: str) -> Callable[[], None]:
    def call() -> None:
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(path)

    return call


NEW_USER, MOUNT_PRIVATE = 0x10000000, 1 << 18
CALLS: dict[str, Callable[[], object]] = {
    "local socket": lambda: socket.socket(socket.AF_UNIX).close(),
    "netlink socket": lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW).close(),
    "packet socket": lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW).close(),
    "raw socket": lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP).close(),
    "D-Bus": unix_socket("/run/dbus/system_bus_socket"),
    "systemd": unix_socket("/run/systemd/private"),
    "another user": lambda: os.setuid(0),
    "a namespace": system_call("unshare", NEW_USER),
    "a mount": system_call("mount", b"none", b"/tmp", None, MOUNT_PRIVATE, None),
    "tracing": system_call("ptrace", 0, 0, None, None),
    "a set-user-id file": lambda: _set_user_id("/tmp/llamarig-probe"),
}


def _set_user_id(path: str) -> None:
    file = Path(path)
    file.write_bytes(b"")
    try:
        file.chmod(0o4755)
    finally:
        file.unlink()


def main() -> None:
    """Print the report."""
    report = {
        "user": os.getuid(),
        "files": readable_files(),
        "directories": writable_directories(),
        "processes": others_processes(),
        "devices": devices(),
        "calls": sorted(name for name, call in CALLS.items() if allowed(call)),
    }
    json.dump(report, sys.stdout)
    print()


if __name__ == "__main__":
    main()
