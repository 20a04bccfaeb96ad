"""Whether llama.cpp knows the architectures of the models, as far as the model lock and the releases tell."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from llamarig.declare.model import Model
from llamarig.declare.rig import Rig
from llamarig.engine.control_machine import ControlMachine
from llamarig.engine.item import Difference, Query, Seen
from llamarig.facts.releases import Release
from llamarig.items.releases import release_queries, releases_of
from llamarig.records.model_lock import LockedModel
from llamarig.remote.download.wanted_architectures import not_known
from llamarig.remote.shared.jobs import WantedArchitecture
from llamarig.render.release import build_job, release_path


def architecture_queries(rig: Rig, here: ControlMachine) -> Iterable[Query[Any]]:
    """The releases, where an architecture is locked."""
    if any(entry.architecture for entry in here.locked or ()):
        yield from release_queries(rig)


def unknown_architectures(rig: Rig, seen: Seen) -> list[Difference]:
    """A refusal for each model that its release would not load."""
    found = []
    for model, entry, release in _locked(rig, seen):
        if release.models and entry.architecture not in release.models:
            commit = rig.build_of(model).source.commit[:12]
            found.append(
                Difference.refusal_of(
                    f"architecture of {model.name}",
                    f"one that llama.cpp {commit} knows",
                    not_known(model.name, entry.architecture or "", commit),
                )
            )
    return found


def wanted_architectures(rig: Rig, seen: Seen, fetched: Sequence[LockedModel]) -> tuple[WantedArchitecture, ...]:
    """What a download has to compare with the source of a build, because no release tells it yet.

    :param fetched: entries of which files are missing on the box
    """
    return tuple(
        WantedArchitecture(
            model=model.name,
            architecture=entry.architecture or "",
            commit=rig.build_of(model).source.commit,
            work=build_job(rig.build_of(model), rig.models).work,
        )
        for model, entry, release in _locked(rig, seen)
        if not release.models and entry in fetched
    )


def _locked(rig: Rig, seen: Seen) -> Iterable[tuple[Model, LockedModel, Release]]:
    locked = seen.here.locked or ()
    if not any(entry.architecture for entry in locked):
        return
    releases = releases_of(rig, seen)
    for model, entry in zip(rig.models, locked, strict=False):
        if entry.architecture:
            yield model, entry, releases.get(release_path(rig.build_of(model), rig.models), Release())
