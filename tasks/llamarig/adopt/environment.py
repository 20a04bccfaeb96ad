"""Environment variables of a llama-server that are no flags: what of them a declaration needs."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from llamarig.adopt.launch import Note
from llamarig.adopt.older_flags import OLDER_VARIABLES
from llamarig.adopt.pinned_flags import PINNED_ENVIRONMENT
from llamarig.declare.secrets import is_secret
from llamarig.declare.serve.weights import GPU_UUID
from llamarig.declare.unit_syntax import unit_syntax_error
from llamarig.lints.declaration import IGNORED_VARIABLES

_READ = re.compile(
    r"(GGML|LLAMA|CUDA|HIP|ROCR?|HSA|AMD|RADV|MESA|VK|ROCBLAS|HIPBLASLT|MIOPEN|OMP|GOMP|KMP|MTMD)_\w+|GPU_MAX_\w+"
)
"""Variables that llama.cpp, its backends and their libraries read."""
_OF_THE_UNIT = re.compile(r"LD_LIBRARY_PATH|LD_PRELOAD|PATH|HOME|XDG_\w+|NVIDIA_\w+|CUDA_(HOME|PATH)")


@dataclass
class Environment:
    """``variables``: serve.environment; ``gpus``: serve.gpus; ``cards``: numbers of CUDA_VISIBLE_DEVICES."""

    variables: dict[str, str] = field(default_factory=dict)
    gpus: tuple[str, ...] = ()
    cards: tuple[int, ...] = ()
    without_gpu: bool = False
    notes: list[Note] = field(default_factory=list)


def environment_of(given: Mapping[str, str], cards: Sequence[str] = ()) -> Environment:
    """What a declaration needs of the variables.

    :param cards: UUIDs of the box's NVIDIA cards in the order of their slots, where they are known
    """
    found = Environment()
    others: list[str] = []
    for name, value in given.items():
        flag = name in PINNED_ENVIRONMENT or name.replace("LLAMA_ARG_NO_", "LLAMA_ARG_") in PINNED_ENVIRONMENT
        if flag or name in OLDER_VARIABLES:
            continue  # read as flags
        if name == "CUDA_VISIBLE_DEVICES":
            _visible(found, value, cards, by_slot=given.get("CUDA_DEVICE_ORDER") == "PCI_BUS_ID")
        elif name == "CUDA_DEVICE_ORDER" and value == "PCI_BUS_ID":
            found.notes.append(Note(f"{name}={value}", "the default of a declared model's unit, dropped"))
        elif name.startswith("LLAMA_ARG_"):
            found.notes.append(Note(f"{name}={value}", "dropped: no llama-server reads it"))
        elif name in IGNORED_VARIABLES:
            found.notes.append(Note(f"{name}={value}", f"dropped: it {IGNORED_VARIABLES[name]}"))
        elif is_secret(name, value):
            found.notes.append(Note(name, "dropped, and not shown: it looks like a secret, which no server needs"))
        elif _OF_THE_UNIT.fullmatch(name):
            found.notes.append(
                Note(name, "dropped: a release finds its own libraries, and the unit has a home of its own")
            )
        elif _READ.fullmatch(name) and unit_syntax_error(value, assignment=True) is None:
            found.variables[name] = value
        else:
            others.append(name)
    if others:
        found.notes.append(Note(", ".join(others), "dropped: llama.cpp does not read it"))
    return found


def _visible(found: Environment, value: str, cards: Sequence[str], *, by_slot: bool) -> None:
    about = f"CUDA_VISIBLE_DEVICES={value}"
    names = [name.strip() for name in value.split(",") if name.strip()]
    if names and all(GPU_UUID.fullmatch(name) for name in names):
        found.gpus = tuple(names)
    elif names in ([], ["-1"]):
        found.without_gpu = True
        found.notes.append(Note(about, "no GPU is seen: cpu_only()"))
    elif all(name.isdecimal() for name in names):
        found.cards = tuple(int(name) for name in names)
        known = all(number < len(cards) for number in found.cards)
        if cards and known and (by_slot or len(set(cards)) == len(found.cards)):
            found.gpus = tuple(cards[number] for number in found.cards)
            found.notes.append(Note(about, "serve.gpus: the UUIDs of these cards, which stay with them"))
        else:
            found.notes.append(
                Note(
                    about,
                    "a number may be another card after a change of slots: declare serve.gpus with the UUIDs of "
                    f"{'this card' if len(names) == 1 else 'these cards'}, as `nvidia-smi -L` prints them",
                )
            )
    else:
        found.notes.append(Note(about, "not understood: declare serve.gpus with UUIDs as `nvidia-smi -L` prints them"))
