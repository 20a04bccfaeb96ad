"""One build for several boxes: what it must hold for all of them, and whether a binary fits a box."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tasks.planning.release import kv_pairs
from tasks.spec.build import Build
from tasks.spec.rig import Rig

_SAME = ("source", "backend", "cuda_toolkit", "cmake")
"""Fields of a build that all who share it have to declare alike."""


class SharingError(ValueError):
    """Boxes cannot share a build as declared; the message says which, why, and what to do."""


@dataclass(frozen=True)
class Platform:
    """What a box runs programs with. ``machine`` as `uname -m` says it, ``glibc`` as 2.41, empty where unknown."""

    machine: str = ""
    glibc: str = ""
    system: str = ""
    instruction_sets: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Needs:
    """What a binary asks of the box it is to run on. Empty fields ask for nothing."""

    machine: str = ""
    glibc: str = ""
    instruction_sets: frozenset[str] = frozenset()
    made_on: str = ""


def is_received(build: Build, host: str) -> bool:
    """Whether the box called ``host`` gets this build's release from another one."""
    return build.built_by not in (None, host)


def shared_builds(host: str, rigs: Mapping[str, Rig]) -> Rig:
    """The host's rig, with each shared build made for every box that shares it.

    Its architectures are those of all their cards, its cache type pairs those of all their models, so that each of
    them gives it the same name.

    :param rigs: every host of the inventory and its rig, with the architectures of its cards where it declares none
    :raises SharingError: when the boxes do not declare the same build
    """
    rig = rigs[host]
    builds = tuple(_for_all(build, host, rigs) if build.built_by else build for build in rig.builds)
    return rig.model_copy(update={"builds": builds})


def sharers(build: Build, rigs: Mapping[str, Rig]) -> dict[str, tuple[Build, Rig]]:
    """Host -> its declaration of the shared build and its rig: the builder first, the others by name."""
    names = sorted(rigs, key=lambda name: (name != build.built_by, name))
    return {
        name: (own, rigs[name])
        for name in names
        for own in rigs[name].builds
        if own.name == build.name and own.built_by == build.built_by
    }


def _for_all(build: Build, host: str, rigs: Mapping[str, Rig]) -> Build:
    if build.built_by not in rigs:
        known = ", ".join(sorted(rigs))
        raise SharingError(f"build {build.name!r}: built_by = {build.built_by!r} is no box of this inventory: {known}")
    sharing = sharers(build, rigs)
    if build.built_by not in sharing:
        raise SharingError(
            f"build {build.name!r} is built by {build.built_by}, which declares no such build: add it there, with the "
            "same name and built_by"
        )
    theirs = sharing[build.built_by][0]
    different = [field for field in _SAME if getattr(build, field) != getattr(theirs, field)]
    if different:
        raise SharingError(
            f"build {build.name!r} is declared otherwise than on {build.built_by}, which builds it "
            f"({', '.join(different)}): declare it once and use it for both, or give it another name"
        )
    architectures = tuple(dict.fromkeys(name for own, _ in sharing.values() for name in own.architectures))
    if refusal := build.toolkit_refusal(architectures):
        raise SharingError(f"build {build.name!r}, shared by {', '.join(sharing)}: {refusal}")
    pairs = {pair for own, rig in sharing.values() for pair in kv_pairs(own, rig.models)}
    return build.model_copy(update={"architectures": architectures, "kv_cache_pairs": tuple(sorted(pairs))})


def expected_needs(build: Build, builder: Platform) -> Needs:
    """What a build by that box will ask for, as far as it is known before an hour is spent compiling.

    ggml compiles for the very processor it is built on, unless GGML_NATIVE says otherwise (ggml/CMakeLists.txt).
    """
    native = build.cmake.get("GGML_NATIVE", "ON").upper() not in ("OFF", "0", "NO", "FALSE", "N")
    return Needs(builder.machine, "", builder.instruction_sets if native else frozenset(), builder.system)


def needs_of(manifest: Mapping[str, Any]) -> Needs | None:
    """What a release says of itself; None where it does not."""
    said = manifest.get("needs")
    if not isinstance(said, dict):
        return None
    return Needs(
        machine=str(said.get("machine", "")),
        glibc=str(said.get("glibc", "")),
        instruction_sets=frozenset(said.get("instruction_sets", ())),
        made_on=str(said.get("made_on", "")),
    )


def misfits(needs: Needs, box: Platform) -> list[str]:
    """Why a binary cannot run on a box; empty where nothing speaks against it."""
    return list(_misfits(needs, box))


def _misfits(needs: Needs, box: Platform) -> Iterator[str]:
    if needs.machine and needs.machine != box.machine:
        yield f"it is for {needs.machine}, this box is {box.machine or 'of an unknown kind'}"
        return
    if lacking := sorted(needs.instruction_sets - box.instruction_sets):
        yield (
            f"it would use {', '.join(lacking)}, which this box's processor does not have: "
            'declare cmake={"GGML_NATIVE": "OFF"} for it (x86 then needs AVX2), or build it here'
        )
    if needs.glibc and _numbers(needs.glibc) > _numbers(box.glibc):
        yield (
            f"it needs glibc {needs.glibc} or newer (it was made on {needs.made_on or 'a newer system'}), this box "
            f"({box.system or 'of an unknown system'}) has {box.glibc or 'another C library'}: let the box with the "
            "oldest system build, or build it here"
        )


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version))
