"""What the box has to serve with: RAM, CPUs, NVIDIA GPUs."""

from __future__ import annotations

import re

from pyinfra.api.facts import FactBase
from typing_extensions import override

from tasks.planning.box import Box, cpu_list


class Capacity(FactBase[Box]):
    """Files of /proc and /sys alone: nvidia-smi would wake a sleeping driver and take a second."""

    @staticmethod
    @override
    def default() -> Box:
        return Box()

    @override
    def command(self) -> str:
        return (
            "grep MemTotal /proc/meminfo; echo kernel $(cat /proc/sys/kernel/osrelease); "
            "echo cpus $(cat /sys/devices/system/cpu/online); "
            "test -d /proc/driver/nvidia/gpus && echo driver && cat /proc/driver/nvidia/gpus/*/information; true"
        )

    @override
    def process(self, output: list[str]) -> Box:
        text = "\n".join(output)
        memory = re.search(r"^MemTotal:\s+(\d{1,15}) kB$", text, re.MULTILINE)
        kernel = re.search(r"^kernel (\S+)$", text, re.MULTILINE)
        cpus = re.search(r"^cpus (\S+)$", text, re.MULTILINE)
        gpus = re.findall(r"^GPU UUID:\s+(\S+)$", text, re.MULTILINE)
        # Until a program has used a card, its driver may show question marks.
        known = "driver" in output and all("?" not in uuid for uuid in gpus)
        return Box(
            ram=int(memory[1]) * 1024 if memory else 0,
            cpus=cpu_list(cpus[1]) if cpus else frozenset(),
            gpus=frozenset(gpus) if known else None,
            kernel=kernel[1] if kernel else "",
        )
