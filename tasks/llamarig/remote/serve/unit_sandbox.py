"""Lists the GPUs that a server sees in the sandbox of its unit, before anything is stopped for it."""

from __future__ import annotations

import os
import re
import stat
import subprocess
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

from llamarig.remote.shared.deadline import run_within
from llamarig.remote.shared.job_status import JobFailedError
from llamarig.remote.shared.unit_directives import directives

_SECONDS = 60
_STOPPED_S = 300
"""Seconds until systemd has given up stopping a process that does not end."""
_PREFIXES = ("Protect", "Private", "Restrict", "SystemCall", "Device")
_DIRECTIVES = {
    *("User", "SupplementaryGroups", "RootDirectory", "MountAPIVFS", "TemporaryFileSystem", "BindReadOnlyPaths"),
    *("NoNewPrivileges", "CapabilityBoundingSet", "AmbientCapabilities", "RemoveIPC", "LockPersonality", "UMask"),
    "MemoryDenyWriteExecute",
}
_GPU_NODES = re.compile(r"nvidia|kfd|render|nvmap|nvhost")
_ROOT_ONLY = re.compile(r"nvidia-cap\d+|render|kfd")
"""Nodes of MIG, whose modes are meant so, and those that a group opens."""
_LISTED = re.compile(r"^\s+\w+\d+: ", re.MULTILINE)


def sandbox_properties(text: str) -> list[str]:
    """The directives of a unit's text that make its sandbox, as systemd-run takes them."""
    return [
        line
        for line in directives(text)
        if "=" in line and ((name := line.split("=", 1)[0]) in _DIRECTIVES or name.startswith(_PREFIXES))
    ]


def list_devices(program: str, environment: Mapping[str, str], text: str = "") -> subprocess.CompletedProcess[str]:
    """Run ``program --list-devices``.

    :param text: of the unit in whose sandbox it runs; empty for none, as root
    :raises JobFailedError: when it does not end
    """
    variables = [f"{name}={value}" for name, value in environment.items()]
    command = ["/usr/bin/env", *variables, program, "--list-devices"]
    if text:
        wanted = [*sandbox_properties(text), f"RuntimeMaxSec={_SECONDS}", "IPAddressDeny=any"]
        run = ["systemd-run", "--quiet", "--pipe", "--wait", "--collect", "--service-type=exec"]
        command = [*run, *(f"--property={value}" for value in wanted), "--", *command]
    try:
        return run_within(command, _STOPPED_S if text else _SECONDS)
    except subprocess.TimeoutExpired as hung:
        raise JobFailedError(
            f"{program} --list-devices did not end within {hung.timeout:.0f} s: the GPU driver hangs (see `dmesg`), so "
            "the box needs a restart; nothing was changed"
        ) from None


def has_gpu(listed: subprocess.CompletedProcess[str]) -> bool:
    """Whether the output of ``--list-devices`` has a GPU."""
    return _LISTED.search(listed.stdout) is not None


def closed_devices(text: str, nodes: Iterable[Path], names: Mapping[int, Collection[str]]) -> list[str]:
    """The device nodes of GPUs that a unit's text does not open, or whose mode keeps the service user out.

    :param nodes: device files
    :param names: major number -> names of its drivers of character devices, as /proc/devices has them
    """
    allowed = {line.partition("=")[2].split()[0] for line in directives(text) if line.startswith("DeviceAllow=")}
    closed = []
    for node in sorted(nodes):
        if not _GPU_NODES.search(node.name) or not node.is_char_device():
            continue
        found = node.stat()
        drivers = [f"char-{name}" for name in names.get(os.major(found.st_rdev), ("unknown",))]
        if allowed.isdisjoint((*drivers, str(node))):
            closed.append(f"{node} ({' or '.join(drivers)} is not in DeviceAllow=)")
        elif found.st_mode & 0o006 != 0o006 and not _ROOT_ONLY.search(node.name):
            closed.append(f"{node} (mode {stat.S_IMODE(found.st_mode):o})")
    return closed


def device_nodes() -> list[Path]:
    """The device files of GPUs on this box, and others beside them."""
    return [
        path
        for top in ("/dev", "/dev/nvidia-caps", "/dev/dri")
        for path in Path(top).glob("*")
        if path.is_char_device()
    ]


def character_drivers(listed: str) -> dict[int, list[str]]:
    """Major number -> names of its drivers of character devices, which may share it: 195 is nvidia and nvidiactl.

    :param listed: text of /proc/devices
    """
    characters = listed.partition("Block devices:")[0]
    drivers: dict[int, list[str]] = {}
    for number, name in re.findall(r"^\s*(\d+) (\S+)$", characters, re.MULTILINE):
        drivers.setdefault(int(number), []).append(name)
    return drivers
