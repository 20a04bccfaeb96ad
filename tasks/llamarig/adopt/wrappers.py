"""The programs that a llama-server is started through: exec, env, taskset, numactl, sudo, docker run, sh -c."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath
from typing import Any

from llamarig.adopt.container import container_settings
from llamarig.adopt.cpu_list import cpus_of_list, cpus_of_mask
from llamarig.adopt.launch import LLAMA_CPP_PYTHON, LLAMA_SERVER, Launch, Note, Port
from llamarig.adopt.shell_words import Command

_MOST_WRAPPERS = 20

_VALUED: Mapping[str, frozenset[str]] = {
    "env": frozenset({"-u", "--unset", "-C", "--chdir", "-S"}),
    "nice": frozenset({"-n", "--adjustment"}),
    "ionice": frozenset({"-c", "--class", "-n", "--classdata"}),
    "chrt": frozenset({"-p", "--pid", "-T", "-P", "-D"}),
    "timeout": frozenset({"-s", "--signal", "-k", "--kill-after"}),
    "stdbuf": frozenset({"-i", "-o", "-e"}),
    "sudo": frozenset({"-u", "--user", "-g", "--group", "-C", "-h", "-p", "-D"}),
    "doas": frozenset({"-u", "-C"}),
    "runuser": frozenset({"-u", "--user", "-g", "--group"}),
    "systemd-run": frozenset({"-p", "--property", "-E", "--setenv", "--unit", "-u", "--slice", "-M", "--description"}),
    "systemd-inhibit": frozenset(),
    "numactl": frozenset({"-N", "-C", "-m", "-i", "-p"}),
    "taskset": frozenset(),
    "screen": frozenset({"-S", "-dmS", "-dS", "-AdmS", "-L", "-Logfile", "-c"}),
    "tmux": frozenset({"-s", "-n", "-c", "-t"}),
    "cpulimit": frozenset({"-l", "--limit"}),
    "catchsegv": frozenset(),
    **dict.fromkeys(("exec", "nohup", "command", "builtin", "setsid", "time", "unbuffer", "caffeinate"), frozenset()),
    **dict.fromkeys(("tini", "dumb-init", "catatonit", "start", "cmd", "nsys", "strace", "gdb"), frozenset()),
}
"""Wrapper -> its options that take a value as the next word."""
_SHELLS = frozenset({"sh", "bash", "dash", "zsh", "ash", "fish"})
_CONTAINERS = frozenset({"docker", "podman", "nerdctl"})
_SERVER = re.compile(r"llama[-_]server([-_.][\w.-]+)?")
_OLD_SERVER = re.compile(r"server(\.exe)?|llama_server")
_OTHERS = {
    "koboldcpp": "koboldcpp",
    "ollama": "Ollama",
    "vllm": "vLLM",
    "llama-cli": "llama-cli, which serves nothing",
    "main": "llama.cpp's former `main`, which serves nothing",
    "llama-swap": "llama-swap: adopt its configuration file, which names the models",
    "lms": "LM Studio",
    "tabbyapi": "TabbyAPI",
    "sglang": "SGLang",
    "whisper-server": "whisper.cpp's server",
    "text-generation-launcher": "text-generation-inference",
}


@dataclass
class _State:
    """What the wrappers have set so far."""

    words: list[str]
    environment: dict[str, str] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    mounts: dict[str, str] = field(default_factory=dict)
    ports: tuple[Port, ...] | None = None
    notes: list[Note] = field(default_factory=list)

    def drop_options(self, wrapper: str) -> list[tuple[str, str]]:
        """Take the wrapper and its options away; return the options with their values."""
        self.words.pop(0)
        options: list[tuple[str, str]] = []
        while self.words and self.words[0].startswith("-") and len(self.words[0]) > 1:
            option = self.words.pop(0)
            if option == "--":
                break
            name, equals, value = option.partition("=")
            if not equals and option in _VALUED[wrapper] and self.words:
                value = self.words.pop(0)
            options.append((name, value))
        return options


def launch_of(command: Command, scripts: Callable[[str], list[Command]]) -> list[Launch | Note]:
    """The launches of one command, or a note on what is started in place of llama-server; empty for any other command.

    :param scripts: parses the text of `sh -c`
    """
    ours = {**command.exported, **command.assignments}
    state = _State([*command.words], dict(ours))
    for _ in range(_MOST_WRAPPERS):
        if not state.words:
            return []
        name = _program(state.words[0])
        if name in _SHELLS and (script := _inline_script(state.words)):
            return [
                _outside(launch, state) if isinstance(launch, Launch) else launch
                for inner in scripts(script)
                for launch in launch_of(inner, scripts)
            ]
        if name in _CONTAINERS and "run" in state.words[1:3]:
            _container(state)
        elif name in _VALUED:
            _unwrap(state, name)
        else:
            break
    return _launch(command, state)


def _launch(command: Command, state: _State) -> list[Launch | Note]:
    words = state.words
    if not words:
        return []
    program, old = _server(words)
    if program is None:
        other = next((text for name, text in _OTHERS.items() if _is_other(words, name)), "")
        return [Note(PurePosixPath(words[0]).name, f"is {other}, not llama-server")] if other else []
    if unknown := [text for text in command.unknown if any(text in word for word in words)]:
        state.notes.append(
            Note(", ".join(unknown), "only the shell knows the value: write it out, or correct the declaration")
        )
    if "$@" in command.unknown:
        state.notes.append(Note('"$@"', "the script's own arguments are not in it"))
    if "ik_llama" in words[0]:
        state.notes.append(Note(words[0], "ik_llama.cpp has flags of its own, which the pinned llama.cpp lacks"))
    first = 3 if program == LLAMA_CPP_PYTHON else 2 if words[1:2] and words[1] in ("serve", "server") else 1
    return [
        Launch(
            words=tuple(words[first:]),
            program=program,
            environment=state.environment,
            where=f"line {command.line}",
            old=old,
            settings=state.settings,
            mounts=state.mounts,
            ports=state.ports,
            notes=tuple(state.notes),
        )
    ]


def _outside(launch: Launch, state: _State) -> Launch:
    """A launch within `sh -c`, with what is set outside of it."""
    return replace(
        launch,
        environment={**state.environment, **launch.environment},
        settings={**state.settings, **launch.settings},
        mounts={**state.mounts, **launch.mounts},
        ports=launch.ports if state.ports is None else state.ports,
        notes=(*state.notes, *launch.notes),
    )


def _program(word: str) -> str:
    return re.split(r"[\\/]", word)[-1].lower().removesuffix(".exe")


def _server(words: list[str]) -> tuple[str | None, bool]:
    """Which server the words start, and whether it is one of 2023 or 2024; None if none."""
    name = _program(words[0])
    rest = words[1:]
    if _SERVER.fullmatch(name) or (name == "llama" and rest[:1] and rest[0] in ("serve", "server")):
        return LLAMA_SERVER, False
    if re.fullmatch(r"python[\d.]*", name) and rest[:2] == ["-m", "llama_cpp.server"]:
        return LLAMA_CPP_PYTHON, True
    if _OLD_SERVER.fullmatch(name) and any(word in ("-m", "--model", "-hf", "--hf-repo", "-mu") for word in rest):
        return LLAMA_SERVER, True
    if (name.endswith(".llamafile") or name == "llamafile") and "--server" in rest:
        return LLAMA_SERVER, False
    return None, False


def _is_other(words: list[str], name: str) -> bool:
    program = _program(words[0])
    if program.startswith("python"):
        return any(_program(word).removesuffix(".py") == name for word in words[1:3])
    if name == "main":
        return program == name and "-m" in words
    return program == name or program.startswith((f"{name}-", f"{name}_", f"{name}."))


def _inline_script(words: list[str]) -> str:
    """The text behind `sh -c`; empty where there is none."""
    for at, word in enumerate(words[1:-1], 1):
        if re.fullmatch(r"-[a-z]*c", word):
            return words[at + 1]
        if not word.startswith("-"):
            return ""
    return ""


def _unwrap(state: _State, name: str) -> None:
    rest = state.words[1:]
    if name == "nice" and rest[:1] and re.fullmatch(r"-\d+", rest[0]):
        state.words.pop(1)
    options = state.drop_options(name)
    if name in ("env", "systemd-run"):
        for option, value in options:
            if option in ("-E", "--setenv") and "=" in value:
                variable, _, text = value.partition("=")
                state.environment[variable] = text
            elif option in ("-u", "--unset") and name == "env":
                state.environment.pop(value, None)
            elif option in ("-p", "--property"):
                state.notes.append(Note(f"{option} {value}", "a property of systemd-run, dropped"))
        while state.words and (found := re.fullmatch(r"([A-Za-z_]\w*)=(.*)", state.words[0], re.DOTALL)):
            state.environment[found[1]] = found[2]
            state.words.pop(0)
    elif name == "taskset":
        _taskset(state, [option for option, _ in options])
    elif name == "numactl":
        _numactl(state, options)
    elif name in ("nice", "ionice", "chrt", "cpulimit"):
        if name == "chrt" and state.words:
            state.words.pop(0)  # the priority
        state.notes.append(
            Note(name, "dropped: of scheduling, a declaration has serve.priority and serve.cpu_affinity")
        )
    elif name == "timeout" and state.words:
        state.words.pop(0)
        state.notes.append(Note(name, "dropped: a declared model runs until it is stopped"))
    elif name in ("sudo", "doas", "runuser"):
        while state.words and (found := re.fullmatch(r"([A-Za-z_]\w*)=(.*)", state.words[0], re.DOTALL)):
            state.environment[found[1]] = found[2]
            state.words.pop(0)
    elif name == "tmux" and state.words:
        state.words.pop(0)
        options_of_tmux = [word for word in state.words if not word.startswith("-")]
        if options_of_tmux and " " in options_of_tmux[-1]:
            state.words = ["sh", "-c", options_of_tmux[-1]]
    elif name in ("start", "cmd") and state.words and state.words[0].startswith("/"):
        while state.words and re.fullmatch(r"/\w+", state.words[0]):
            state.words.pop(0)


def _taskset(state: _State, options: list[str]) -> None:
    if not state.words:
        return
    text = state.words.pop(0)
    is_list = any(re.fullmatch(r"-[a-z]*c|--cpu-list", option) for option in options)
    cpus = cpus_of_list(text) if is_list else cpus_of_mask(text)
    if cpus is None:
        state.notes.append(Note(f"taskset {text}", "not understood: declare serve.cpu_affinity, as 0-11"))
    else:
        state.settings["cpu_affinity"] = cpus


def _numactl(state: _State, options: list[tuple[str, str]]) -> None:
    for option, value in options:
        if option in ("-C", "--physcpubind") and (cpus := cpus_of_list(value)) is not None:
            state.settings["cpu_affinity"] = cpus
        else:
            text = f"numactl {option}{f'={value}' if value else ''}"
            state.notes.append(
                Note(text, 'no field: for NUMA llama-server has --numa, as serve.extra = ("--numa", "distribute")')
            )


def _container(state: _State) -> None:
    """What `docker run` sets; the words become those of the container."""
    found = container_settings(state.words)
    state.words = found.words
    state.environment = found.environment
    state.settings |= found.settings
    state.mounts |= found.mounts
    state.ports = None if found.uses_network_of_host else tuple(found.ports)
    state.notes += found.notes
