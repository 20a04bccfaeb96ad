"""GPUs whose memory is the RAM of the box: one budget for both, with a reserve, since such a box freezes when it is
full."""

from __future__ import annotations

import re
from collections.abc import Iterable

from llamarig.records.plan_file import Plan, PlannedDevice

# NVIDIA's GB10 and Tegra; AMD's processors with graphics, as libdrm, Mesa and HIP name them (cards are "RX", "Pro" or
# "Instinct"); Intel's processors (cards are "A" or "B" with three digits); graphics of ARM processors. Sizes do not
# tell: a card may have as much memory of its own as the box.
_NAMES = re.compile(
    r"\bGB10\b|\b(?:Tegra|Xavier|Orin|Thor)\b|nvgpu"
    r"|\bRadeon(?:\(TM\))? (?:\d{3}M|8\d{3}S)\b|\bRadeon(?:\(TM\))?(?: R\d|(?: RX)? Vega(?: \d+)?)? Graphics\b"
    r"|\bAMD Custom GPU\b|\bBC-250\b|\bMI300A\b"
    r"|\bIris\b(?!.*\bMAX\b)|\bU?HD Graphics\b|\bArc\(TM\) (?:Pro )?(?:1[34]0[TV]|Graphics)\b"
    r"|\b(?:Apple M\d|Mali|Adreno|V3D|llvmpipe)\b",
    re.IGNORECASE,
)
# What Mesa adds to a name. It alone tells where the name does not: a new card is a "Radeon Graphics" or an "Intel(R)
# Graphics" until libdrm and Mesa know its product (src/amd/common/amd_family.c, include/pci_ids/iris_pci_ids.h).
_CHIP = re.compile(r"\((?:RADV )?([A-Z][A-Z0-9_-]+)(?: [A-Z0-9]+)?\)$")
_CHIPS_IN_PROCESSORS = re.compile(
    r"KAVERI|KABINI|CARRIZO|STONEY|RAVEN2?|RENOIR|VANGOGH|REMBRANDT|(RAPHAEL_)?MENDOCINO|PHOENIX2?|STRIX1?|STRIX_HALO"
    r"|KRACKAN\d?|GFX10(13|3[3567])|GFX1103(_R\d)?|GFX115\d"
    r"|SNB|IVB|HSW|BYT|BDW|CHV|SKL|BXT|APL|KBL|AML|GLK|CFL|WHL|CML|LKF|ICL|EHL|JSL|TGL|RKL|ADL|RPL|MTL|ARL|LNL|PTL|WCL"
)
_CHIPS_OF_CARDS = re.compile(
    r"TAHITI|PITCAIRN|VERDE|OLAND|HAINAN|BONAIRE|HAWAII|TONGA|ICELAND|FIJI|POLARIS\d+|VEGAM|VEGA(10|12|20)|MI[12]00"
    r"|GFX94\d|NAVI\d\d|GFX12\d\d|DG[12]|SG1|BMG|ATS-M|PVC"
)


def shares_ram(name: str) -> bool:
    """Whether a GPU of this name has the box's RAM as its memory."""
    chip = found[1] if (found := _CHIP.search(name)) is not None else ""
    if _CHIPS_IN_PROCESSORS.fullmatch(chip.partition("-")[0]):
        return True
    return _NAMES.search(name) is not None and not _CHIPS_OF_CARDS.fullmatch(chip)


def is_shared(device: PlannedDevice) -> bool:
    """Whether a GPU has the box's RAM as its memory, as its driver tells it, or else by its name."""
    return shares_ram(device.description) if device.shared is None else device.shared


def system_reserve_mib(box_ram_mib: int, least: int) -> int:
    """MiB that stay free of a model where GPU and processor share the RAM.

    A sixteenth of the RAM, and at least 4 GiB: chosen, not measured. Owners report that such boxes freeze until their
    power is cut where a card would have refused an allocation (dgx-spark-playbooks #97, vllm #56824).
    """
    return max(least, 4096, box_ram_mib // 16)


def memory_in_ram(devices: Iterable[PlannedDevice], used_mib: Iterable[int]) -> int:
    """MiB of RAM that a server's GPU memory takes: on GPUs that share the RAM, beyond what the firmware set aside.

    :param used_mib: memory of the server on each device
    """
    pairs = zip(devices, used_mib, strict=True)
    return sum(max(0, used - device.set_aside_mib) for device, used in pairs if is_shared(device))


def memory_in_ram_of(plan: Plan) -> int:
    """MiB of RAM that a planned model takes as GPU memory, vision projector and draft model included."""
    devices = plan.belongs.devices
    others = plan.belongs.others_mib or (0,) * len(devices)
    return memory_in_ram(devices, (row.total_mib + more for row, more in zip(plan.gpus, others, strict=True)))
