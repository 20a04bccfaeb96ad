"""Read the hardware of the current host."""

from __future__ import annotations

from llamarig.engine.run import of_host, read_all, read_fact
from llamarig.facts.compilers import CompilersFound
from llamarig.facts.cuda_toolkits import ToolkitVersions, Version
from llamarig.facts.display_cards import DisplayCards
from llamarig.facts.filesystems import Filesystems
from llamarig.facts.gpus import Gpus
from llamarig.facts.installed_toolkits import InstalledToolkits
from llamarig.facts.machine import MachineState
from llamarig.facts.nvidia_packages import NvidiaPackages
from llamarig.facts.platform import HostPlatform
from llamarig.facts.processor import ProcessorFound
from llamarig.facts.ram import MemoryModules
from llamarig.survey.hardware import Hardware, driver_packages, queries_of_survey, queries_of_toolkits


def read_hardware() -> Hardware | None:
    """The facts of the current host, with two commands; None where one did not end, which has been reported."""
    read_all(queries_of_survey())
    installed: tuple[str, ...] = read_fact(InstalledToolkits)
    paths = sorted(installed)
    read_all(queries_of_toolkits(paths))
    toolkits: dict[str, Version] = read_fact(ToolkitVersions, paths=paths)
    found = Hardware(
        gpus=read_fact(Gpus),
        bus=read_fact(DisplayCards),
        machine=read_fact(MachineState),
        platform=read_fact(HostPlatform),
        processor=read_fact(ProcessorFound),
        ram=read_fact(MemoryModules),
        driver=read_fact(NvidiaPackages, packages=driver_packages()),
        compilers=read_fact(CompilersFound, paths=paths),
        toolkits=toolkits,
        filesystems=read_fact(Filesystems),
    )
    return None if of_host().unanswered else found
