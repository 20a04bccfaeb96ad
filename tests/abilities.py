"""What this machine can boot for a rehearsal and for tests: a container, a virtual machine, or neither, and why.

Standard library only: it runs before anything is installed.
"""

from __future__ import annotations

import getpass
import os
import platform
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

CAP_SYS_CHROOT, CAP_SYS_ADMIN = 18, 21
"""Bit numbers in the capability sets of /proc/PID/status (capabilities(7))."""

REMEDY = (
    "Run this on a machine of its own, or give the container what it lacks: `docker run --privileged`, "
    "or `--cap-add SYS_ADMIN` without AppArmor and seccomp profiles."
)


@dataclass(frozen=True)
class Abilities:
    """What this process may do here."""

    root: bool
    sys_admin: bool
    """CAP_SYS_ADMIN in the effective set."""
    mounts: bool
    """A mount in a new mount namespace works. AppArmor and seccomp may deny it in spite of the capability."""
    chroot: bool
    """CAP_SYS_CHROOT in the effective set."""
    user_namespaces: bool
    """A new user namespace with subordinate ids, for `mmdebstrap --mode=unshare`."""
    kvm: bool
    processor: str
    """As of `uname -m`."""


@dataclass(frozen=True)
class Choice:
    """What a rehearsal boots. ``reason``: why it is not a container (and no virtual machine); empty for a container."""

    kind: Literal["container", "vm", "none"]
    reason: str = ""


def choose(found: Abilities) -> Choice:
    """A container if it can be booted, otherwise a virtual machine, otherwise neither."""
    lacking = container_lacks(found)
    if not lacking:
        return Choice("container")
    also = vm_lacks(found)
    return Choice("none", f"{lacking}; {also}") if also else Choice("vm", lacking)


def container_lacks(found: Abilities) -> str:
    """Why a container with its own systemd cannot be booted, as a clause; empty if it can be."""
    if not found.root:
        return "a container with its own systemd needs root"
    if not found.sys_admin:
        return "root has no CAP_SYS_ADMIN here, as in most containers, so no container can be booted"
    if not found.mounts:
        return "root may not mount here (AppArmor or a seccomp profile denies it), so no container can be booted"
    return ""


def vm_lacks(found: Abilities) -> str:
    """Why the root file system of a virtual machine cannot be made, as a clause; empty if it can be."""
    if found.processor != "x86_64":
        return f"the virtual machine is x86_64, and this machine is {found.processor}"
    if found.root and not found.chroot:
        return "a virtual machine's file system cannot be made without CAP_SYS_CHROOT"
    if not found.root and not found.user_namespaces:
        return (
            "a virtual machine's file system cannot be made without root, since user namespaces are not available "
            "(they are off, no_new_privs is set, or /etc/subuid and /etc/subgid have no range for this user)"
        )
    return ""


def emulator_lacks(found: Abilities) -> str:
    """Why the tests with a virtual machine cannot run, as a clause; empty if they can. They run QEMU in a chroot."""
    return vm_lacks(found) if found.root else "the virtual machine of the tests is made by root"


def left_out_markers(found: Abilities) -> dict[str, str]:
    """Marker of tests that cannot run here -> why, as a clause."""
    lacking = {"box": container_lacks(found), "vm": emulator_lacks(found)}
    return {marker: reason for marker, reason in lacking.items() if reason}


def abilities() -> Abilities:
    """Find out, by trying where trying leaves nothing behind."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":" in line)
    capabilities = int(status["CapEff"], 16)
    sys_admin = bool(capabilities >> CAP_SYS_ADMIN & 1)
    root = os.geteuid() == 0
    return Abilities(
        root=root,
        sys_admin=sys_admin,
        mounts=sys_admin and _works(_MOUNTS),
        chroot=bool(capabilities >> CAP_SYS_CHROOT & 1),
        # newuidmap is set-user-id, which no_new_privs disables.
        user_namespaces=not root and status["NoNewPrivs"].strip() == "0" and _has_ids() and _works(_USER_NAMESPACE),
        kvm=os.access("/dev/kvm", os.R_OK | os.W_OK),
        processor=platform.machine(),
    )


_MOUNTS = """
import ctypes, sys
libc = ctypes.CDLL(None)
new_namespace, recursive_private, tmpfs = 0x20000, 0x44000, b"tmpfs"
if libc.unshare(new_namespace) or libc.mount(b"none", b"/", None, recursive_private, None):
    sys.exit(1)
sys.exit(libc.mount(tmpfs, b"/tmp", tmpfs, 0, None) != 0)
"""
_USER_NAMESPACE = """
import ctypes, sys
new_user_namespace, new_mount_namespace = 0x10000000, 0x20000
sys.exit(ctypes.CDLL(None).unshare(new_user_namespace | new_mount_namespace) != 0)
"""


def _works(program: str) -> bool:
    """Whether a Python program succeeds, in a process of its own: it unshares its namespaces."""
    return (
        subprocess.run([sys.executable, "-c", program], stdin=subprocess.DEVNULL, capture_output=True).returncode == 0
    )


def _has_ids() -> bool:
    """Whether this user has a range of subordinate user and group ids."""
    names = {getpass.getuser(), str(os.getuid())}
    return all(_names(Path(file)) & names for file in ("/etc/subuid", "/etc/subgid"))


def _names(file: Path) -> set[str]:
    lines = file.read_text().splitlines() if file.exists() else []
    return {line.partition(":")[0] for line in lines}
