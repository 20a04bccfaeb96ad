"""Whether builds, CUDA toolkits, driver and graphics cards work together, compared before anything is compiled."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from llamarig.declare.rig import Rig
from llamarig.engine.control_machine import ControlMachine
from llamarig.engine.item import Difference, Item, Query, Seen, query
from llamarig.facts.cuda_toolkits import ToolkitVersions
from llamarig.facts.gpus import Gpus
from llamarig.items.cards_in_use import of_cuda
from llamarig.items.cuda_support import (
    cuda_builds,
    declared_toolkits,
    driver_difference,
    gpu_differences,
    read_versions,
)
from llamarig.items.nvidia_driver import NvidiaDriverInstalled


class SupportedCards(Item):
    """Every CUDA build can be compiled for this box's cards and runs on them.

    A box without a usable driver gets only a warning: it may build before its driver is installed.
    """

    name = "Graphics cards and builds"
    needs = (NvidiaDriverInstalled,)
    covered_by = ("gpu.toolkit", "gpu.driver")

    def queries(self, rig: Rig, here: ControlMachine) -> Iterable[Query[Any]]:
        """Nothing where no build is for CUDA."""
        if bool(cuda_builds(rig)):
            yield query(Gpus)
            if paths := declared_toolkits(rig.builds):
                yield query(ToolkitVersions, paths=paths)

    def differences(self, rig: Rig, seen: Seen) -> list[Difference]:
        """Differences that a deploy cannot fix."""
        if not bool(cuda_builds(rig)):
            return []
        present, what, expected = seen.get(Gpus), "builds and graphics cards", "builds for the cards of this box"
        unknown = [build.name for build in rig.builds if build.takes_architectures_of_cards]
        if unknown and present.gpus:
            # This deploy installed the driver after its builds had been determined.
            message = "the driver now answers: deploy again to compile the builds for its cards"
            return [Difference.refusal_of(what, expected, message)]
        if unknown:
            message = (
                f"build {unknown[0]} is to be compiled for this box's cards, but {present.problem}: install the NVIDIA "
                'driver, or declare its architectures, for example ("89-real",)'
            )
            return [Difference.refusal_of(what, expected, message)]
        return gpu_differences(rig.builds, of_cuda(rig, present), read_versions(rig, seen))

    def notes(self, rig: Rig, seen: Seen) -> Iterable[str]:
        """Why the driver cannot be used."""
        if bool(cuda_builds(rig)) and (difference := driver_difference(seen.get(Gpus))) is not None:
            yield str(difference)
