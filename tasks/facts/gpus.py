"""The graphics cards of a box: what nvidia-smi, the kernel module and sysfs say."""

from __future__ import annotations

import re

from pyinfra.api.facts import FactBase
from typing_extensions import override

from tasks.facts.numbers import whole
from tasks.facts.sections import answers, ask
from tasks.planning.gpus import Gpu, GpuState

# Names of nvidia-smi --help-query-gpu; clocks_throttle_reasons is understood by old drivers and new.
_FIELDS = (
    *("index", "uuid", "name", "memory.total", "memory.free", "compute_cap", "driver_version", "pci.bus_id"),
    *("pcie.link.gen.current", "pcie.link.gen.max", "pcie.link.width.current", "pcie.link.width.max"),
    *("power.limit", "power.default_limit", "power.min_limit", "power.max_limit", "persistence_mode"),
    *("display_active", "pstate", "clocks_throttle_reasons.active", "ecc.errors.uncorrected.volatile.total"),
)

_AMD = (
    'for d in /sys/class/drm/card[0-9]*/device; do test "$(cat $d/vendor)" = 0x1002 || continue; '
    'echo "$(basename $(readlink -f $d))|$(cat $d/product_name)|$(cat $d/mem_info_vram_total)|'
    "$(cat $d/mem_info_vram_used)|$(cat $d/current_link_speed)|$(cat $d/max_link_speed)|$(cat $d/current_link_width)|"
    '$(cat $d/max_link_width)|$(cat $d/hwmon/hwmon*/power1_cap)|$(cat $d/hwmon/hwmon*/power1_cap_default)"; done'
)


class Gpus(FactBase[GpuState]):
    """Cards and driver. A missing or broken nvidia-smi is an answer too, never a failure of the fact."""

    @staticmethod
    @override
    def default() -> GpuState:
        return GpuState(problem="nothing was found out about the graphics cards")

    @override
    def command(self) -> str:
        query = f"nvidia-smi --query-gpu={','.join(_FIELDS)} --format=csv,noheader,nounits"
        return ask(
            [
                # Its errors come on stdout, with exit codes of their own (18: module and library differ). A card that
                # hangs makes it hang.
                ("nvidia", f"if command -v nvidia-smi >/dev/null; then timeout 20 {query} 2>&1; else echo none; fi"),
                ("module", "cat /sys/module/nvidia/version"),
                ("library", "ldconfig -p | grep -o '/[^ ]*libcuda[.]so[.]1$' | head -n 1 | xargs -r readlink -f"),
                ("amd", _AMD),
            ]
        )

    @override
    def process(self, output: list[str]) -> GpuState:
        said = answers(output)
        gpus: list[Gpu] = []
        complaints: list[str] = []
        for line in said.get("nvidia", []):
            gpu = _nvidia(line)
            if gpu is not None:
                gpus.append(gpu)
            else:
                complaints.append(line.strip())
        module = " ".join(said.get("module", []))
        return GpuState(
            gpus=tuple(gpus),
            module=module if re.fullmatch(r"\d[\d.]*", module) else "",
            library=_library([*said.get("library", []), *complaints]),
            problem="" if gpus else _problem(complaints),
            amd=tuple(card for line in said.get("amd", []) if (card := _amd(line)) is not None),
        )


def _problem(complaints: list[str]) -> str:
    if complaints == ["none"]:
        return "no nvidia-smi on this box"
    return " ".join(complaints)[:200] or "nvidia-smi lists no card"


def _library(lines: list[str]) -> str:
    """From the name of the file, or from nvidia-smi's words where module and library differ."""
    match = re.search(r"libcuda\.so\.(\d[\d.]*)|NVML library version: (\d[\d.]*)", " ".join(lines))
    version = (match[1] or match[2]).rstrip(".") if match else ""
    return version if "." in version else ""


def _nvidia(line: str) -> Gpu | None:
    """One CSV line; None for anything else nvidia-smi may print."""
    words = [word.strip() for word in line.split(",")]
    if len(words) != len(_FIELDS):
        return None
    said = dict(zip(_FIELDS, words, strict=True))
    if not (said["uuid"].startswith("GPU-") and re.fullmatch(r"[0-9]{1,3}", said["index"])):
        return None
    if not re.fullmatch(r"[0-9]{1,3}\.[0-9]{1,3}", said["compute_cap"]):
        return None
    throttle = said["clocks_throttle_reasons.active"]
    return Gpu(
        index=int(said["index"]),
        uuid=said["uuid"],
        name=said["name"],
        total_mib=_whole(said["memory.total"]),
        free_mib=_whole(said["memory.free"]),
        compute_capability=said["compute_cap"],
        driver=said["driver_version"],
        bus_id=said["pci.bus_id"],
        pcie_generation=_whole(said["pcie.link.gen.current"]),
        pcie_generation_max=_whole(said["pcie.link.gen.max"]),
        pcie_width=_whole(said["pcie.link.width.current"]),
        pcie_width_max=_whole(said["pcie.link.width.max"]),
        power_limit_w=_watts(said["power.limit"]),
        power_default_w=_watts(said["power.default_limit"]),
        power_least_w=_watts(said["power.min_limit"]),
        power_most_w=_watts(said["power.max_limit"]),
        persistence=_switch(said["persistence_mode"]),
        display=_switch(said["display_active"]),
        pstate=said["pstate"],
        throttle=int(throttle, 16) if re.fullmatch(r"0x[0-9a-fA-F]{1,16}", throttle) else 0,
        ecc_errors=_whole(said["ecc.errors.uncorrected.volatile.total"]),
    )


# GT/s a lane of PCIe 1 to 6, as the kernel writes them.
_GENERATIONS = {"2.5": 1, "5.0": 2, "8.0": 3, "16.0": 4, "32.0": 5, "64.0": 6}


def _amd(line: str) -> Gpu | None:
    values = [value.strip() for value in line.split("|")]
    if len(values) != 10 or not re.fullmatch(r"[0-9a-f]{4}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]", values[0]):
        return None
    bus, name, total, used, speed, speed_most, width, width_most, cap, cap_default = values
    return Gpu(
        index=0,
        uuid="",
        name=name or "AMD GPU",
        total_mib=_whole(total) // 1024**2,
        free_mib=max(_whole(total) - _whole(used), 0) // 1024**2,
        compute_capability="",
        driver="",
        bus_id=bus,
        pcie_generation=_GENERATIONS.get(speed.split(" ")[0], 0),
        pcie_generation_max=_GENERATIONS.get(speed_most.split(" ")[0], 0),
        pcie_width=_whole(width),
        pcie_width_max=_whole(width_most),
        power_limit_w=_whole(cap) / 1e6,
        power_default_w=_whole(cap_default) / 1e6,
    )


def _whole(text: str) -> int:
    """0 for [N/A], [Not Supported] and the like."""
    return whole(text) or 0


def _watts(text: str) -> float:
    return float(text) if re.fullmatch(r"[0-9]{1,6}(\.[0-9]{1,4})?", text) else 0.0


def _switch(text: str) -> bool | None:
    return {"Enabled": True, "Disabled": False}.get(text)
