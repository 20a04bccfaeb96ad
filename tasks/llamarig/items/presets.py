"""The models of one build as a preset file for llama-server's router mode."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

from pyinfra.operations import files

from llamarig.declare.rig import Rig
from llamarig.engine.control_machine import ControlMachine
from llamarig.engine.item import Commands, Difference, Item, Query, Seen, query
from llamarig.engine.upload import upload
from llamarig.facts.files import Sha256Sums
from llamarig.facts.releases import Release
from llamarig.facts.units import Units
from llamarig.items.model_headers import header_queries, served_files
from llamarig.items.model_lock import LockedModels
from llamarig.items.placements import PlanError, chosen_load_modes, placement_queries
from llamarig.items.plans import ValidPlans
from llamarig.items.releases import WholeReleases, release_queries, releases_of
from llamarig.items.wanted_unit import health_addresses
from llamarig.placement.pinned_weights import with_load_mode
from llamarig.render import layout
from llamarig.render.build_flags import FlagRefusedError
from llamarig.render.llama_swap import llama_swap_text
from llamarig.render.presets import PresetError, preset_text
from llamarig.render.release import release_path
from llamarig.render.server_arguments import server_arguments

_LLAMA_SWAP = f"{layout.PRESETS}/llama-swap.yaml"


class ModelPresets(Item):
    """The declared preset file has the models with the same flags as their units."""

    name = "Model presets"
    needs = (LockedModels, WholeReleases, ValidPlans)

    def queries(self, rig: Rig, here: ControlMachine) -> Iterable[Query[Any]]:
        """Nothing where no presets are declared."""
        if rig.presets is not None and here.locked is not None:
            yield query(Sha256Sums, paths=[preset_path(rig.presets)])
            yield query(Units, health=health_addresses(rig))
            yield from release_queries(rig)
            yield from header_queries(rig, here)
            yield from placement_queries(rig)

    def differences(self, rig: Rig, seen: Seen) -> list[Difference]:
        """At most one, if the file's sha256 differs."""
        if rig.presets is None or seen.here.locked is None:
            return []
        path = preset_path(rig.presets)
        try:
            text = _text(rig, seen)
        except (PresetError, PlanError, FlagRefusedError) as error:
            return [Difference.refusal_of(path, "the models of the build", str(error))]
        if seen.get(Sha256Sums, paths=[path]).get(path) == hashlib.sha256(text.encode()).hexdigest():
            return []
        return [Difference(path, "the models with the flags of their units", "missing or different")]

    def fix(self, rig: Rig, seen: Seen, differences: list[Difference]) -> Commands:
        """Write the file."""
        if rig.presets is not None:
            yield from files.directory._inner(path=layout.PRESETS, user="root", group="root", mode="755")
            yield upload(_text(rig, seen), preset_path(rig.presets))


class LlamaSwapConfig(Item):
    """The declared configuration of llama-swap has the declared models."""

    name = "Configuration of llama-swap"

    def queries(self, rig: Rig, here: ControlMachine) -> Iterable[Query[Any]]:
        """Nothing where none is declared."""
        if rig.llama_swap:
            yield query(Sha256Sums, paths=[_LLAMA_SWAP])

    def differences(self, rig: Rig, seen: Seen) -> list[Difference]:
        """At most one, if the file's sha256 differs."""
        if not rig.llama_swap:
            return []
        digest = hashlib.sha256(llama_swap_text(rig).encode()).hexdigest()
        if seen.get(Sha256Sums, paths=[_LLAMA_SWAP]).get(_LLAMA_SWAP) == digest:
            return []
        return [Difference(_LLAMA_SWAP, "the declared models", "missing or different")]

    def fix(self, rig: Rig, seen: Seen, differences: list[Difference]) -> Commands:
        """Write the file."""
        yield from files.directory._inner(path=layout.PRESETS, user="root", group="root", mode="755")
        yield upload(llama_swap_text(rig), _LLAMA_SWAP)


def preset_path(build: str) -> str:
    """Path of the preset file of a build."""
    return f"{layout.PRESETS}/{build}.ini"


def _text(rig: Rig, seen: Seen) -> str:
    """The content of the preset file.

    :raises PresetError: if a preset cannot express a model
    :raises PlanError: if the plan file cannot be read
    :raises FlagRefusedError: if the build refuses a declared flag
    """
    locked, releases = seen.here.locked or (), releases_of(rig, seen)
    build = next(build for build in rig.builds if build.name == rig.presets)
    release = releases.get(release_path(build, rig.models), Release())
    units = seen.get(Units, health=health_addresses(rig))
    modes, _ = chosen_load_modes(rig, seen, releases, locked, units)
    served = [with_load_mode(rig, model, modes[model.name].mode) for model in rig.models]
    return preset_text(
        [
            (model, server_arguments(model, served_files(rig, seen, model, lock), release.flags))
            for model, lock in zip(served, locked, strict=True)
            if model.build == build.name
        ],
        rig.default_model.name,
    )
