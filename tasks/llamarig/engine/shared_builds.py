"""Builds that several boxes share: what they must contain for all of them, and whether a binary runs on a box."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from llamarig.declare.build import Build
from llamarig.declare.rig import Rig
from llamarig.facts.platform import Platform
from llamarig.render.release import has_pages, kv_pairs

_SAME = ("source", "backend", "cuda_toolkit", "tls", "cmake")
"""Fields of a build that must be equal on all boxes that share it."""


class SharingError(ValueError):
    """Boxes cannot share a build as declared; the message names the boxes, the reason and the remedy."""


def is_received(build: Build, host: str) -> bool:
    """Whether another box builds this release for the box called ``host``."""
    return build.built_by not in (None, host)


def shared_builds(host: str, rigs: Mapping[str, Rig]) -> Rig:
    """The host's rig, with each shared build completed for all boxes that share it.

    It gets the architectures of all their cards, the cache type pairs of all their models, and the pages of the web UI
    if one of these has it. So its release has the same name on each of them.

    :param rigs: host -> rig, of all hosts of the inventory, with the architectures of its cards in builds without any
    :raises SharingError: if the boxes declare the build differently
    """
    rig = rigs[host]
    builds = tuple(_for_all(build, host, rigs) if build.built_by else build for build in rig.builds)
    return rig.model_copy(update={"builds": builds})


def sharers(build: Build, rigs: Mapping[str, Rig]) -> dict[str, tuple[Build, Rig]]:
    """Host -> its declaration of the shared build, and its rig. The builder comes first, the others by name."""
    names = sorted(rigs, key=lambda name: (name != build.built_by, name))
    return {
        name: (own, rigs[name])
        for name in names
        for own in rigs[name].builds
        if own.name == build.name and own.built_by == build.built_by
    }


def _for_all(build: Build, host: str, rigs: Mapping[str, Rig]) -> Build:
    if build.built_by not in rigs:
        names = ", ".join(sorted(rigs))
        raise SharingError(f"build {build.name!r}: built_by = {build.built_by!r} is not in this inventory: {names}")
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
            f"build {build.name!r} is not declared as on {build.built_by}, which builds it "
            f"({', '.join(different)}): declare it once and use it for both, or give it another name"
        )
    architectures = tuple(dict.fromkeys(name for own, _ in sharing.values() for name in own.architectures))
    if refusal := build.toolkit_refusal(architectures):
        raise SharingError(f"build {build.name!r}, shared by {', '.join(sharing)}: {refusal}")
    pairs = {pair for own, rig in sharing.values() for pair in kv_pairs(own, rig.models)}
    pages = any(has_pages(own, rig.models) for own, rig in sharing.values())
    shared = {"architectures": architectures, "kv_cache_pairs": tuple(sorted(pairs)), "web_ui": pages}
    return build.model_copy(update=shared)


def expected_requirements(build: Build, builder: Platform) -> Platform:
    """What a build by that box will require of others, as far as it is known before it is compiled.

    ggml compiles for the processor it is built on, unless GGML_NATIVE is off (ggml/CMakeLists.txt).
    """
    native = build.cmake.get("GGML_NATIVE", "ON").upper() not in ("OFF", "0", "NO", "FALSE", "N")
    return replace(builder, glibc="", instruction_sets=builder.instruction_sets if native else frozenset())


def recorded_requirements(manifest: Mapping[str, Any]) -> Platform | None:
    """The requirements in a release's manifest; None if it has none. ``system``: the one it was built on."""
    recorded = manifest.get("needs")
    if not isinstance(recorded, dict):
        return None
    return Platform(
        machine=str(recorded.get("machine", "")),
        glibc=str(recorded.get("glibc", "")),
        system=str(recorded.get("made_on", "")),
        instruction_sets=frozenset(recorded.get("instruction_sets", ())),
    )


def misfits(needs: Platform, box: Platform) -> list[str]:
    """The reasons why a binary cannot run on a box; empty if there are none.

    :param needs: what the binary requires, and the system it was built on; an empty field requires nothing
    """
    if needs.machine and needs.machine != box.machine:
        return [f"it is for {needs.machine}, this box is {box.machine or 'of an unknown kind'}"]
    reasons = []
    if lacking := sorted(needs.instruction_sets - box.instruction_sets):
        reasons.append(
            f"it would use {', '.join(lacking)}, which this box's processor does not have: "
            'declare cmake={"GGML_NATIVE": "OFF"} for it (x86 then needs AVX2), or build it here'
        )
    if needs.glibc and _numbers(needs.glibc) > _numbers(box.glibc):
        reasons.append(
            f"it needs glibc {needs.glibc} or newer (it was made on {needs.system or 'a newer system'}), this box "
            f"({box.system or 'of an unknown system'}) has {box.glibc or 'another C library'}: let the box with the "
            "oldest system build, or build it here"
        )
    return reasons


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version))
