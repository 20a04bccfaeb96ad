"""What a box says of its graphics cards, from real output where there was a card to ask."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.facts.gpus import Gpus
from tasks.facts.toolkits import ToolkitVersions
from tasks.planning.gpus import (
    Gpu,
    GpuState,
    declared_toolkits,
    driver_difference,
    gpu_differences,
    runs_on,
    with_architectures_of,
)
from tasks.spec.build import Build
from tasks.spec.rig import Rig

CAPTURES = Path(__file__).parent / "data"
TEXT = (CAPTURES / "gpu/h200_two_idle.txt").read_text()
H200 = TEXT.splitlines()
# As reported in canonical/nvidia-graphics-drivers#78; nvidia-smi prints it on stdout and exits with 18.
MISMATCH = [
    "== nvidia",
    "Failed to initialize NVML: Driver/library version mismatch",
    "NVML library version: 580.95",
    "== module",
    "575.57.08",
]
# A field that an older driver does not know; seen with driver 580.159.04 and a made-up field.
NO_FIELD = ["== nvidia", 'Field "nonsense" is not a valid field to query.']
ABSENT = ["== nvidia", "none"]
# Seen on a machine whose driver libraries were not on the loader's path.
NO_LIBRARY = ["== nvidia", "NVIDIA-SMI couldn't find libnvidia-ml.so library in your system."]


def gpu(capability: str, driver: str = "580.95.05") -> Gpu:
    return Gpu(0, "GPU-0", "a card", 24564, 23671, capability, driver, "00000000:01:00.0")


def cuda(*architectures: str, toolkit: str = "13.0") -> Build:
    return Build(name="cuda", architectures=architectures, cuda_toolkit=toolkit)


def test_two_real_cards() -> None:
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


def test_a_consumer_card_without_ecc() -> None:
    """The H200's line with what a GeForce answers in those places."""
    card = Gpus().process(TEXT.replace("0x0000000000000001, 0", "[N/A], [N/A]").splitlines()).gpus[0]
    assert (card.throttle, card.ecc_errors) == (0, 0)


def test_an_amd_card_by_the_kernels_own_files() -> None:
    """Put together from the kernel's documentation of amdgpu's sysfs files: there was no such card to ask."""
    state = Gpus().process((CAPTURES / "documented/Gpus.amd.txt").read_text().splitlines())
    (card,) = state.amd
    assert state.gpus == ()
    assert (card.total_mib, card.free_mib, card.pcie_generation) == (20464, 19440, 4)
    assert (card.pcie_width, card.pcie_width_max, card.power_limit_w, card.power_default_w) == (8, 16, 300, 315)


def test_module_and_library_of_two_versions() -> None:
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
def test_no_usable_card_is_an_answer(output: list[str], problem: str) -> None:
    state = Gpus().process(output)
    assert problem in state.problem
    difference = driver_difference(state)
    assert difference is not None
    assert "nvidia_driver=d.nvidia_driver()" in difference.remedy
    assert gpu_differences([cuda("89-real")], state) == []


def test_an_nvidia_smi_that_hangs_is_said_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for nvidia-smi beside a card that hangs: it never answers."""
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\nexec sleep 600\n")
    program.chmod(0o755)
    monkeypatch.setattr("tasks.facts.gpus._PATIENCE_S", 1)
    environment = {"PATH": f"{tmp_path}:/usr/sbin:/usr/bin:/sbin:/bin"}
    said = subprocess.run(["sh", "-c", Gpus().command()], env=environment, capture_output=True, text=True, check=True)
    state = Gpus().process(said.stdout.splitlines())
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
def test_garbage_never_raises(output: list[str]) -> None:
    assert isinstance(Gpus().process(output), GpuState)


@pytest.mark.parametrize(
    ("architectures", "capability", "runs"),
    [
        (["89-real", "120a-real"], "8.9", True),
        (["89-real", "120a-real"], "12.0", True),
        (["89-real", "121-real"], "12.0", False),  # ran silently as sm_89 and wrote gibberish: llama.cpp #22522
        (["89-real"], "8.6", False),
        (["75-virtual"], "8.9", True),
        (["90-virtual"], "8.9", False),
        (["120a"], "12.1", False),  # architecture-specific code runs nowhere else
    ],
)
def test_whose_code_a_card_runs(architectures: list[str], capability: str, runs: bool) -> None:
    assert runs_on(architectures, capability) is runs


def test_wrong_pairs_are_named() -> None:
    state = GpuState((gpu("12.0", driver="575.57.08"),), module="575.57.08")
    driver, architecture = gpu_differences([cuda("89-real")], state)
    assert "580 or newer for CUDA 13.0" in str(driver)
    assert "driver 575" in driver.remedy
    assert "120a-real" in architecture.remedy
    assert gpu_differences([cuda("120a-real")], GpuState((gpu("12.0"),), "580.95.05")) == []


def test_a_toolkit_of_the_box_is_asked_its_version() -> None:
    build = cuda("120a-real", toolkit="/usr")
    assert declared_toolkits([build, cuda("89-real")]) == ["/usr"]
    state = GpuState((gpu("12.0", driver="570.86.10"),), module="570.86.10")
    (too_old,) = gpu_differences([build], state, {"/usr": (12, 4)})
    assert "CUDA 12.4 cannot compile for 120a-real" in str(too_old)
    assert gpu_differences([build], state, {"/usr": (12, 8)}) == []
    (driver,) = gpu_differences([build], state, {"/usr": (13, 0)})
    assert "580 or newer for CUDA 13.0" in str(driver)
    (absent,) = gpu_differences([build], state, {})
    assert "declared /usr/bin/nvcc" in str(absent)
    assert gpu_differences([Build(name="cpu", backend="cpu")], state, {}) == []


def test_what_nvcc_says_of_itself() -> None:
    said = ["== /usr", "nvcc: NVIDIA (R) Cuda compiler driver", "Cuda compilation tools, release 12.4, V12.4.131"]
    assert ToolkitVersions().process([*said, "== /no/such", "== /odd", "release 12"]) == {"/usr": (12, 4)}


def test_architectures_of_the_cards_present() -> None:
    serve = {"port": 8080, "context": 4096}
    model = {"name": "m", "repo": "a/b", "quant": "Q8_0", "build": "cuda", "serve": serve}
    rig = Rig.model_validate({"builds": [cuda().to_json()], "models": [model]})
    resolved = with_architectures_of([gpu("12.0"), gpu("8.9")], rig)
    assert resolved.builds[0].architectures == ("120a-real", "89-real")
    assert with_architectures_of([], rig) == rig
