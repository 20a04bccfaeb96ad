"""GPUs and driver of a box, from captured output where a GPU was available."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from llamarig.declare.build import Build
from llamarig.facts.cuda_toolkits import ToolkitVersions
from llamarig.facts.gpus import Gpu, Gpus, GpuState
from llamarig.items.cuda_support import driver_difference, gpu_differences

CAPTURES = Path(__file__).parent / "data"
TEXT = (CAPTURES / "gpu/h200_two_idle.txt").read_text()
H200 = TEXT.splitlines()
# Reported in canonical/nvidia-graphics-drivers#78; nvidia-smi prints it on stdout and exits with 18.
MISMATCH = [
    "== nvidia",
    "Failed to initialize NVML: Driver/library version mismatch",
    "NVML library version: 580.95",
    "== module",
    "575.57.08",
]
# For a field that the driver does not know. From driver 580.159.04 with an invented field.
NO_FIELD = ["== nvidia", 'Field "nonsense" is not a valid field to query.']
ABSENT = ["== nvidia", "none"]
# From a machine whose driver libraries were not in the path of the loader.
NO_LIBRARY = ["== nvidia", "NVIDIA-SMI couldn't find libnvidia-ml.so library in your system."]


def test_output_for_two_h200_is_parsed() -> None:
    state = Gpus().process(H200)
    assert (state.problem, state.module, state.library, state.amd) == ("", "580.159.04", "580.159.04", ())
    first, second = state.gpus
    assert first == Gpu(
        index=0,
        uuid="GPU-abb3f99e-7dc8-fb04-7f9d-6c963a49df37",
        name="NVIDIA H200",
        total_mib=143771,
        free_mib=143156,
        compute_capability="9.0",
        driver="580.159.04",
        bus_id="00000000:00:06.0",
        pcie_generation=5,
        pcie_generation_max=5,
        pcie_width=16,
        pcie_width_max=16,
        power_limit_w=700.0,
        power_default_w=700.0,
        power_least_w=200.0,
        power_most_w=700.0,
        persistence=True,
        display=False,
        busy=False,
        throttle=1,
        ecc_errors=0,
    )
    assert first.architecture == "90-real"
    assert (second.index, second.uuid, second.bus_id) == (
        1,
        "GPU-4cca22c5-5bea-e393-bf5c-75204854eb28",
        "00000000:00:07.0",
    )


def test_a_gpu_without_ecc_has_no_errors() -> None:
    """The line of the H200 with the values of a GeForce."""
    card = Gpus().process(TEXT.replace("0x0000000000000001, 0", "[N/A], [N/A]").splitlines()).gpus[0]
    assert (card.throttle, card.ecc_errors) == (0, 0)


def test_output_for_an_amd_gpu_is_parsed() -> None:
    """Output written by the kernel's documentation of amdgpu: no such GPU was available."""
    state = Gpus().process((CAPTURES / "documented/Gpus.amd.txt").read_text().splitlines())
    (card,) = state.amd
    assert state.gpus == ()
    assert (card.total_mib, card.free_mib, card.pcie_generation) == (20464, 19440, 4)
    assert (card.pcie_width, card.pcie_width_max, card.power_limit_w, card.power_default_w) == (8, 16, 300, 315)


def test_module_and_library_of_different_versions_need_a_reboot() -> None:
    state = Gpus().process(MISMATCH)
    assert state.gpus == ()
    assert "Driver/library version mismatch" in state.problem
    assert (state.module, state.library) == ("575.57.08", "580.95")
    difference = driver_difference(state)
    assert difference is not None
    assert "restart the box" in difference.remedy


@pytest.mark.parametrize(
    ("output", "problem"),
    [
        (ABSENT, "no nvidia-smi on this box"),
        (NO_FIELD, "not a valid field"),
        ([], "nvidia-smi lists no card"),
        (NO_LIBRARY, "libnvidia-ml.so"),
    ],
)
def test_output_without_a_usable_gpu_is_reported_as_a_problem(output: list[str], problem: str) -> None:
    state = Gpus().process(output)
    assert problem in state.problem
    difference = driver_difference(state)
    assert difference is not None
    assert "nvidia_driver=d.nvidia_driver()" in difference.remedy
    assert gpu_differences([Build(name="cuda", architectures=("89-real",), cuda_toolkit="13.0")], state) == []


def test_an_nvidia_smi_that_hangs_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a stand-in for nvidia-smi that never ends, as with a GPU that hangs."""
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\nexec sleep 600\n")
    program.chmod(0o755)
    monkeypatch.setattr("llamarig.facts.gpus._TIMEOUT_S", 1)
    environment = {"PATH": f"{tmp_path}:/usr/sbin:/usr/bin:/sbin:/bin"}
    done = subprocess.run(["sh", "-c", Gpus().command()], env=environment, capture_output=True, text=True, check=True)
    state = Gpus().process(done.stdout.splitlines())
    assert state.problem == "nvidia-smi did not answer in time"
    difference = driver_difference(state)
    assert difference is not None
    assert "hangs" in difference.remedy
    assert "install" not in difference.remedy


@given(
    st.lists(
        st.text()
        | st.sampled_from(["== nvidia", "== module", "== library", "== amd", *H200]).flatmap(
            lambda a: st.text().map(a.__add__)
        )
    )
)
def test_garbage_does_not_raise(output: list[str]) -> None:
    assert isinstance(Gpus().process(output), GpuState)


def test_output_of_nvcc_is_parsed() -> None:
    lines = ["== /usr", "nvcc: NVIDIA (R) Cuda compiler driver", "Cuda compilation tools, release 12.4, V12.4.131"]
    assert ToolkitVersions().process([*lines, "== /no/such", "== /odd", "release 12"]) == {"/usr": (12, 4)}
