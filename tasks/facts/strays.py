"""What reaches llama.cpp behind the declared flags, and which servers run beside the declared ones."""

from __future__ import annotations

import re

from pyinfra.api.facts import FactBase
from typing_extensions import override

from tasks.facts.numbers import whole
from tasks.facts.sections import answers, ask, decoded
from tasks.planning.checks.box import ServerProcess, Strays

# Every llama.cpp program reads these before its environment and its arguments (common/arg.cpp, docs/preset.md).
_CONFIG = "/etc/llama.cpp/config.ini /root/.config/llama.cpp/config.ini /home/*/.config/llama.cpp/config.ini"
# Of everything that starts programs, and of every user's shell: bash, zsh, and fish, which is CachyOS's.
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
# `NAME=value` everywhere; fish's `set -gx NAME value`, and its file of universal variables.
_SETS = (
    f"^[^#]*(\\b{_NAMES}=|\\bset{_OPTIONS} +-(-export|[a-zA-Z]*x[a-zA-Z]*){_OPTIONS} +{_NAMES}\\b"
    f"|^SETUVAR.* --export {_NAMES}:)"
)


def settings_in_files(root: str = "") -> str:
    """The shell command that prints them as file:name. ``root``: another one than the box's own, for tests."""
    homes = (f"{home}/{name}" for home in ("/root", "/home/*") for name in _OF_A_USER)
    places = " ".join(f"{root}{place}" for place in (*_ENVIRONMENT, *homes))
    return f"grep -rHoE '{_SETS}' {places} | sed -E 's/:.*(LLAMA_[A-Z0-9_]+)[=:]?$/:\\1/'"


# Values are left on the box: an API key may be among them.
_SERVERS = (
    # A release that was deleted under a running server is shown as "llama-server (deleted)".
    "for p in $(ls -l /proc/[0-9]*/exe "
    "| sed -nE 's#^.* /proc/([0-9]+)/exe -> .*/llama-server( .deleted.)?$#\\1#p'); do "
    'echo "pid=$p"; echo "command=$(base64 -w0 </proc/$p/cmdline)"; '
    "echo \"unit=$(grep -o '[^/]*[.]service' /proc/$p/cgroup | tail -n 1)\"; "
    "echo \"environment=$(tr '\\0' '\\n' </proc/$p/environ "
    "| grep -oE '^(LLAMA_ARG_[A-Z0-9_]*|LLAMA_API_KEY)' | tr '\\n' ' ')\"; "
    "grep -E '^(Vm(Lck|Swap)|RssShmem):' /proc/$p/status; grep '^Max locked memory' /proc/$p/limits; done; "
    "ss -Hltnp | grep '\"llama-server\"'"
)

_NO_ROOT = "only root sees the processes of other users"
_NO_SS = "there is no ss on this box (package iproute2; Fedora: iproute)"


class LlamaStrays(FactBase[Strays]):
    """Configuration files, LLAMA_ARG_ settings and running llama-servers.

    The kernel shows a process's program, environment and sockets to its own user and to root (proc(5): /proc/pid/exe,
    environ and fd ask for ptrace access). So who asks is part of the answer.
    """

    @staticmethod
    @override
    def default() -> Strays:
        return Strays(unseen="the box did not say anything", ports_unseen="the box did not say anything")

    @override
    def command(self) -> str:
        return ask(
            [
                ("config", f"ls -d {_CONFIG}"),
                ("environment", settings_in_files()),
                ("servers", _SERVERS),
                ("user", "id -u"),
                ("ss", "command -v ss"),
            ]
        )

    @override
    def process(self, output: list[str]) -> Strays:
        said = answers(output)
        environment = (re.fullmatch(r"(/.+):(LLAMA_[A-Z0-9_]+)", line) for line in said.get("environment", []))
        root = said.get("user") == ["0"]
        return Strays(
            config_files=tuple(line for line in said.get("config", []) if line.startswith("/")),
            environment=tuple(sorted({f"{match[2]} in {match[1]}" for match in environment if match})),
            servers=_servers(said.get("servers", [])),
            unseen="" if root else _NO_ROOT,
            ports_unseen="" if root and said.get("ss") else _NO_SS if root else _NO_ROOT,
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
        elif (match := re.fullmatch(r"(command|unit|environment)=(.*)", line)) or (
            match := re.match(r"(VmLck|VmSwap|RssShmem):\s+(\d{1,15}) kB", line)
        ):
            values[match[1]] = match[2]
        elif match := re.match(r"Max locked memory\s+(\S+)", line):
            values["memlock"] = match[1]
    return tuple(_server(pid, values, listens.get(pid, [])) for pid, values in sorted(found.items()))


def _server(pid: int, values: dict[str, str], listens: list[str]) -> ServerProcess:
    limit = whole(values.get("memlock", ""))
    return ServerProcess(
        pid=pid,
        command=tuple(decoded(values.get("command", "")).removesuffix("\0").split("\0")),
        unit=values.get("unit", ""),
        llama_environment=tuple(values.get("environment", "").split()),
        listens=tuple(listens),
        locked_kib=int(values.get("VmLck", 0)),
        swapped_kib=int(values.get("VmSwap", 0)),
        shared_kib=int(values.get("RssShmem", 0)),
        memlock_limit_kib=None if limit is None else limit // 1024,
    )
