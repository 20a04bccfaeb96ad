"""Boxes for the tests of the survey: what their facts' commands print, in the form of captures and of documentation.

Lines of nvidia-smi have the fields of `facts/data/gpu/h200_two_idle.txt` with the values of the cards' specifications;
no such card was at hand. Names on the bus are those of the PCI database (pci.ids). Memory modules are dumps of real
boxes (`facts/data/dmidecode`).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llamarig.engine.item import Query
from llamarig.facts.compilers import CompilersFound
from llamarig.facts.cuda_toolkits import ToolkitVersions
from llamarig.facts.display_cards import DisplayCards
from llamarig.facts.filesystems import Filesystems
from llamarig.facts.gpus import Gpus
from llamarig.facts.installed_toolkits import InstalledToolkits
from llamarig.facts.machine import MachineState
from llamarig.facts.nvidia_packages import NvidiaPackages
from llamarig.facts.platform import HostPlatform
from llamarig.facts.processor import ProcessorFound
from llamarig.facts.ram import MemoryModules
from llamarig.survey.hardware import Hardware, queries_of_survey, queries_of_toolkits

DATA = Path(__file__).parents[1] / "facts/data"
Answers = dict[type[Any], str]
"""Fact -> what its command prints."""


def dump(name: str) -> str:
    return (DATA / name).read_text()


def nvidia(*cards: str, driver: str = "580.126.09") -> str:
    lines = "\n".join(cards)
    return f"== nvidia\n{lines}\n\n== module\n{driver}\n\n== library\n/usr/lib/x86_64-linux-gnu/libcuda.so.{driver}\n"


def card(
    index: int,
    name: str,
    mib: int,
    capability: str,
    *,
    driver: str = "580.126.09",
    watts: int = 350,
    display: bool = False,
) -> str:
    uuid = f"GPU-{index}0000000-0000-4000-8000-00000000000{index}"
    active = "Enabled" if display else "Disabled"
    return (
        f"{index}, {uuid}, {name}, {mib}, {mib - 400}, {capability}, {driver}, 00000000:0{index + 1}:00.0, 4, 4, "
        f"16, 16, {watts}.00, {watts}.00, 100.00, {watts}.00, Disabled, {active}, P8, 0x0000000000000001, [N/A]"
    )


def without_driver(message: str = "none") -> str:
    return f"== nvidia\n{message}\n\n== module\n\n== library\n"


def bus(*cards: str, vulkan: bool = False) -> str:
    found = "/usr/share/vulkan/icd.d/nvidia_icd.json" if vulkan else ""
    return "== cards\n" + "\n".join(cards) + f"\n\n== nvidia-vulkan\n{found}\n"


def machine(gib: float = 62.7, free_gib: int = 800) -> str:
    return (
        f"== meminfo\nMemTotal:       {int(gib * 1024**2)} kB\nMemAvailable:   {int(gib * 1024**2) - 2000000} kB\n\n"
        f"== cpus\n0,0,0\n1,1,0\n\n== disk\next4 {free_gib * 1024**3}\n"
    )


def platform(glibc: str = "2.41", system: str = "Debian GNU/Linux 13 (trixie)", arch: str = "x86_64") -> str:
    return f"== machine\n{arch}\n\n== glibc\nglibc {glibc}\n\n== system\n{system}\n"


def compilers(glibc: str = "2.41", gcc: str = "14") -> str:
    return f"== glibc\nglibc {glibc}\n\n== installed\n{gcc}\n\n== offered\n\n"


def processor(name: str = "AMD Ryzen 7 5800X 8-Core Processor", cores: int = 8) -> str:
    rows = "\n".join(f"{cpu},{cpu % cores},0" for cpu in range(2 * cores))
    return f"== name\n{name}\n\n== cores\n{rows}\n"


def ubuntu(**offered: str) -> str:
    """As Ubuntu 24.04 answers, with a card and without a driver."""
    versions = "".join(f"package {name.replace('_', '-')}\nversion {version}\n" for name, version in offered.items())
    return (
        "== os\nVERSION_CODENAME=noble\nID=ubuntu\nID_LIKE=debian\n\n== container\nnone\n\n== cards\n"
        "/sys/bus/pci/devices/0000:01:00.0\n\n== packages\ninstalled linux-image-generic 6.8.0-90.91 linux-meta\n"
        f"\n== offered\n{versions}\n== components\nmain\nrestricted\n\n== running\n6.8.0-90-generic\nheaders\n\n"
        "== boot\n0b7c1a2e-33a5-4c0e-9d53-8f6a0d8a0f11\n"
    )


NO_DRIVER_UBUNTU = ubuntu(
    nvidia_dkms_580_server_open="580.126.09-0ubuntu0.24.04.1",
    libnvidia_compute_580_server="580.126.09-0ubuntu0.24.04.1",
    nvidia_utils_580_server="580.126.09-0ubuntu0.24.04.1",
    nvidia_compute_utils_580_server="580.126.09-0ubuntu0.24.04.1",
)
DEBIAN = (DATA / "answers/NvidiaPackages.nspawn_debian13.txt").read_text().replace("systemd-nspawn", "none")
_WITHOUT_ROOT = "why=only root may read the firmware's table\n"
_DESKTOP: Answers = {
    MachineState: machine(),
    HostPlatform: platform(),
    CompilersFound: compilers(),
    ProcessorFound: processor(),
    MemoryModules: dump("dmidecode/008_ddr4_3200_on.txt"),
    NvidiaPackages: DEBIAN,
    Filesystems: f"ext4 {1000 * 1024**3} {800 * 1024**3} /\n",
}
RTX_3090 = "0000:01:00.0|0x10de|0x2204|nvidia|0|GA102 [GeForce RTX 3090]"


_FACTS: dict[str, type[Any]] = {
    each.__name__: each
    for each in (
        *(Gpus, DisplayCards, InstalledToolkits, ToolkitVersions, MachineState, HostPlatform, CompilersFound),
        *(ProcessorFound, MemoryModules, NvidiaPackages, Filesystems),
    )
}


def _answers(**more: str) -> Answers:
    return {**_DESKTOP, **{_FACTS[name]: text for name, text in more.items()}}


BOXES: Mapping[str, Answers] = {
    "rtx3090": _answers(
        Gpus=nvidia(card(0, "NVIDIA GeForce RTX 3090", 24576, "8.6", display=True)), DisplayCards=bus(RTX_3090)
    ),
    "rtx3090_x2": _answers(
        Gpus=nvidia(
            card(0, "NVIDIA GeForce RTX 3090", 24576, "8.6", display=True),
            card(1, "NVIDIA GeForce RTX 3090", 24576, "8.6"),
        ),
        MemoryModules=dump("dmidecode/001_ddr5_6000_off.txt"),
    ),
    "rtx4090_rtx5070ti": _answers(
        Gpus=nvidia(
            card(0, "NVIDIA GeForce RTX 5070 Ti", 16303, "12.0", watts=300, display=True),
            card(1, "NVIDIA GeForce RTX 4090", 24564, "8.9", watts=450),
        ),
        MemoryModules=_WITHOUT_ROOT,
    ),
    "p40": _answers(Gpus=nvidia(card(0, "Tesla P40", 23040, "6.1", watts=250)), DisplayCards=bus(vulkan=True)),
    "p40_with_cuda_12": _answers(
        Gpus=nvidia(card(0, "Tesla P40", 23040, "6.1", driver="550.163.01", watts=250), driver="550.163.01"),
        InstalledToolkits="/usr\n",
        ToolkitVersions="== /usr\nCuda compilation tools, release 12.4, V12.4.131\n",
        CompilersFound=dump("compilers/trixie_cuda_toolkit.txt"),
    ),
    "p40_beside_rtx3090": _answers(
        Gpus=nvidia(card(0, "Tesla P40", 23040, "6.1", watts=250), card(1, "NVIDIA GeForce RTX 3090", 24576, "8.6")),
    ),
    "rtx4060ti": _answers(
        Gpus=nvidia(card(0, "NVIDIA GeForce RTX 4060 Ti", 16380, "8.9", watts=165)),
        ProcessorFound=dump("documented/ProcessorFound.i5_12600k.txt"),
        HostPlatform=platform("2.42", "CachyOS"),
        CompilersFound=compilers("2.42", "16"),
        NvidiaPackages=dump("documented/NvidiaPackages.cachyos_prebuilt.txt"),
    ),
    "gtx1660": _answers(
        Gpus=nvidia(card(0, "NVIDIA GeForce GTX 1660", 6144, "7.5", watts=120, display=True)),
        MachineState=machine(15.5, free_gib=42),
        Filesystems=f"ext4 {90 * 1024**3} {42 * 1024**3} /\nxfs {2000 * 1024**3} {1500 * 1024**3} /srv/data\n",
    ),
    "old_driver": _answers(
        Gpus=nvidia(card(0, "NVIDIA GeForce RTX 3090", 24576, "8.6", driver="550.163.01"), driver="550.163.01"),
        DisplayCards=bus(RTX_3090, vulkan=True),
    ),
    "no_driver_ubuntu": _answers(
        Gpus=without_driver(),
        DisplayCards=bus(RTX_3090.replace("nvidia", "nouveau").replace("|0|GA", "|1|GA")),
        HostPlatform=platform("2.39", "Ubuntu 24.04.3 LTS"),
        CompilersFound=compilers("2.39", "13"),
        NvidiaPackages=NO_DRIVER_UBUNTU,
    ),
    "no_driver_debian": _answers(Gpus=without_driver(), DisplayCards=bus(RTX_3090.replace("nvidia", ""))),
    "no_driver_unknown": _answers(
        Gpus=without_driver(), DisplayCards=bus("0000:01:00.0|0x10de|0x3000||0|"), NvidiaPackages=DEBIAN
    ),
    "rx7900xt": _answers(
        Gpus=dump("documented/Gpus.amd.txt").replace("0000:0c:00.0||", "0000:0c:00.0|AMD Radeon RX 7900 XT|"),
        DisplayCards=bus("0000:0c:00.0|0x1002|0x744c|amdgpu|1|Navi 31 [Radeon RX 7900 XT/7900 XTX/7900 GRE/7900M]"),
    ),
    "intel_graphics": _answers(
        Gpus=without_driver(),
        DisplayCards=bus("0000:00:02.0|0x8086|0x4680|i915|1|AlderLake-S GT1"),
        ProcessorFound=dump("documented/ProcessorFound.i5_12600k.txt"),
        MemoryModules=dump("dmidecode/005_ddr5_6000_on.txt"),
    ),
    "arc_a770": _answers(Gpus=without_driver(), DisplayCards=bus("0000:03:00.0|0x8086|0x56a0|i915|1|DG2 [Arc A770]")),
    "strix_halo": _answers(
        Gpus="== nvidia\nnone\n== amd\n0000:c3:00.0|AMD Radeon 8060S|536870912|209715200|16.0 GT/s PCIe|16.0 GT/s PCIe|"
        f"16.0 GT/s PCIe|16|16|16|0|1|120000000|120000000|{98304 << 20}|3\n== bus\n0x1002\n",
        DisplayCards=bus("0000:c3:00.0|0x1002|0x1586|amdgpu|1|Strix Halo [Radeon Graphics / Radeon 8050S Graphics]"),
        MachineState=machine(125.1),
        ProcessorFound=processor("AMD RYZEN AI MAX+ 395 w/ Radeon 8060S", 16),
        MemoryModules=_WITHOUT_ROOT,
    ),
    "cpu_only": _answers(
        Gpus=without_driver(), ProcessorFound=processor("Intel(R) Xeon(R) CPU E5-2680 v4 @ 2.40GHz", 14)
    ),
    "gb10": _answers(
        Gpus="== nvidia\n0, GPU-00000000-0000-4000-8000-000000000001, NVIDIA GB10, [N/A], [N/A], 12.1, 580.142, "
        "0000000F:01:00.0, 1, 5, 1, 1, [N/A], [N/A], [N/A], [N/A], Enabled, Disabled, P8, 0x0000000000000001, [N/A]\n"
        "== module\n580.142\n",
        DisplayCards=bus("000f:01:00.0|0x10de|0x2e12|nvidia|0|GB20B [GB10]"),
        MachineState=machine(119.7),
        HostPlatform=platform("2.39", "Ubuntu 24.04.3 LTS", "aarch64"),
        CompilersFound=compilers("2.39", "13"),
        ProcessorFound=dump("documented/ProcessorFound.gb10.txt"),
        MemoryModules=_WITHOUT_ROOT,
    ),
    "jetson_orin": _answers(
        Gpus="== nvidia\n0, [N/A], Orin (nvgpu), [N/A], [N/A], 8.7, 540.4.0, [N/A], [N/A], [N/A], [N/A], [N/A], [N/A], "
        "[N/A], [N/A], [N/A], [N/A], [N/A], [N/A], [N/A], [N/A]\n== module\n540.4.0\n",
        HostPlatform=platform("2.35", "Ubuntu 22.04.5 LTS", "aarch64"),
        CompilersFound=compilers("2.35", "11"),
        InstalledToolkits="/usr/local/cuda-12.6\n",
        ToolkitVersions="== /usr/local/cuda-12.6\nCuda compilation tools, release 12.6, V12.6.68\n",
        ProcessorFound=processor("Cortex-A78AE", 12),
        MemoryModules=_WITHOUT_ROOT,
    ),
    "wsl2": _answers(
        Gpus=dump("documented/Gpus.wsl2.txt"),
        DisplayCards=bus("0000:00:08.0|0x1414|0x008e||0|"),
        HostPlatform=platform("2.39", "Ubuntu 24.04.3 LTS"),
        NvidiaPackages=dump("documented/NvidiaPackages.wsl2.txt"),
        MemoryModules="why=the firmware has no table that dmidecode can read (a container?)\n",
    ),
}
"""Name -> the box."""


def value(requested: Query[Any], answers: Answers) -> Any:
    """A fact, from what its command prints."""
    text = answers.get(requested.fact, "")
    fact = requested.fact()
    return fact.process(text.splitlines()) if text else fact.default()


def hardware(name: str) -> Hardware:
    return hardware_of(BOXES[name])


def hardware_of(answers: Answers) -> Hardware:
    paths = value(Query(InstalledToolkits), answers)
    found = {each.fact: value(each, answers) for each in (*queries_of_survey(), *queries_of_toolkits(paths))}
    return Hardware(
        gpus=found[Gpus],
        bus=found[DisplayCards],
        machine=found[MachineState],
        platform=found[HostPlatform],
        processor=found[ProcessorFound],
        ram=found[MemoryModules],
        driver=found[NvidiaPackages],
        compilers=found[CompilersFound],
        toolkits=found[ToolkitVersions],
        filesystems=found[Filesystems],
    )
