"""What a survey has read of a box."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from llamarig.declare.host_policy import NvidiaDriver
from llamarig.engine.item import Query, query
from llamarig.facts.compilers import Compilers, CompilersFound
from llamarig.facts.cuda_toolkits import ToolkitVersions, Version
from llamarig.facts.display_cards import CardsOnBus, DisplayCards
from llamarig.facts.filesystems import Filesystem, Filesystems
from llamarig.facts.gpus import Gpus, GpuState
from llamarig.facts.installed_toolkits import InstalledToolkits
from llamarig.facts.machine import Machine, MachineState
from llamarig.facts.nvidia_packages import DriverState, NvidiaPackages
from llamarig.facts.platform import HostPlatform, Platform
from llamarig.facts.processor import Processor, ProcessorFound
from llamarig.facts.ram import MemoryModules, Ram
from llamarig.items.driver_steps import queried_packages

DRIVERS = tuple(
    NvidiaDriver(series=series, kernel_module=module)
    for series in (None, "580-server", "580", "590-server", "590")
    for module in ("open", "proprietary")
)
"""The drivers that a survey may propose, best first. Without a series: Debian's and Arch's only one. 580 is the oldest
that runs CUDA 13, and the last for GTX 10xx."""


@dataclass(frozen=True)
class Hardware:
    """The facts of one box."""

    gpus: GpuState = field(default_factory=GpuState)
    bus: CardsOnBus = field(default_factory=CardsOnBus)
    machine: Machine = field(default_factory=Machine)
    platform: Platform = field(default_factory=Platform)
    processor: Processor = field(default_factory=Processor)
    ram: Ram = field(default_factory=Ram)
    driver: DriverState = field(default_factory=DriverState)
    compilers: Compilers = field(default_factory=Compilers)
    toolkits: Mapping[str, Version] = field(default_factory=dict)
    """Path -> version of the CUDA toolkits that the owner has installed."""
    filesystems: tuple[Filesystem, ...] = ()


def driver_packages() -> list[str]:
    """The packages whose offered versions decide which driver can be proposed."""
    return sorted({name for driver in DRIVERS for name in queried_packages(driver)})


def queries_of_survey() -> Iterable[Query[Any]]:
    """What is read first: with one command, and of any box."""
    for fact in (Gpus, DisplayCards, MachineState, HostPlatform, ProcessorFound, MemoryModules):
        yield query(fact)
    yield query(NvidiaPackages, packages=driver_packages())
    yield query(Filesystems)
    yield query(InstalledToolkits)


def queries_of_toolkits(paths: Iterable[str]) -> Iterable[Query[Any]]:
    """What is read then: of the compilers, and of the toolkits at these paths."""
    found = sorted(paths)
    yield query(CompilersFound, paths=found)
    yield query(ToolkitVersions, paths=found)
