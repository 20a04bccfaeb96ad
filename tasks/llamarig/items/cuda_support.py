"""Which CUDA toolkits, drivers, architectures and graphics cards work together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from llamarig.declare.build import Build
from llamarig.declare.rig import Rig
from llamarig.engine.item import Difference, Seen
from llamarig.facts.cuda_toolkits import ToolkitVersions, Version
from llamarig.facts.gpus import HANGS, GpuState, is_lost

# From NVIDIA's CUDA toolkit release notes: "CUDA Toolkit and Corresponding Driver Versions" (minimum for minor version
# compatibility, Linux).
_OLDEST_DRIVER = {13: 580, 12: 525, 11: 450}


def oldest_driver(toolkit: Version) -> int:
    """The oldest driver series that runs code of this CUDA toolkit; 0 if it is not known."""
    return _OLDEST_DRIVER.get(toolkit[0], 0)


def toolkit_version(build: Build, toolkits: Mapping[str, Version]) -> Version | None:
    """Version of a build's CUDA toolkit; None if it has none, or its version could not be read.

    :param toolkits: path -> version, of the toolkits that builds declare by path
    """
    return build.toolkit_version or toolkits.get(build.cuda_toolkit or "")


def declared_toolkits(builds: Iterable[Build]) -> list[str]:
    """Paths of the CUDA toolkits that the owner has installed on the box."""
    return sorted({build.cuda_toolkit for build in builds if build.cuda_toolkit and build.toolkit_version is None})


def cuda_builds(rig: Rig) -> list[Build]:
    """The declared builds with the CUDA backend."""
    return [build for build in rig.builds if build.backend == "cuda"]


def read_versions(rig: Rig, seen: Seen) -> dict[str, Version]:
    """Path -> version of the CUDA toolkits that the owner has installed on the box."""
    paths = declared_toolkits(rig.builds)
    return seen.get(ToolkitVersions, paths=paths) if paths else {}


def gpu_differences(
    builds: Iterable[Build], state: GpuState, toolkits: Mapping[str, Version] | None = None
) -> list[Difference]:
    """Differences of the box's cards, driver and toolkits from what its CUDA builds need.

    :param toolkits: path -> version, of the toolkits that builds declare by path; None if they were not read
    """
    found: list[Difference] = []
    for build in builds:
        if build.backend == "cuda":
            found += [*_toolkit_differences(build, state, toolkits), *_card_differences(build, state)]
    return found


def driver_difference(state: GpuState) -> Difference | None:
    """Why the NVIDIA cards cannot be used; None if they can."""
    if not state.problem:
        return None
    return Difference(
        "NVIDIA driver", "a driver that answers", state.problem, remedy=driver_remedy(state), by_deploy=False
    )


def _toolkit_differences(build: Build, state: GpuState, toolkits: Mapping[str, Version] | None) -> Iterable[Difference]:
    path = build.cuda_toolkit if build.toolkit_version is None else None
    if toolkits is not None and path is not None and path not in toolkits:
        yield Difference(
            f"CUDA toolkit of build {build.name}",
            "a toolkit there",
            f"{path}/bin/nvcc is missing or reports no version",
            remedy="install the toolkit there, or declare a version from PyPI",
            by_deploy=False,
        )
    version = toolkit_version(build, toolkits or {})
    wanted = [*build.architectures, *(gpu.architecture for gpu in state.gpus)]
    if refusal := build.toolkit_refusal(wanted, version):
        yield Difference.refusal_of(
            f"build {build.name}", "a toolkit that compiles for the cards", f"build {build.name}: {refusal}"
        )
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
                f"compiled for {', '.join(build.architectures)} only",
                remedy=f'add "{gpu.architecture}" to the build\'s architectures, or leave them out; or '
                "name the cards that serve in each model's serve.gpus",
                by_deploy=False,
            )


def runs_on(architectures: Sequence[str], compute_capability: str) -> bool:
    """Whether code compiled for one of these architectures runs correctly on a card.

    It does if it is machine code of the card's own number, or intermediate code (``-virtual``, or no suffix) of at most
    that number, which the driver compiles. Machine code of another number may run and produce gibberish, as sm_89 code
    did (llama.cpp #22522).
    """
    own = compute_capability.replace(".", "")
    for architecture in architectures:
        number, _, kind = architecture.partition("-")
        if number.rstrip("af") == own:
            return True
        if kind != "real" and not number.endswith(("a", "f")) and int(number) <= int(own):
            return True
    return False


LOST_REMEDY = (
    "look for Xid 79 in `dmesg`, reseat the card and its power cables, check its temperature; then restart the box"
)


WSL_REMEDY = "install Debian, Ubuntu or Arch on the machine itself, or declare a build with backend cpu"


def driver_remedy(state: GpuState) -> str:
    """What to do when NVIDIA's driver shows no card."""
    if is_lost(state.problem):
        return LOST_REMEDY
    if state.wsl:
        return WSL_REMEDY
    if HANGS in state.problem:
        return "a card or its driver hangs: look for Xid or NVRM in `dmesg`, then restart the box"
    if state.module:
        return "restart the box, so that kernel module and library have the same version again"
    return (
        "declare host_policy(nvidia_driver=d.nvidia_driver()), or install the NVIDIA driver with your distribution's "
        "packages and restart the box"
    )
