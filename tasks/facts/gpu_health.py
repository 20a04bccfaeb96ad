"""How the GPUs are: driver, bus, power, memory. What only an audit asks."""

from __future__ import annotations

import re

from pyinfra.api.facts import FactBase
from typing_extensions import override

from tasks.facts.sections import answers, ask
from tasks.planning.checks.box import Gpu, Gpus

# Names of nvidia-smi --help-query-gpu; clocks_throttle_reasons is understood by old drivers and new.
_FIELDS = (
    *("name", "uuid", "pci.bus_id", "memory.total", "memory.free", "display_active", "persistence_mode"),
    *("power.limit", "power.default_limit", "pcie.link.gen.current", "pcie.link.gen.max", "pcie.link.width.current"),
    *("pcie.link.width.max", "pstate", "clocks_throttle_reasons.active", "ecc.errors.uncorrected.volatile.total"),
)

_AMD = (
    'for d in /sys/class/drm/card[0-9]*/device; do test "$(cat $d/vendor)" = 0x1002 || continue; '
    'echo "$(basename $(readlink -f $d))|$(cat $d/product_name)|$(cat $d/mem_info_vram_total)|'
    "$(cat $d/mem_info_vram_used)|$(cat $d/current_link_speed)|$(cat $d/max_link_speed)|$(cat $d/current_link_width)|"
    '$(cat $d/max_link_width)|$(cat $d/hwmon/hwmon*/power1_cap)|$(cat $d/hwmon/hwmon*/power1_cap_default)"; done'
)


class GpuHealth(FactBase[Gpus]):
    """Every NVIDIA and AMD card of the box, NVIDIA's in nvidia-smi's order."""

    @staticmethod
    @override
    def default() -> Gpus:
        return Gpus(why_not="nothing could be asked")

    @override
    def command(self) -> str:
        query = f"nvidia-smi --query-gpu={','.join(_FIELDS)} --format=csv,noheader,nounits"
        return ask(
            [
                # A card that hangs makes nvidia-smi hang.
                ("nvidia", f"command -v nvidia-smi >/dev/null && timeout 20 {query} 2>&1"),
                ("module", "cat /sys/module/nvidia/version"),
                (
                    "library",
                    "ldconfig -p | grep -o '/[^ ]*libcuda[.]so[.]1$' | head -n 1 | xargs -r readlink -f",
                ),
                ("amd", _AMD),
            ]
        )

    @override
    def process(self, output: list[str]) -> Gpus:
        said = answers(output)
        cards = [card for line in said.get("nvidia", []) if (card := _nvidia(line)) is not None]
        refusals = [line for line in said.get("nvidia", []) if not line.count(",") >= len(_FIELDS) - 1]
        cards += [card for line in said.get("amd", []) if (card := _amd(line)) is not None]
        library = re.search(r"libcuda\.so\.([\d.]+)$", " ".join(said.get("library", [])))
        module = " ".join(said.get("module", []))
        return Gpus(
            cards=tuple(cards),
            module=module if re.fullmatch(r"[\d.]+", module) else "",
            library=library[1] if library else _library_in(refusals),
            why_not="" if cards else " ".join(refusals)[:200] or "no NVIDIA or AMD driver answers",
        )


def _library_in(lines: list[str]) -> str:
    match = re.search(r"NVML library version: ([\d.]+)", " ".join(lines))
    return match[1] if match else ""


def _nvidia(line: str) -> Gpu | None:
    values = dict(zip(_FIELDS, (value.strip() for value in line.split(",")), strict=False))
    if len(values) != len(_FIELDS) or not values["uuid"].startswith(("GPU-", "MIG-")):
        return None
    throttle = values["clocks_throttle_reasons.active"]
    return Gpu(
        name=values["name"],
        uuid=values["uuid"],
        bus_id=values["pci.bus_id"],
        memory_mib=_whole(values["memory.total"]),
        free_mib=_whole(values["memory.free"]),
        display=_switch(values["display_active"]),
        persistence=_switch(values["persistence_mode"]),
        power_limit_w=_watts(values["power.limit"]),
        power_default_w=_watts(values["power.default_limit"]),
        pcie_gen=_whole(values["pcie.link.gen.current"]),
        pcie_gen_max=_whole(values["pcie.link.gen.max"]),
        pcie_width=_whole(values["pcie.link.width.current"]),
        pcie_width_max=_whole(values["pcie.link.width.max"]),
        pstate=values["pstate"],
        throttle=int(throttle, 16) if re.fullmatch(r"0x[0-9a-fA-F]{1,16}", throttle) else None,
        ecc_errors=_whole(values["ecc.errors.uncorrected.volatile.total"]),
    )


# GT/s a lane of PCIe 1 to 6, as the kernel writes them.
_GENERATIONS = {"2.5": 1, "5.0": 2, "8.0": 3, "16.0": 4, "32.0": 5, "64.0": 6}


def _amd(line: str) -> Gpu | None:
    values = [value.strip() for value in line.split("|")]
    if len(values) != 10 or not re.fullmatch(r"[0-9a-f]{4}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]", values[0]):
        return None
    bus, name, total, used, speed, speed_max, width, width_max, cap, cap_default = values
    memory, taken = _whole(total), _whole(used)
    return Gpu(
        name=name or "AMD GPU",
        bus_id=bus,
        memory_mib=None if memory is None else memory // 1024**2,
        free_mib=None if memory is None or taken is None else (memory - taken) // 1024**2,
        power_limit_w=_microwatts(cap),
        power_default_w=_microwatts(cap_default),
        pcie_gen=_GENERATIONS.get(speed.split(" ")[0]),
        pcie_gen_max=_GENERATIONS.get(speed_max.split(" ")[0]),
        pcie_width=_whole(width),
        pcie_width_max=_whole(width_max),
    )


def _whole(text: str) -> int | None:
    """None for [N/A], [Not Supported] and the like."""
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 18 else None


def _watts(text: str) -> float | None:
    return float(text) if re.fullmatch(r"\d{1,6}(\.\d{1,4})?", text) and text.isascii() else None


def _microwatts(text: str) -> float | None:
    value = _whole(text)
    return None if value is None else value / 1e6


def _switch(text: str) -> bool | None:
    return {"Enabled": True, "Disabled": False}.get(text)
