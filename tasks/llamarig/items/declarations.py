"""Refuse declarations that cannot work on this box, and warn of those that are probably a mistake."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from llamarig.declare.rig import Rig
from llamarig.engine.control_machine import ControlMachine
from llamarig.engine.item import Difference, Item, Query, Seen, Severity, query
from llamarig.facts.capacity import Capacity
from llamarig.facts.gpus import Gpus
from llamarig.facts.model_headers import ModelHeaders
from llamarig.facts.model_store import ModelStore
from llamarig.facts.units import Units
from llamarig.items.download_job import missing_files
from llamarig.items.model_files import FetchedModels
from llamarig.items.placements import PlanError, chosen_load_modes
from llamarig.items.releases import WholeReleases, release_queries, releases_of
from llamarig.items.wanted_unit import health_addresses
from llamarig.lints.lint import Lint
from llamarig.lints.lint_model import coverage_report, lint_model, needs_header, without_accepted
from llamarig.lints.memory import needs_vram, weights_in_ram
from llamarig.lints.pinned_weights import memory_max_lints, pinned_lints
from llamarig.remote.shared.gguf_header import Header, combined_header
from llamarig.render.model_paths import target


class WorkableDeclarations(Item):
    """No model is declared in a way that cannot work on this box.

    Rules that need a model's header are applied where its files are on the box and as locked, those that need its size
    where it is locked, and all others always: before anything is downloaded or built.
    """

    name = "Declarations"
    check = "llama.declarations"
    severity = Severity.ERROR

    def queries(self, rig: Rig, here: ControlMachine) -> Iterable[Query[Any]]:
        """The box's capacity, its model files, and the headers of the models with rules that need them."""
        yield query(Capacity)
        if any(needs_vram(model) for model in rig.models):
            yield query(Gpus)
        if paths := _shards(rig, here):
            yield query(ModelStore)
            yield query(ModelHeaders, paths=sorted({shard for shards in paths.values() for shard in shards}))

    def differences(self, rig: Rig, seen: Seen) -> list[Difference]:
        """One for each refusal."""
        return [
            Difference.refusal_of(f"model {name!r}", "a declaration that works on this box", f"model {name!r}: {lint}")
            for name, lint in _found(rig, seen)
            if lint.severity == "refusal"
        ]


class WorkableDeclarationsFetched(WorkableDeclarations):
    """The same after the model files are fetched, which a fresh box lacks; and what is probably a mistake."""

    name = "Declarations and model files"
    needs = (WorkableDeclarations, WholeReleases, FetchedModels)
    audited = False

    def queries(self, rig: Rig, here: ControlMachine) -> Iterable[Query[Any]]:
        """The same, and what the load modes of weights depend on."""
        yield from super().queries(rig, here)
        if here.locked is not None:
            yield query(Units, health=health_addresses(rig))
            yield from release_queries(rig)

    def notes(self, rig: Rig, seen: Seen) -> Iterable[str]:
        """Warnings, and which tensors of a model the declared overrides match."""
        found = [*_found(rig, seen), *_found_of_load_modes(rig, seen)]
        yield from (f"model {name!r}: {lint}" for name, lint in found if lint.severity != "refusal")
        headers = read_headers(rig, seen)
        for model in rig.models:
            header = headers.get(model.name)
            yield from (f"model {model.name!r}: {line}" for line in (coverage_report(model, header) if header else ()))


def _shards(rig: Rig, here: ControlMachine) -> dict[str, list[str]]:
    """Model name -> paths of its shards, of the models with rules that need their headers."""
    return {
        model.name: [target(lock, shard) for shard in lock.shards]
        for model, lock in zip(rig.models, here.locked or (), strict=False)
        if needs_header(model)
    }


def read_headers(rig: Rig, seen: Seen) -> dict[str, Header]:
    """Model name -> header of all its shards, of the models with rules that need it and with all files as locked.

    Another file under the name of a locked one says nothing of the declaration: a deploy replaces it.
    """
    paths = _shards(rig, seen.here)
    if not paths:
        return {}
    stored = seen.get(ModelStore).files
    read = seen.get(ModelHeaders, paths=sorted({shard for shards in paths.values() for shard in shards}))
    return {
        model.name: combined_header(headers)
        for model, lock in zip(rig.models, seen.here.locked or (), strict=False)
        if model.name in paths
        and not missing_files([lock], stored)
        and (headers := read.of(paths[model.name])) is not None
    }


def _found(rig: Rig, seen: Seen) -> list[tuple[str, Lint]]:
    """Pairs of a model's name and a lint of its declaration."""
    box, headers = seen.get(Capacity), read_headers(rig, seen)
    if any(needs_vram(model) for model in rig.models):
        box = replace(box, vram=sum(card.total_mib for card in seen.get(Gpus).cards) << 20)
    found: list[tuple[str, Lint]] = []
    sizes = [sum(shard.size for shard in lock.shards) for lock in seen.here.locked or ()]
    for number, model in enumerate(rig.models):
        size = sizes[number] if sizes else None
        header = headers.get(model.name)
        lints = lint_model(model, rig.build_of(model), box, size, header)
        if size is not None:
            weights = weights_in_ram(model, size, header, box.vram)
            lints += without_accepted(model, memory_max_lints(rig, model, weights))
        found += [(model.name, lint) for lint in lints]
    return found


def _found_of_load_modes(rig: Rig, seen: Seen) -> list[tuple[str, Lint]]:
    """Pairs of a model's name and a lint of the way in which its weights are loaded."""
    locked = seen.here.locked
    if locked is None:
        return []
    units = seen.get(Units, health=health_addresses(rig))
    try:
        choices, memory = chosen_load_modes(rig, seen, releases_of(rig, seen), locked, units)
    except PlanError:
        return []  # reported by the item that reads the plan file
    return [
        (model.name, lint)
        for model in rig.models
        for lint in without_accepted(model, pinned_lints(rig, model, choices[model.name], memory.get(model.name)))
    ]
