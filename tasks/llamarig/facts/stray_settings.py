"""Settings that affect llama.cpp besides the declared flags, and llama-server processes of any origin."""

from __future__ import annotations

import re
from dataclasses import dataclass

from pyinfra.api.facts import FactBase

from llamarig.facts.output import decode_base64, parse_sections, sections_command, whole_number
from llamarig.remote.shared.gpu_use import DEVICES, FIRST_LINES, NO_GPU, no_gpu_line

# Configuration files that every llama.cpp program reads before its environment and arguments (common/arg.cpp,
# docs/preset.md).
_CONFIG = "/etc/llama.cpp/config.ini /root/.config/llama.cpp/config.ini /home/*/.config/llama.cpp/config.ini"
# Files that set environment variables, of PAM, systemd and the shells bash, zsh and fish (the default of CachyOS).
_ENVIRONMENT = (
    *("/etc/environment", "/etc/environment.d", "/etc/profile", "/etc/profile.d", "/etc/security/pam_env.conf"),
    *("/etc/systemd/system.conf", "/etc/systemd/system.conf.d", "/etc/systemd/system/*.service.d"),
    *("/etc/bash.bashrc", "/etc/bashrc", "/etc/zsh", "/etc/zshenv", "/etc/zshrc", "/etc/zprofile", "/etc/fish"),
)
_OF_A_USER = (
    *(".bashrc", ".profile", ".bash_profile", ".bash_login", ".pam_environment", ".config/environment.d"),
    *(".zshenv", ".zprofile", ".zshrc", ".zlogin", ".config/zsh", ".config/fish"),
)
_NAMES = "(LLAMA_ARG_[A-Z0-9_]+|LLAMA_API_KEY)"
_OPTIONS = "( +-[-a-zA-Z]+)*"
# `NAME=value`; in fish `set -gx NAME value`, and the file of its universal variables.
_SETS = (
    f"^[^#]*(\\b{_NAMES}=|\\bset{_OPTIONS} +-(-export|[a-zA-Z]*x[a-zA-Z]*){_OPTIONS} +{_NAMES}\\b"
    f"|^SETUVAR.* --export {_NAMES}:)"
)


def settings_in_files(root: str = "") -> str:
    """Shell command that prints settings in files as file:name. ``root``: another root directory, for tests."""
    homes = (f"{home}/{name}" for home in ("/root", "/home/*") for name in _OF_A_USER)
    places = " ".join(f"{root}{place}" for place in (*_ENVIRONMENT, *homes))
    # Without FIFOs and devices, also behind links: a user's ~/.bashrc may be one, and reading it would never end.
    return f"grep -rHoE -D skip '{_SETS}' {places} | sed -E 's/:.*(LLAMA_[A-Z0-9_]+)[=:]?$/:\\1/'"


# What a server has logged: that it found no GPU, and the last prompt that its prompt cache was too small for
# (tools/server/server-task.cpp of the pinned commit, a warning that is logged at any verbosity).
_NEWEST = 20_000
_LOGGED = (
    'j="journalctl --quiet --boot --output=cat --no-pager _PID=$p"; '
    f"echo \"no-gpu=$($j | head -n {FIRST_LINES} | grep -aE -m 1 '{NO_GPU}')\"; "
    f"echo \"too-large=$($j -n {_NEWEST} | grep -a 'exceeds cache size limit' | tail -n 1)\"; "
)
_TOO_LARGE = re.compile(r"prompt state size (\d{1,9})\.\d+ MiB exceeds cache size limit (\d{1,9})\.\d+ MiB")

# Names only: a value may be an API key.
_SERVERS = (
    # The program of a running server may have been deleted: "llama-server (deleted)".
    "for p in $(ls -l /proc/[0-9]*/exe "
    "| sed -nE 's#^.* /proc/([0-9]+)/exe -> .*/llama-server( .deleted.)?$#\\1#p'); do "
    'echo "pid=$p"; echo "command=$(base64 -w0 </proc/$p/cmdline)"; '
    "echo \"unit=$(grep -o '[^/]*[.]service' /proc/$p/cgroup | tail -n 1)\"; "
    "echo \"environment=$(tr '\\0' '\\n' </proc/$p/environ "
    "| grep -oE '^(LLAMA_ARG_[A-Z0-9_]*|LLAMA_API_KEY)' | tr '\\n' ' ')\"; "
    f"echo \"devices=$(ls -l /proc/$p/fd | grep -oE '/{DEVICES}$' | sort -u | tr '\\n' ' ')\"; {_LOGGED}"
    "grep -E '^(Vm(Lck|Swap)|RssShmem):' /proc/$p/status; grep '^Max locked memory' /proc/$p/limits; done; "
    "ss -Hltnp | grep '\"llama-server\"'"
)

_NO_ROOT = "only root sees the processes of other users"
_NO_SS = "there is no ss on this box (package iproute2; Fedora: iproute)"


