"""Which driver and architectures a CUDA build needs for the GPUs of a box."""

from __future__ import annotations

from pathlib import Path

import pytest
from llamarig.declare.build import CUDA_FROM_PYPI, Build
from llamarig.facts.gpus import Gpu, GpuState
from llamarig.items.cuda_support import declared_toolkits, gpu_differences, runs_on


def gpu(capability: str, driver: str = "580.95.05") -> Gpu:
    return Gpu(0, "GPU-0", "a card", 24564, 23671, capability, driver, "00000000:01:00.0")


def cuda(*architectures: str, toolkit: str = "13.0") -> Build:
    return Build(name="cuda", architectures=architectures, cuda_toolkit=toolkit)


@pytest.mark.parametrize(
    ("architectures", "capability", "runs"),
    [
        (["89-real", "120a-real"], "8.9", True),
        (["89-real", "120a-real"], "12.0", True),
        # Silently runs as sm_89 and generates gibberish: llama.cpp #22522.
        (["89-real", "121-real"], "12.0", False),
        (["89-real"], "8.6", False),
        (["75-virtual"], "8.9", True),
        (["90-virtual"], "8.9", False),
        (["120a"], "12.1", False),  # architecture-specific code runs on that architecture only
    ],
)
def test_an_architecture_runs_on_matching_gpus_only(architectures: list[str], capability: str, runs: bool) -> None:
    assert runs_on(architectures, capability) is runs


def test_an_unsuitable_driver_and_architecture_are_two_differences() -> None:
    state = GpuState((gpu("12.0", driver="575.57.08"),), module="575.57.08")
    driver, architecture = gpu_differences([cuda("89-real")], state)
    assert "580 or newer for CUDA 13.0" in str(driver)
    assert "driver 575" in driver.remedy
    assert "120a-real" in architecture.remedy
    assert gpu_differences([cuda("120a-real")], GpuState((gpu("12.0"),), "580.95.05")) == []


DATA = Path(__file__).parents[1] / "facts/data/toolkits/gpu_codes.txt"


@pytest.mark.parametrize("line", DATA.read_text().splitlines())
def test_architectures_are_those_of_the_wheels_nvcc(line: str) -> None:
    version, *codes = line.split()
    build = Build(name="cuda", cuda_toolkit=version)
    accepted = [str(number) for number in range(50, 140) if build.toolkit_refusal([f"{number}-real"]) is None]
    assert accepted == codes


def test_every_lock_has_its_architectures() -> None:
    assert tuple(line.split()[0] for line in DATA.read_text().splitlines()) == CUDA_FROM_PYPI


def test_an_architecture_that_a_toolkit_by_path_may_know_is_not_refused() -> None:
    build = cuda("95-real", toolkit="/usr/local/cuda-14.0")
    assert build.toolkit_refusal(build.architectures, (14, 0)) is None
    assert "calls 101a-real 110" in str(build.toolkit_refusal(["101a-real"], (13, 1)))
    assert build.toolkit_refusal(["101a-real"], (12, 8)) is None


def test_a_toolkit_by_path_is_compared_by_its_installed_version() -> None:
    build = cuda("120a-real", toolkit="/usr")
    assert declared_toolkits([build, cuda("89-real")]) == ["/usr"]
    state = GpuState((gpu("12.0", driver="570.86.10"),), module="570.86.10")
    (too_old,) = gpu_differences([build], state, {"/usr": (12, 4)})
    assert "CUDA 12.4 cannot compile for 120a-real" in str(too_old)
    assert gpu_differences([build], state, {"/usr": (12, 8)}) == []
    (driver,) = gpu_differences([build], state, {"/usr": (13, 0)})
    assert "580 or newer for CUDA 13.0" in str(driver)
    (absent,) = gpu_differences([build], state, {})
    assert "/usr/bin/nvcc is missing or reports no version" in str(absent)
    assert gpu_differences([Build(name="cpu", backend="cpu")], state, {}) == []
