"""What a box runs programs with: its kind of processor and what that can do, its C library, its distribution."""

from __future__ import annotations

from pyinfra.api.facts import FactBase
from typing_extensions import override

from tasks.facts.sections import answers, ask
from tasks.planning.instruction_sets import sets_of
from tasks.planning.sharing import Platform


class RunsOn(FactBase[Platform]):
    """All in one command of a few milliseconds."""

    @staticmethod
    @override
    def default() -> Platform:
        return Platform()

    @override
    def command(self) -> str:
        return ask(
            [
                ("machine", "uname -m"),
                ("glibc", "getconf GNU_LIBC_VERSION"),
                ("system", ". /etc/os-release; echo $PRETTY_NAME"),
                # x86 calls them flags, ARM calls them Features.
                ("sets", "grep -m 1 -E '^(flags|Features)[[:space:]]*:' /proc/cpuinfo"),
            ]
        )

    @override
    def process(self, output: list[str]) -> Platform:
        said = {name: " ".join(lines) for name, lines in answers(output).items()}
        return Platform(
            machine=said.get("machine", "").strip(),
            glibc=said.get("glibc", "").removeprefix("glibc").strip(),
            system=said.get("system", "").strip(),
            instruction_sets=sets_of(said.get("sets", "").partition(":")[2].split()),
        )
