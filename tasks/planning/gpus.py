"""The graphics cards of a box, and which CUDA toolkits, drivers and architectures go together."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from tasks.planning.difference import Difference
from tasks.spec.build import Build
from tasks.spec.rig import Rig

UNNAMED = "AMD GPU"
"""The name of a card of AMD's whose name is not known."""


@dataclass(frozen=True)
class Gpu:
    """One card as its driver tells it. Memory in MiB, power in W; 0, empty or None where it does not tell."""

    index: int
    uuid: str
    name: str
    total_mib: int
    free_mib: int
    compute_capability: str
    """Empty for a card that is not NVIDIA's."""
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
    """Whether a display is active on it."""
    busy: bool = False
    """Whether it works now, so that its link need not be slowed down to save power."""
    throttle: int = 0
    """Bit mask of what slows its clocks down (nvml.h, nvmlClocksEventReason*)."""
    ecc_errors: int = 0
    """Uncorrected memory errors since the driver was loaded."""

    @property
    def architecture(self) -> str:
        """What CMake is told for this card: machine code for it alone, and for Blackwell's own instructions.

        From compute capability 10.0 on, those instructions need the architecture-specific ``a`` target
        (llama.cpp: ggml/src/ggml-cuda/CMakeLists.txt).
        """
        number = self.compute_capability.replace(".", "")
        return f"{number}a-real" if int(number) >= 100 else f"{number}-real"


@dataclass(frozen=True)
class GpuState:
    """All a box says of its cards. ``problem`` is what keeps the NVIDIA ones from being used, in plain words."""

    gpus: tuple[Gpu, ...] = ()
    """NVIDIA's, in nvidia-smi's order."""
    module: str = ""
    """Version of the loaded NVIDIA kernel module, empty where none is loaded."""
    library: str = ""
    """Version of its libraries, which the programs load."""
    problem: str = ""
    complaints: tuple[str, ...] = ()
    """What nvidia-smi said besides the cards that answered: of one that did not, or a warning."""
    amd: tuple[Gpu, ...] = ()
    """Those whose kernel module is loaded, a processor's own graphics among them."""
    on_bus: tuple[str, ...] = ()
    """PCI vendor of each display controller, as sysfs writes it, whatever driver it has."""

    @property
    def cards(self) -> tuple[Gpu, ...]:
        """Every card, NVIDIA's first."""
        return (*self.gpus, *self.amd)


def shown(card: Gpu) -> str:
    """A card as findings name it."""
    return f"{card.name} ({card.bus_id})" if card.bus_id else card.name


# From NVIDIA's CUDA toolkit release notes: "CUDA Toolkit and Corresponding Driver Versions" (minimum for minor version
# compatibility, Linux).
_OLDEST_DRIVER = {13: 580, 12: 525, 11: 450}

Version = tuple[int, int]
"""Of a CUDA toolkit: 13.0 is (13, 0)."""


def oldest_driver(toolkit: Version) -> int:
    """The first driver series that runs what this CUDA toolkit compiles; 0 where it is not known."""
    return _OLDEST_DRIVER.get(toolkit[0], 0)


def toolkit_version(build: Build, toolkits: Mapping[str, Version]) -> Version | None:
    """Version of a build's CUDA toolkit; None where it has none, or nobody could ask it.

    :param toolkits: path -> version, of the toolkits that builds declare by path
    """
    return build.toolkit_version or toolkits.get(build.cuda_toolkit or "")


def declared_toolkits(builds: Iterable[Build]) -> list[str]:
    """Paths of the CUDA toolkits that are declared to be on the box already."""
    return sorted({build.cuda_toolkit for build in builds if build.cuda_toolkit and build.toolkit_version is None})


def with_architectures_of(gpus: Iterable[Gpu], rig: Rig) -> Rig:
    """The rig with the architectures of these cards in every CUDA build that names none; unchanged without a card."""
    architectures = tuple(sorted({gpu.architecture for gpu in gpus}))
    builds = tuple(
        build.model_copy(update={"architectures": architectures}) if build.takes_architectures_of_cards else build
        for build in rig.builds
    )
    return rig.model_copy(update={"builds": builds})


