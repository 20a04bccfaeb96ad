"""The GPUs of a box, as nvidia-smi, the kernel module and sysfs report them."""

from __future__ import annotations

import re
from dataclasses import dataclass

from pyinfra.api.facts import FactBase

from llamarig.facts.output import parse_sections, sections_command, whole_number
from llamarig.placement.unified_memory import shares_ram

# Field names of nvidia-smi --help-query-gpu. Old and new drivers know clocks_throttle_reasons.
_FIELDS = (
    *("index", "uuid", "name", "memory.total", "memory.free", "compute_cap", "driver_version", "pci.bus_id"),
    *("pcie.link.gen.current", "pcie.link.gen.max", "pcie.link.width.current", "pcie.link.width.max"),
    *("power.limit", "power.default_limit", "power.min_limit", "power.max_limit", "persistence_mode"),
    *("display_active", "pstate", "clocks_throttle_reasons.active", "ecc.errors.uncorrected.volatile.total"),
)
_TIMEOUT_S = 20

# Name: the kernel has the product name of some server cards only (amdgpu_fru_eeprom.c: "Only server cards have the FRU
# EEPROM"). libdrm, which is installed with Mesa's Vulkan driver, has the others by device and revision. lspci has the
# name of the chip, with all cards that use it.
# Link: from RDNA on, a card has a PCIe switch of its own, whose internal links always run at full speed. The slot's
# link is that of the switch's upstream port, the uppermost one with AMD's vendor id
# (github.com/ilya-zlobintsev/amdgpu-sysfs-rs pull request 6, gitlab.freedesktop.org/drm/amd issue 1967). The port above
# it, of the processor (AMD's are 0x1022) or the chipset, may support less than the card.
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
    "$(cat $d/hwmon/hwmon*/power1_cap)|$(cat $d/hwmon/hwmon*/power1_cap_default)|"
    '$(cat $d/mem_info_gtt_total)|$(od -An -tu1 -j2 -N1 $d/gpu_metrics | tr -d " ")"; done'
)
# The last two: RAM that the GPU may use (GTT), and the format of its metrics, which is 1 of cards, and 2 or 3 of
# processors with graphics (drivers/gpu/drm/amd/include/kgd_pp_interface.h: gpu_metrics_v1_x, v2_x "APU", v3_0).
# Classes 0x03...: VGA, 3D and other display controllers.
_BUS = (
    "for d in /sys/bus/pci/devices/*; do read -r v <$d/vendor; read -r c <$d/class; "
    "case $c in 0x03*) echo $v;; esac; done"
)


UNNAMED = "AMD GPU"
"""Name of an AMD GPU whose name is unknown."""


@dataclass(frozen=True)
class Gpu:
    """One GPU as its driver reports it. Memory in MiB, power in W; 0, empty or None where not reported."""

    index: int
    uuid: str
    name: str
    total_mib: int
    free_mib: int
    compute_capability: str
    """Empty for GPUs other than NVIDIA's."""
    driver: str
    bus_id: str
    pcie_generation: int = 0
    pcie_generation_max: int = 0
    pcie_width: int = 0
    pcie_width_max: int = 0
    power_limit_w: float = 0.0
    power_default_w: float = 0.0
    power_least_w: float = 0.0
    power_most_w: float = 0.0
    persistence: bool | None = None
    display: bool | None = None
    """Whether a display is active."""
    busy: bool = False
    """Whether it is under load, so that its link is not slowed down to save power."""
    throttle: int = 0
    """Bit mask of the reasons for reduced clocks (nvml.h, nvmlClocksEventReason*)."""
    integrated: bool = False
    """Whether its memory is the RAM of the box. ``total_mib`` is then what the firmware set aside for it (0: nothing,
    or the driver does not tell)."""
    shared_mib: int = 0
    """RAM that an integrated GPU of AMD may use besides (GTT)."""
    ecc_errors: int = 0
    """Uncorrected memory errors since the driver was loaded."""

    @property
    def architecture(self) -> str:
        """Element of CMAKE_CUDA_ARCHITECTURES for this GPU: machine code only, no PTX.

        From compute capability 10.0 on, Blackwell's own instructions need the architecture-specific ``a`` target
        (llama.cpp: ggml/src/ggml-cuda/CMakeLists.txt).
        """
        number = self.compute_capability.replace(".", "")
        return f"{number}a-real" if int(number) >= 100 else f"{number}-real"


