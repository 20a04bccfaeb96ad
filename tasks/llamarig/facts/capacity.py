"""Capacity of the box: RAM, CPUs, NVIDIA GPUs."""

from __future__ import annotations

import re

from pyinfra.api.facts import FactBase

from llamarig.placement.box_capacity import BoxCapacity, parse_cpu_list
from llamarig.placement.unified_memory import shares_ram


class Capacity(FactBase[BoxCapacity]):
    """RAM in bytes, CPUs that are online, UUIDs of the GPUs, and the kernel version.

    Reads files of /proc and /sys only: nvidia-smi would wake a suspended driver and take a second::

        MemTotal:       131981020 kB
        cpus 0-15
        driver
        GPU UUID: 	 GPU-2c5c95f6-3a3d-da71-baf8-13e54a4de87c
    """

    default = BoxCapacity

    def command(self) -> str:
        return (
            "grep MemTotal /proc/meminfo; echo kernel $(cat /proc/sys/kernel/osrelease); "
            "echo cpus $(cat /sys/devices/system/cpu/online); "
            "test -d /proc/driver/nvidia/gpus && echo driver && cat /proc/driver/nvidia/gpus/*/information; "
            "test -d /proc/device-tree && echo Model: $(tr '\\0' ' ' </proc/device-tree/model); "
            # AMD's GPUs: the format of their metrics (facts/gpus.py), and VRAM.
            "for d in /sys/class/drm/card*/device; do test -f $d/mem_info_vram_total && "
            'echo "amd $(od -An -tu1 -j2 -N1 $d/gpu_metrics) $(cat $d/mem_info_vram_total)"; done; true'
        )

    def process(self, output: list[str]) -> BoxCapacity:
        text = "\n".join(output)
        memory = re.search(r"^MemTotal:\s+(\d{1,15}) kB$", text, re.MULTILINE)
        kernel = re.search(r"^kernel (\S+)$", text, re.MULTILINE)
        cpus = re.search(r"^cpus (\S+)$", text, re.MULTILINE)
        gpus = re.findall(r"^GPU UUID:\s+(\S+)$", text, re.MULTILINE)
        # The driver may print question marks as the UUID of a GPU that no program has used yet.
        names = re.findall(r"^Model:\s+(.+?)\s*$", text, re.MULTILINE)
        nvidia = [shares_ram(name) for name in names if "NVIDIA" in name or shares_ram(name)]
        # Cards before Vega have no metrics.
        amd = re.findall(r"^amd(?:\s+(\d{1,3}))?\s+(\d{1,18})$", text, re.MULTILINE)
        shared = [*nvidia, *(metrics not in ("", "1") for metrics, _ in amd)]
        known = "driver" in output and all("?" not in uuid for uuid in gpus)
        return BoxCapacity(
            ram=int(memory[1]) * 1024 if memory else 0,
            cpus=parse_cpu_list(cpus[1]) if cpus else frozenset(),
            gpus=frozenset(gpus) if known else None,
            shared=bool(shared) and all(shared),
            set_aside=sum(int(size) for _, size in amd),
            kernel=kernel[1] if kernel else "",
        )
