"""The llama-servers that run on a box, of any origin, as they were started."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from pyinfra.api.facts import FactBase

from llamarig.facts.output import decode_base64, parse_blocks

HIDDEN = "..."
"""What stands in place of a secret, which never leaves the box."""
_SECRET_FLAGS = "--api-key|-hft|--hf-token"
_READ = "GGML|LLAMA|CUDA|HIP|ROCR?|HSA|AMD|RADV|MESA|VK|ROCBLAS|HIPBLASLT|MIOPEN|OMP|GOMP|KMP|MTMD|GPU"
"""Beginnings of the names of variables that llama.cpp, its backends and their libraries read."""
_PROGRAMS = r"llama-server[^/]*|llama|server|python[0-9.]*|[^/]*[.]llamafile"
_SECRET = "^[^=]*(KEY|TOKEN|SECRET|PASS)"
_FIND = f"ls -l /proc/[0-9]*/exe | sed -nE 's#^.* /proc/([0-9]+)/exe -> .*/({_PROGRAMS})( .deleted.)?$#\\1#p'"
_HIDE = f"/^({_SECRET_FLAGS})$/{{n;s/.*/{HIDDEN}/}};s/^({_SECRET_FLAGS})=.*/\\1={HIDDEN}/"
_COMMAND = (
    f"for p in $({_FIND}); do "
    "case $(tr '\\0' ' ' </proc/$p/cmdline) in *llama*|*.gguf*) ;; *) continue;; esac; "
    f'echo "pid=$p"; echo "command=$(sed -zE \'{_HIDE}\' /proc/$p/cmdline | base64 -w0)"; '
    f"echo \"environment=$(grep -zE '^({_READ})_' /proc/$p/environ | grep -zviE '{_SECRET}' | base64 -w0)\"; "
    f"echo \"secrets=$(grep -zoiE '{_SECRET}[^=]*' /proc/$p/environ | tr '\\0' ' ')\"; "
    "echo \"unit=$(grep -o '[^/]*[.]service' /proc/$p/cgroup | tail -n 1)\"; "
    "echo \"container=$(grep -oE 'docker|podman|libpod|lxc|machine-[^/]*' /proc/$p/cgroup | head -n 1)\"; "
    'echo "directory=$(readlink /proc/$p/cwd)"; '
    "sed -n 's/^Cpus_allowed_list:[[:space:]]*/cpus=/p' /proc/$p/status; "
    'echo "online=$(cat /sys/devices/system/cpu/online)"; done 2>/dev/null; true'
)


@dataclass(frozen=True)
class ServerStart:
    """How a server was started.

    ``command``: program and arguments; ``environment``: variables that llama.cpp and its libraries read, those of
    secrets with HIDDEN as value; ``unit``: of systemd; ``container``: kind of the container that it runs in; ``cpus``:
    those it may use, where these are not all.
    """

    pid: int
    command: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    unit: str = ""
    container: str = ""
    directory: str = ""
    cpus: str = ""


class ServerStarts(FactBase[tuple[ServerStart, ...]]):
    """Processes that may be a llama-server, by their programs' names and words. Commands and variables are in base64.

    Output::

        pid=39
        command=L29wdC9sbGFtYXJpZy9sbGFtYS5jcHAv...
        unit=llamarig-tiny.service
        directory=/
    """

    default = tuple

    def command(self) -> str:
        return _COMMAND

    def process(self, output: list[str]) -> tuple[ServerStart, ...]:
        blocks = parse_blocks(output, "pid")
        return tuple(_start(int(pid), values) for pid, values in blocks.items() if re.fullmatch(r"[0-9]{1,9}", pid))


def _start(pid: int, values: Mapping[str, str]) -> ServerStart:
    variables = decode_base64(values.get("environment", "")).split("\0")
    environment = dict(variable.partition("=")[::2] for variable in variables if "=" in variable)
    cpus = values.get("cpus", "")
    return ServerStart(
        pid=pid,
        command=tuple(decode_base64(values.get("command", "")).removesuffix("\0").split("\0")),
        environment={**environment, **dict.fromkeys(values.get("secrets", "").split(), HIDDEN)},
        unit=values.get("unit", ""),
        container=values.get("container", ""),
        directory=values.get("directory", ""),
        cpus="" if cpus == values.get("online") else cpus,
    )