@dataclass(frozen=True)
class GpuState:
    """GPUs and driver of a box. ``problem``: why NVIDIA's GPUs cannot be used, in plain words."""

    gpus: tuple[Gpu, ...] = ()
    """NVIDIA's GPUs, in the order of nvidia-smi."""
    module: str = ""
    """Version of the loaded NVIDIA kernel module; empty where none is loaded."""
    library: str = ""
    """Version of the driver's libraries."""
    problem: str = ""
    complaints: tuple[str, ...] = ()
    """Output of nvidia-smi other than GPUs: errors about single GPUs, and warnings."""
    amd: tuple[Gpu, ...] = ()
    """AMD's GPUs whose kernel module is loaded, integrated graphics included."""
    amd_driver: str = ""
    """Kernel and Mesa packages, which AMD's GPUs are driven by: ``Linux 6.12.57, Mesa 25.0.7-2``; empty if unknown."""
    on_bus: tuple[str, ...] = ()
    """PCI vendor of each display controller, as in sysfs, with or without a driver."""
    wsl: bool = False
    """Whether it is WSL2."""

    @property
    def cards(self) -> tuple[Gpu, ...]:
        """All GPUs, NVIDIA's first."""
        return (*self.gpus, *self.amd)


def shown(card: Gpu) -> str:
    """Name of a GPU in findings."""
    return f"{card.name} ({card.bus_id})" if card.bus_id else card.name


# Messages of nvidia-smi (and of NVML) about a GPU that fell off the bus; the other GPUs may still work. As in
# NVIDIA/open-gpu-kernel-modules #387, NVIDIA/dcgm-exporter #604 and NVIDIA/nvidia-docker #1553.
_LOST = re.compile(r"Unable to determine the device handle|GPU is lost|fallen off the bus", re.IGNORECASE)


WSL = "this box is WSL2, whose GPU llamarig does not serve: Windows has its driver, and shows it only as /dev/dxg"
"""Why a GPU of WSL2 does not serve."""


HANGS = "nvidia-smi did not answer in time"
"""Printed instead of nvidia-smi's output after a timeout."""


def is_lost(message: str) -> bool:
    """Whether a message of nvidia-smi is about a GPU that fell off the bus."""
    return _LOST.search(message) is not None


class Gpus(FactBase[GpuState]):
    """GPUs and driver. The fact does not fail where nvidia-smi is missing or broken: ``GpuState.problem`` says so.

    NVIDIA::

        == nvidia
        0, GPU-abb3f99e-7dc8-fb04-7f9d-6c963a49df37, NVIDIA H200, 143771, 143156, 9.0, 580.159.04, 00000000:00:06.0, ...

        == module
        580.159.04

        == library
        /usr/local/nvidia/lib64/libcuda.so.580.159.04

    AMD: bus, name, VRAM and its use, link speeds, link widths, load, displays, power limits, GTT, metrics format::

        == amd
        0000:0c:00.0||21458059264|1073741824|16.0 GT/s PCIe|16.0 GT/s PCIe|32.0 GT/s PCIe|8|16|16|37|1|300000000|...
    """

    @staticmethod
    def default() -> GpuState:
        return GpuState(problem="the box has not reported its GPUs")

    def command(self) -> str:
        query = f"nvidia-smi --query-gpu={','.join(_FIELDS)} --format=csv,noheader,nounits"
        return sections_command(
            {
                # It prints errors on stdout, with exit codes of its own (18: module and library differ). It hangs where
                # a GPU hangs: `timeout` then exits with 124, or 137 after SIGKILL.
                "nvidia": (
                    f"if command -v nvidia-smi >/dev/null; then timeout -k 5 {_TIMEOUT_S} {query} 2>&1; "
                    f"case $? in 124|137) echo '{HANGS}';; esac; else echo none; fi"
                ),
                "module": "cat /sys/module/nvidia/version",
                "library": "ldconfig -p | grep -o '/[^ ]*libcuda[.]so[.]1$' | head -n 1 | xargs -r readlink -f",
                "amd": _AMD,
                "linux": "uname -r",
                "mesa": (
                    "dpkg-query -W -f '${Version}\\n' mesa-vulkan-drivers || "
                    "pacman -Q vulkan-radeon | cut -d' ' -f2 || "
                    "rpm -q --qf '%{VERSION}\\n' mesa-vulkan-drivers | grep -v ' '"
                ),
                "bus": _BUS,
                "wsl": 'test -e /dev/dxg || test "$(systemd-detect-virt)" = wsl && echo yes',
            }
        )

    def process(self, output: list[str]) -> GpuState:
        sections = parse_sections(output)
        gpus: list[Gpu] = []
        complaints: list[str] = []
        for line in sections["nvidia"]:
            gpu = _nvidia(line)
            if gpu is not None:
                gpus.append(gpu)
                if not gpu.uuid:
                    complaints.append(f"Tegra's driver tells no UUID of {gpu.name}, so no model can name it in gpus")
            else:
                # For a lost GPU it may print [GPU is lost] in each field.
                complaints.append(", ".join(dict.fromkeys(word.strip() for word in line.split(","))))
        module = " ".join(sections["module"])
        return GpuState(
            gpus=tuple(gpus),
            module=module if re.fullmatch(r"\d[\d.]*", module) else "",
            library=_library([*sections["library"], *complaints]),
            problem=WSL if sections["wsl"] else "" if gpus else _problem(complaints),
            wsl=bool(sections["wsl"]),
            complaints=tuple(complaints) if gpus else (),
            amd=tuple(card for line in sections["amd"] if (card := _amd(line)) is not None),
            amd_driver=", ".join(
                f"{name} {sections[key][0]}" for name, key in (("Linux", "linux"), ("Mesa", "mesa")) if sections[key]
            ),
            on_bus=tuple(line for line in sections["bus"] if re.fullmatch(r"0x[0-9a-f]{4}", line)),
        )


