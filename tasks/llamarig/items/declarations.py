"""Refuse declarations that cannot work on this box, and warn of those that are probably a mistake."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from llamarig.declare.rig import Rig
from llamarig.engine.control_machine import ControlMachine
from llamarig.engine.item import Difference, Item, Query, Seen, Severity, query
from llamarig.facts.capacity import Capacity
from llamarig.facts.gpus import WSL, Gpus
from llamarig.facts.releases import Release
from llamarig.facts.units import Units
from llamarig.items.cuda_support import WSL_REMEDY
from llamarig.items.model_files import FetchedModels
from llamarig.items.model_headers import header_queries, read_headers
from llamarig.items.model_lock import LockedModels
from llamarig.items.placements import PlanError, chosen_load_modes
from llamarig.items.releases import WholeReleases, release_queries, releases_of
from llamarig.items.wanted_unit import health_addresses
from llamarig.lints.known_bad_builds import known_bad_lints
from llamarig.lints.lint import Lint
from llamarig.lints.lint_model import coverage_report, lint_model, without_accepted
from llamarig.lints.memory import needs_vram, weights_in_ram
from llamarig.lints.pinned_weights import memory_max_lints, pinned_lints
from llamarig.render.release import release_path


class WorkableDeclarations(Item):
    """No model is declared in a way that cannot work on this box.

    Rules that need a model's header are applied where its files are on the box and as locked, those that need its size
    where it is locked, and all others always: before anything is downloaded or built.
    """

    name = "Declarations"
    check = "llama.declarations"
    severity = Severity.ERROR

    def queries(self, rig: Rig, here: ControlMachine) -> Iterable[Query[Any]]:
        """The box's capacity and cards, its model files, and the headers of the models with rules that need them."""
        yield query(Capacity)
        if _has_gpu_build(rig) or any(needs_vram(model) for model in rig.models):
            yield query(Gpus)
        yield from header_queries(rig, here)

    def differences(self, rig: Rig, seen: Seen) -> list[Difference]:
        """One for each refusal; on WSL2 one for all builds for a GPU."""
        if _has_gpu_build(rig) and seen.get(Gpus).wsl:
            names = ", ".join(build.name for build in rig.builds if build.backend != "cpu")
            refusal = f"build {names}: {WSL}; {WSL_REMEDY}"
            return [Difference.refusal_of("builds for a GPU", "builds that serve on this box", refusal)]
        return [
            Difference.refusal_of(f"model {name!r}", "a declaration that works on this box", f"model {name!r}: {lint}")
            for name, lint in _found(rig, seen)
            if lint.severity == "refusal"
        ]


class WorkableDeclarationsLocked(WorkableDeclarations):
    """The same once a first deploy has locked the models, whose sizes are known then: nothing is fetched yet."""

    name = "Declarations and model lock"
    needs = (WorkableDeclarations, LockedModels)
    audited = False


class WorkableDeclarationsFetched(WorkableDeclarations):
    """The same after the model files are fetched, which a fresh box lacks; and what is probably a mistake."""

    name = "Declarations and model files"
    needs = (WorkableDeclarations, WholeReleases, FetchedModels)
    audited = False

    def queries(self, rig: Rig, here: ControlMachine) -> Iterable[Query[Any]]:
        """The same, the releases and cards, and what the load modes of weights depend on."""
        yield from super().queries(rig, here)
        if here.locked is not None:
            yield query(Units, health=health_addresses(rig))
            yield from release_queries(rig)

    def notes(self, rig: Rig, seen: Seen) -> Iterable[str]:
        """Warnings, and which tensors of a model the declared overrides match."""
        found = [*_found(rig, seen), *_found_of_builds(rig, seen), *_found_of_load_modes(rig, seen)]
        yield from (f"model {name!r}: {lint}" for name, lint in found if lint.severity != "refusal")
        headers = read_headers(rig, seen)
        for model in rig.models:
            header = headers.get(model.name)
            yield from (f"model {model.name!r}: {line}" for line in (coverage_report(model, header) if header else ()))


def _has_gpu_build(rig: Rig) -> bool:
    return any(build.backend != "cpu" for build in rig.builds)


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


def _found_of_builds(rig: Rig, seen: Seen) -> list[tuple[str, Lint]]:
    """Pairs of a model's name and a known fault of the build that serves it."""
    if seen.here.locked is None:
        return []
    cards = [card.name for card in rig.host.gpus]
    if _has_gpu_build(rig):
        cards += [card.name for card in seen.get(Gpus).cards]
    releases = releases_of(rig, seen)
    found: list[tuple[str, Lint]] = []
    for model in rig.models:
        build = rig.build_of(model)
        manifest = releases.get(release_path(build, rig.models), Release()).manifest or {}
        lints = known_bad_lints(model, build, int(manifest.get("build_number", 0)), cards)
        found += [(model.name, lint) for lint in without_accepted(model, lints)]
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
