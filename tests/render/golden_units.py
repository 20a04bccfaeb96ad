"""The unit of every profile; `python3 -m tests.render.golden_units` writes the golden files.

A difference changes what runs on users' boxes, so review it before committing.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path

from llamarig.declare.model import Model
from llamarig.declare.placement import Fit
from llamarig.declare.rig import Rig
from llamarig.items.wanted_unit import Wanted, wanted_unit
from llamarig.placement.box_capacity import BoxCapacity
from llamarig.placement.pinned_weights import load_modes, with_load_mode
from llamarig.render import layout
from llamarig.render.release import release_path
from llamarig.render.server_arguments import ModelFiles

from tests.placement.profile_memory import PROFILES, RAM

HERE = Path(__file__).parent
GOLDEN = HERE / "golden"
GROUPS = ("rtx4090_rtx5070ti", "rtx4070", "rtx_16gb", "rx7900xt")
OPTIONS = [
    line.split() for line in (HERE / "data/flags-0c1e570.txt").read_text().splitlines() if not line.startswith("#")
]
PINNED = frozenset(flag for spellings in OPTIONS for flag in spellings)
"""The flags of the pinned commit."""
REVISION = "0123456789abcdef0123456789abcdef01234567"
"""Stands for the commit in the model lock."""
FIRST_SHARD = {"UD-Q6_K_XL": "-00001-of-00003", "UD-Q5_K_XL": "-00001-of-00003"}
GIB = 1 << 30
SIZES = {
    "qwen3-coder": 64 * GIB,
    "qwen3-coder-q5": 53 * GIB,
    "qwen3-coder-q5-fit": 53 * GIB,
    "gpt-oss-120b": 61 * GIB,
    "qwen3-coder-mxfp4": 41 * GIB,
    "qwen35-a3b": 19 * GIB,
    "qwen35-a3b-q8": 35 * GIB,
    "qwen3-coder-ud-q4": 43 * GIB,
}
"""About the sizes of the owners' files, for start timeouts."""


def rigs() -> dict[str, Rig]:
    """Group -> its declaration."""
    return {group: Rig.model_validate(importlib.import_module(f"group_data.{group}").rig) for group in GROUPS}


def files_of(model: Model) -> ModelFiles:
    """Paths as in the model lock."""
    directory = layout.model_directory(model.repo, REVISION)
    stem = model.repo.rpartition("/")[2].removesuffix("-GGUF")
    if model.files:
        first = model.files[0]
    else:
        shard = FIRST_SHARD.get(model.quant or "", "")
        first = f"{f'{model.quant}/' if shard else ''}{stem}-{model.quant}{shard}.gguf"
    return ModelFiles(f"{directory}/{first}", mmproj=f"{directory}/{model.mmproj}" if model.mmproj else None)


def served(group: str, rig: Rig) -> Iterator[Model]:
    """The models of a group with the load modes of a box with 64 GB of RAM, by the dry runs in profile_memory.py."""
    profiles = PROFILES[group].models if group in PROFILES else {}
    memory = {
        model.name: profiles[model.name].memory(fitted=isinstance(model.serve.placement, Fit))
        for model in rig.models
        if model.name in profiles
    }
    chosen = load_modes(rig, memory, BoxCapacity(ram=RAM))
    return (with_load_mode(rig, model, chosen[model.name].mode) for model in rig.models)


def units() -> Iterator[tuple[str, Wanted]]:
    """``group-model`` and its unit, for every profile."""
    for group, rig in rigs().items():
        for model in served(group, rig):
            yield (
                f"{group}-{model.name}",
                wanted_unit(
                    rig,
                    model,
                    release=release_path(rig.build_of(model), rig.models),
                    flags=PINNED,
                    files=files_of(model),
                    inputs="",
                    model_bytes=SIZES[model.name],
                    running=True,
                ),
            )


def main() -> None:
    """Write every golden file again."""
    for path in GOLDEN.glob("*.service"):
        path.unlink()
    for name, wanted in units():
        (GOLDEN / f"{name}.service").write_text(wanted.text)


if __name__ == "__main__":
    main()