@dataclass(frozen=True)
class ServerProcess:
    """A running llama-server. Memory in KiB; ``listens``: address:port; ``unit``: its systemd unit, if any."""

    pid: int
    command: tuple[str, ...] = ()
    unit: str = ""
    llama_environment: tuple[str, ...] = ()
    listens: tuple[str, ...] = ()
    locked_kib: int = 0
    swapped_kib: int = 0
    devices: tuple[str, ...] | None = None
    """Devices of GPUs that it has open, as the last part of their paths; None where unknown."""
    no_gpu: str = ""
    """The line of its log that says that it found no GPU; empty where none does."""
    state_mib: int = 0
    """The last prompt that its prompt cache of ``cache_mib`` was too small for; 0 for none."""
    cache_mib: int = 0
    shared_kib: int = 0
    """Shared memory, which includes CUDA's pinned buffers."""
    memlock_limit_kib: int | None = None
    """None where unlimited or unknown."""


@dataclass(frozen=True)
class Strays:
    """Settings besides the declared flags, and servers. ``environment``: ``NAME in FILE``."""

    config_files: tuple[str, ...] = ()
    environment: tuple[str, ...] = ()
    servers: tuple[ServerProcess, ...] = ()
    unseen: str = ""
    """Why servers of other users may be missing here; empty where none can be."""
    ports_unseen: str = ""
    """Why the ports of servers may be missing here; empty where none can be."""


class StraySettings(FactBase[Strays]):
    """Configuration files, LLAMA_ARG_ settings and running llama-server processes; commands in base64.

    Output::

        == servers
        pid=39
        command=L29wdC9sbGFtYXJpZy9sbGFtYS5jcHAv...
        unit=llamarig-tiny.service
        environment=
        VmLck:	       0 kB
        VmSwap:	       0 kB
        LISTEN 0      512    127.0.0.1:23980 0.0.0.0:* users:(("llama-server",pid=39,fd=3))

        == user
        0

    The kernel shows program, environment and sockets of a process to its own user and to root only (proc(5): exe,
    environ and fd need ptrace access), so the user id is part of the output.
    """

    @staticmethod
    def default() -> Strays:
        return Strays(unseen="the box has not reported anything", ports_unseen="the box did not say anything")

    def command(self) -> str:
        return sections_command(
            {
                "config": f"ls -d {_CONFIG}",
                "environment": settings_in_files(),
                "servers": _SERVERS,
                "user": "id -u",
                "ss": "command -v ss",
            }
        )

    def process(self, output: list[str]) -> Strays:
        sections = parse_sections(output)
        environment = (re.fullmatch(r"(/.+):(LLAMA_[A-Z0-9_]+)", line) for line in sections["environment"])
        root = sections["user"] == ["0"]
        return Strays(
            config_files=tuple(line for line in sections["config"] if line.startswith("/")),
            environment=tuple(sorted({f"{match[2]} in {match[1]}" for match in environment if match})),
            servers=_servers(sections["servers"]),
            unseen="" if root else _NO_ROOT,
            ports_unseen="" if root and sections["ss"] else _NO_SS if root else _NO_ROOT,
        )


def _servers(lines: list[str]) -> tuple[ServerProcess, ...]:
    found: dict[int, dict[str, str]] = {}
    values: dict[str, str] = {}
    listens: dict[int, list[str]] = {}
    for line in lines:
        if match := re.fullmatch(r"pid=(\d{1,9})", line):
            values = found.setdefault(int(match[1]), {})
        elif line.startswith("LISTEN"):
            words, pids = line.split(), re.findall(r"pid=(\d{1,9})", line)
            if len(words) > 3 and pids:
                listens.setdefault(int(pids[0]), []).append(words[3])
        elif (match := re.fullmatch(r"(command|unit|environment|devices|no-gpu|too-large)=(.*)", line)) or (
            match := re.match(r"(VmLck|VmSwap|RssShmem):\s+(\d{1,15}) kB", line)
        ):
            values[match[1]] = match[2]
        elif match := re.match(r"Max locked memory\s+(\S+)", line):
            values["memlock"] = match[1]
    return tuple(_server(pid, values, listens.get(pid, [])) for pid, values in sorted(found.items()))


def _server(pid: int, values: dict[str, str], listens: list[str]) -> ServerProcess:
    limit = whole_number(values.get("memlock", ""))
    too_large = _TOO_LARGE.search(values.get("too-large", ""))
    return ServerProcess(
        pid=pid,
        command=tuple(decode_base64(values.get("command", "")).removesuffix("\0").split("\0")),
        unit=values.get("unit", ""),
        llama_environment=tuple(values.get("environment", "").split()),
        listens=tuple(listens),
        devices=tuple(values["devices"].replace("/", "").split()) if "devices" in values else None,
        no_gpu=no_gpu_line([values.get("no-gpu", "")]),
        state_mib=int(too_large[1]) if too_large else 0,
        cache_mib=int(too_large[2]) if too_large else 0,
        locked_kib=int(values.get("VmLck", 0)),
        swapped_kib=int(values.get("VmSwap", 0)),
        shared_kib=int(values.get("RssShmem", 0)),
        memlock_limit_kib=None if limit is None else limit // 1024,
    )