def _problem(complaints: list[str]) -> str:
    if complaints == ["none"]:
        return "no nvidia-smi on this box"
    return " ".join(complaints)[:200] or "nvidia-smi lists no card"


def _library(lines: list[str]) -> str:
    """Version from the name of the library, or from nvidia-smi's message where module and library differ."""
    match = re.search(r"libcuda\.so\.(\d[\d.]*)|NVML library version: (\d[\d.]*)", " ".join(lines))
    version = (match[1] or match[2]).rstrip(".") if match else ""
    return version if "." in version else ""


def _nvidia(line: str) -> Gpu | None:
    """Parse a CSV line of nvidia-smi; None for any other line."""
    words = [word.strip() for word in line.split(",")]
    if len(words) != len(_FIELDS):
        return None
    fields = dict(zip(_FIELDS, words, strict=True))
    integrated = shares_ram(fields["name"])
    # Tegra's driver (Jetson) tells no UUID and little else; any other GPU without one is broken.
    if not (fields["uuid"].startswith("GPU-") or (integrated and fields["uuid"] == "[N/A]")):
        return None
    if not re.fullmatch(r"[0-9]{1,3}", fields["index"]):
        return None
    if not re.fullmatch(r"[0-9]{1,3}\.[0-9]{1,3}", fields["compute_cap"]):
        return None
    throttle = fields["clocks_throttle_reasons.active"]
    reasons = int(throttle, 16) if re.fullmatch(r"0x[0-9a-fA-F]{1,16}", throttle) else 0
    return Gpu(
        index=int(fields["index"]),
        uuid=fields["uuid"] if fields["uuid"].startswith("GPU-") else "",
        name=fields["name"],
        total_mib=0 if integrated else _whole(fields["memory.total"]),
        free_mib=0 if integrated else _whole(fields["memory.free"]),
        compute_capability=fields["compute_cap"],
        driver=fields["driver_version"],
        bus_id=fields["pci.bus_id"].removeprefix("[N/A]"),
        pcie_generation=_whole(fields["pcie.link.gen.current"]),
        pcie_generation_max=_whole(fields["pcie.link.gen.max"]),
        pcie_width=_whole(fields["pcie.link.width.current"]),
        pcie_width_max=_whole(fields["pcie.link.width.max"]),
        power_limit_w=_watts(fields["power.limit"]),
        power_default_w=_watts(fields["power.default_limit"]),
        power_least_w=_watts(fields["power.min_limit"]),
        power_most_w=_watts(fields["power.max_limit"]),
        persistence=_switch(fields["persistence_mode"]),
        display=_switch(fields["display_active"]),
        # An idle desktop GPU is in P8, but an idle H200 in P0: there reason 1 (nvml.h: GpuIdle) is set.
        busy=fields["pstate"] in ("P0", "P1", "P2") and not reasons & 1,
        throttle=reasons,
        integrated=integrated,
        ecc_errors=_whole(fields["ecc.errors.uncorrected.volatile.total"]),
    )


# GT/s per lane of PCIe 1 to 6, as in sysfs.
_GENERATIONS = {"2.5": 1, "5.0": 2, "8.0": 3, "16.0": 4, "32.0": 5, "64.0": 6}

# A desktop alone takes a few percent.
_BUSY_PERCENT = 20


def _amd(line: str) -> Gpu | None:
    values = [value.strip() for value in line.split("|")]
    if len(values) not in (14, 16) or not re.fullmatch(r"[0-9a-f]{4}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]", values[0]):
        return None
    bus, name, total, used, speed, speed_most, speed_of_port, width, width_most, width_of_port, *others = values
    busy, displays, cap, cap_default, shared, metrics = (*others, "", "")[:6]
    integrated = shares_ram(name) if metrics == "" else metrics != "1"
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
        integrated=integrated,
        shared_mib=_whole(shared) // 1024**2 if integrated else 0,
    )


def _generation(speed: str) -> int:
    return _GENERATIONS.get(speed.split(" ")[0], 0)


def _least(*values: int) -> int:
    """Minimum of the reported values; a port of a virtual machine may report none (0)."""
    return min((number for number in values if number), default=0)


def _whole(text: str) -> int:
    """Parse a number; 0 for [N/A], [Not Supported] and the like."""
    return whole_number(text) or 0


def _watts(text: str) -> float:
    return float(text) if re.fullmatch(r"[0-9]{1,6}(\.[0-9]{1,4})?", text) else 0.0


def _switch(text: str) -> bool | None:
    return {"Enabled": True, "Disabled": False}.get(text)
