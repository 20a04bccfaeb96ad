"""The graphics cards of a box: what nvidia-smi, the kernel module and sysfs say."""

from __future__ import annotations

import re

from pyinfra.api.facts import FactBase
from typing_extensions import override

from tasks.facts.numbers import whole
from tasks.facts.sections import answers, ask
from tasks.planning.gpus import HANGS, UNNAMED, Gpu, GpuState

# Names of nvidia-smi --help-query-gpu; clocks_throttle_reasons is understood by old drivers and new.
_FIELDS = (
    *("index", "uuid", "name", "memory.total", "memory.free", "compute_cap", "driver_version", "pci.bus_id"),
    *("pcie.link.gen.current", "pcie.link.gen.max", "pcie.link.width.current", "pcie.link.width.max"),
    *("power.limit", "power.default_limit", "power.min_limit", "power.max_limit", "persistence_mode"),
    *("display_active", "pstate", "clocks_throttle_reasons.active", "ecc.errors.uncorrected.volatile.total"),
)
_PATIENCE_S = 20

# The kernel tells a product's name of some server cards alone (amdgpu_fru_eeprom.c: "Only server cards have the FRU
# EEPROM"). libdrm knows the others by device and revision, and is there where Mesa's Vulkan driver is; lspci knows the
# chip, with every card that is made of it.
# From RDNA on a card sits behind a switch of its own, whose inner links always run at their most; the slot's link is
# that of the switch's upstream port, the last one up of AMD's (github.com/ilya-zlobintsev/amdgpu-sysfs-rs pull request
# 6, gitlab.freedesktop.org/drm/amd issue 1967). The port above it, of the processor (AMD's are 0x1022) or the chipset,
# may be able to do less than the card.
_AMD = (
    "for c in /sys/class/drm/card*; do case ${c##*/} in *-*) continue;; esac; "
    "read -r v <$c/device/vendor && test $v = 0x1002 || continue; d=$(readlink -f $c/device); "
    "read -r i <$d/device; read -r r <$d/revision; n=$(cat $d/product_name); "
    'test -n "$n" || n=$(sed -n "s/^${i#0x},[[:space:]]*${r#0x},[[:space:]]*//Ip" /usr/share/libdrm/amdgpu.ids); '
    'test -n "$n" || n=$(lspci -mm -s ${d##*/} | cut -d\'"\' -f6); '
    "u=$d; while read -r v <${u%/*}/vendor && test $v = 0x1002; do u=${u%/*}; done; p=${u%/*}; "
    'echo "${d##*/}|$n|$(cat $d/mem_info_vram_total)|$(cat $d/mem_info_vram_used)|$(cat $u/current_link_speed)|'
    "$(cat $u/max_link_speed)|$(cat $p/max_link_speed)|$(cat $u/current_link_width)|$(cat $u/max_link_width)|"
    "$(cat $p/max_link_width)|$(cat $d/gpu_busy_percent)|$(grep -lx enabled $c-*/enabled | wc -l)|"
    '$(cat $d/hwmon/hwmon*/power1_cap)|$(cat $d/hwmon/hwmon*/power1_cap_default)"; done'
)
# VGA, 3D and other display controllers are class 0x03....
_BUS = (
    "for d in /sys/bus/pci/devices/*; do read -r v <$d/vendor; read -r c <$d/class; "
    "case $c in 0x03*) echo $v;; esac; done"
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
                # hangs makes it hang: 124 is timeout's own code, 137 that of a program it had to kill.
                (
                    "nvidia",
                    f"if command -v nvidia-smi >/dev/null; then timeout -k 5 {_PATIENCE_S} {query} 2>&1; "
                    f"case $? in 124|137) echo '{HANGS}';; esac; else echo none; fi",
                ),
                ("module", "cat /sys/module/nvidia/version"),
                ("library", "ldconfig -p | grep -o '/[^ ]*libcuda[.]so[.]1$' | head -n 1 | xargs -r readlink -f"),
                ("amd", _AMD),
                ("bus", _BUS),
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
                # Of a lost card it may say [GPU is lost] in each of the fields.
                complaints.append(", ".join(dict.fromkeys(word.strip() for word in line.split(","))))
        module = " ".join(said.get("module", []))
        return GpuState(
            gpus=tuple(gpus),
            module=module if re.fullmatch(r"\d[\d.]*", module) else "",
            library=_library([*said.get("library", []), *complaints]),
            problem="" if gpus else _problem(complaints),
            complaints=tuple(complaints) if gpus else (),
            amd=tuple(card for line in said.get("amd", []) if (card := _amd(line)) is not None),
            on_bus=tuple(line for line in said.get("bus", []) if re.fullmatch(r"0x[0-9a-f]{4}", line)),
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
    reasons = int(throttle, 16) if re.fullmatch(r"0x[0-9a-fA-F]{1,16}", throttle) else 0
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
        # An idle desktop card is in P8, an idle H200 in P0: the driver's own word (nvml.h: reason 1) counts too.
        busy=said["pstate"] in ("P0", "P1", "P2") and not reasons & 1,
        throttle=reasons,
        ecc_errors=_whole(said["ecc.errors.uncorrected.volatile.total"]),
    )


# GT/s a lane of PCIe 1 to 6, as the kernel writes them.
_GENERATIONS = {"2.5": 1, "5.0": 2, "8.0": 3, "16.0": 4, "32.0": 5, "64.0": 6}

# A desktop keeps a card busy by a few percent.
_BUSY_PERCENT = 20


def _amd(line: str) -> Gpu | None:
    values = [value.strip() for value in line.split("|")]
    if len(values) != 14 or not re.fullmatch(r"[0-9a-f]{4}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]", values[0]):
        return None
    bus, name, total, used, speed, speed_most, speed_of_port, width, width_most, width_of_port, *others = values
    busy, displays, cap, cap_default = others
    return Gpu(
        index=0,
        uuid="",
        name=name or UNNAMED,
        total_mib=_whole(total) // 1024**2,
        free_mib=max(_whole(total) - _whole(used), 0) // 1024**2,
        compute_capability="",
        driver="",
        bus_id=bus,
        pcie_generation=_generation(speed),
        pcie_generation_max=_least(_generation(speed_most), _generation(speed_of_port)),
        pcie_width=_whole(width),
        pcie_width_max=_least(_whole(width_most), _whole(width_of_port)),
        power_limit_w=_whole(cap) / 1e6,
        power_default_w=_whole(cap_default) / 1e6,
        display=_whole(displays) > 0,
        busy=_whole(busy) >= _BUSY_PERCENT,
    )


def _generation(speed: str) -> int:
    return _GENERATIONS.get(speed.split(" ")[0], 0)


def _least(*told: int) -> int:
    """The least of those that are told; a port of a virtual machine may tell nothing."""
    return min((number for number in told if number), default=0)


def _whole(text: str) -> int:
    """0 for [N/A], [Not Supported] and the like."""
    return whole(text) or 0


def _watts(text: str) -> float:
    return float(text) if re.fullmatch(r"[0-9]{1,6}(\.[0-9]{1,4})?", text) else 0.0


def _switch(text: str) -> bool | None:
    return {"Enabled": True, "Disabled": False}.get(text)