def gpu_differences(
    builds: Iterable[Build], state: GpuState, toolkits: Mapping[str, Version] | None = None
) -> list[Difference]:
    """Whether the box's cards, their driver and its toolkits go together with the CUDA builds.

    :param toolkits: path -> version, of the toolkits that builds declare by path; None where they were not asked
    """
    found: list[Difference] = []
    for build in builds:
        if build.backend == "cuda":
            found += [*_toolkit_differences(build, state, toolkits), *_card_differences(build, state)]
    return found


def driver_difference(state: GpuState) -> Difference | None:
    """What keeps the NVIDIA cards from being used, None where nothing does."""
    if not state.problem:
        return None
    return Difference("NVIDIA driver", "answering", state.problem, remedy=driver_remedy(state), by_deploy=False)


def _toolkit_differences(build: Build, state: GpuState, toolkits: Mapping[str, Version] | None) -> Iterable[Difference]:
    path = build.cuda_toolkit if build.toolkit_version is None else None
    if toolkits is not None and path is not None and path not in toolkits:
        yield Difference(
            f"CUDA toolkit of build {build.name}",
            f"{path}/bin/nvcc",
            "not there, or it does not tell its version",
            remedy="install the toolkit there, or declare a version from PyPI",
            by_deploy=False,
        )
    version = toolkit_version(build, toolkits or {})
    wanted = [*build.architectures, *(gpu.architecture for gpu in state.gpus)]
    if refusal := build.toolkit_refusal(wanted, version):
        yield Difference(f"build {build.name}", "code for the cards", refusal, "see above", by_deploy=False)
    driver = int(state.gpus[0].driver.split(".")[0]) if state.gpus else 0
    if version is not None and driver and driver < oldest_driver(version):
        yield Difference(
            f"driver for build {build.name}",
            f"{oldest_driver(version)} or newer for CUDA {version[0]}.{version[1]}",
            state.gpus[0].driver,
            remedy=f"install a newer driver, or declare the path of a CUDA toolkit that driver {driver} runs",
            by_deploy=False,
        )


def _card_differences(build: Build, state: GpuState) -> Iterable[Difference]:
    for gpu in state.gpus:
        if not runs_on(build.architectures, gpu.compute_capability):
            yield Difference(
                f"{gpu.name} and build {build.name}",
                f"code for {gpu.architecture}",
                f"compiled for {', '.join(build.architectures)}",
                remedy=f'add "{gpu.architecture}" to the build\'s architectures, or leave them out; or '
                "name the cards that serve in each model's serve.gpus",
                by_deploy=False,
            )


def runs_on(architectures: Sequence[str], compute_capability: str) -> bool:
    """Whether a card runs code compiled for one of these architectures as it was meant for it.

    Machine code of the card's own number; or intermediate code (``-virtual``, or no ending) of a number not above it,
    which its driver compiles. Code of another number is not enough: a card ran sm_89 code silently and wrote gibberish
    (llama.cpp #22522).
    """
    own = compute_capability.replace(".", "")
    for architecture in architectures:
        number, _, kind = architecture.partition("-")
        if number.rstrip("af") == own:
            return True
        if kind != "real" and not number.endswith(("a", "f")) and int(number) <= int(own):
            return True
    return False


# What nvidia-smi (and NVML beneath it) says of a card that fell off the bus while the others may answer on, as in
# NVIDIA/open-gpu-kernel-modules #387, NVIDIA/dcgm-exporter #604 and NVIDIA/nvidia-docker #1553.
_LOST = re.compile(r"Unable to determine the device handle|GPU is lost|fallen off the bus", re.IGNORECASE)
HANGS = "nvidia-smi did not answer in time"
"""In the place of its words, where it had to be ended."""
LOST_REMEDY = (
    "look at `dmesg` for Xid 79, reseat the card and its power cables, look whether it is too hot; then restart the box"
)


def is_lost(said: str) -> bool:
    """Whether nvidia-smi speaks of a card that is on the bus no more."""
    return _LOST.search(said) is not None


def driver_remedy(state: GpuState) -> str:
    """What to do about NVIDIA's driver where it shows no card."""
    if is_lost(state.problem):
        return LOST_REMEDY
    if HANGS in state.problem:
        return "a card or its driver hangs: `dmesg` tells why (Xid, or NVRM); restart the box"
    if state.module:
        return "restart the box, so that kernel module and library are of one version again"
    return (
        "declare host_policy(nvidia_driver=d.nvidia_driver()), or install the NVIDIA driver with your distribution's "
        "packages and restart the box"
    )
