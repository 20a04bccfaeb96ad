"""One start of llama-server as somebody's script, unit or container has it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

LLAMA_SERVER = "llama-server"
LLAMA_CPP_PYTHON = "llama-cpp-python"
"""Programs whose flags are understood: llama.cpp's own server, and `python -m llama_cpp.server`."""


@dataclass(frozen=True)
class Note:
    """What became of one part of the input. ``about``: that part as it was written, without any secret."""

    about: str
    text: str

    def __str__(self) -> str:
        return f"{self.about}: {self.text}"


@dataclass(frozen=True)
class Port:
    """A port of a container, and the address and port of the host that it is published on."""

    inside: int
    host: str
    port: int


@dataclass(frozen=True)
class Launch:
    """The command, and what its surroundings set.

    :param words: arguments without the program
    :param program: LLAMA_SERVER or LLAMA_CPP_PYTHON
    :param where: place in the input: "line 3", "service chat"
    :param name: how the input calls the model; empty where it does not
    :param old: whether the program is one of 2023 or 2024, whose defaults were others
    :param settings: fields of serve that the surroundings set: cpu_affinity, memory_max_mib, load_timeout_s, coexists
    :param mounts: directory in a container -> directory of the host
    :param ports: that a container with a network of its own publishes; None for anything else
    :param notes: of the surroundings
    """

    words: tuple[str, ...]
    program: str = LLAMA_SERVER
    environment: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    where: str = ""
    name: str = ""
    old: bool = False
    settings: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    mounts: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    ports: tuple[Port, ...] | None = None
    notes: tuple[Note, ...] = ()


@dataclass(frozen=True)
class Found:
    """All launches of an input, and notes about the input as a whole. ``default``: name of the one started first."""

    launches: tuple[Launch, ...] = ()
    notes: tuple[Note, ...] = ()
    default: str = ""


def joined(parts: Iterable[Found]) -> Found:
    """All launches and notes of several parts of an input."""
    parts = list(parts)
    return Found(
        tuple(launch for part in parts for launch in part.launches),
        tuple(note for part in parts for note in part.notes),
        next((part.default for part in parts if part.default), ""),
    )
