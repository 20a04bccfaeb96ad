"""Errors of GPUs in the kernel's messages, in words."""

from __future__ import annotations

from llamarig.checks.base import Severity
from llamarig.checks.box import Box
from llamarig.facts.gpus import GpuState
from llamarig.facts.kernel_messages import GpuMessage, KernelLog, KilledProcess

from tests.checks.example_boxes import BOX_A, A, R, gpus, look, machine, rig

H200_BUS = "0000:00:06"


def logged(*codes: str, bus: str = H200_BUS, state: GpuState | None = None) -> Box:
    messages = tuple(GpuMessage(code, bus, 1795842009 + number) for number, code in enumerate(codes))
    return Box(gpus=state or gpus(), kernel=KernelLog(readable=True, gpu=messages))


def test_an_xid_is_named_in_words_with_its_card() -> None:
    (finding,) = look("gpu.errors", A, logged("79", "79"))
    assert finding.found == "Xid 79: the card fell off the bus (2 times since boot, last at 2026-11-28 05:00 UTC)"
    assert (finding.about, finding.severity) == ("NVIDIA H200 (00000000:00:06.0)", Severity.ERROR)
    assert "power cables" in finding.remedy


def test_consequences_are_left_out_beside_their_cause() -> None:
    (finding,) = look("gpu.errors", A, logged("79", "45", "154"))
    assert finding.found.startswith("Xid 79")
    (finding,) = look("gpu.errors", A, logged("45"))
    assert (finding.severity, finding.fails) == (Severity.NOTE, False)


def test_an_unknown_xid_leads_to_nvidias_list() -> None:
    (finding,) = look("gpu.errors", A, logged("777"))
    assert (finding.found.partition(":")[0], finding.severity) == ("Xid 777", Severity.WARNING)
    assert "docs.nvidia.com/deploy/xid-errors" in finding.remedy


def test_a_hang_of_a_consumer_blackwell_card_leads_to_cuda_graphs() -> None:
    blackwell = gpus(("9.0, 580.159.04", "12.0, 580.159.04"))
    (finding,) = look("gpu.errors", A, logged("8", state=blackwell))
    assert 'environment={"GGML_CUDA_DISABLE_GRAPHS": "1"} for qwen3-coder, ' in finding.remedy
    (finding,) = look("gpu.errors", A, logged("8"))
    assert "GRAPHS" not in finding.remedy
    models = [
        {**each, "serve": {**each["serve"], "environment": {"GGML_CUDA_DISABLE_GRAPHS": "1"}}}
        for each in BOX_A["models"]
    ]
    (finding,) = look("gpu.errors", rig({**BOX_A, "models": models}, gpus=()), logged("8", state=blackwell))
    assert "GRAPHS" not in finding.remedy


def test_amdgpu_names_its_ring_and_need_not_name_its_card() -> None:
    box = Box(kernel=KernelLog(readable=True, gpu=(GpuMessage("ring timeout", "", 1795842009, "gfx"),)))
    (finding,) = look("gpu.errors", A, box)
    assert finding.found.startswith("ring timeout gfx: a task of the GPU did not end in time")
    assert finding.about == ""


def test_a_box_that_hides_its_kernels_messages_is_unknown_where_a_gpu_is_used() -> None:
    (finding,) = look("gpu.errors", A, Box(kernel=KernelLog()))
    assert (finding.severity, finding.fails) == (Severity.UNKNOWN, False)
    assert look("gpu.errors", R, Box(kernel=KernelLog())) == []


KILL = KilledProcess(7, "llama-server", 1795842009, 12 * 1024**2, "llamarig-qwen3-coder.service", of_limit=True)
BY_LIMIT = (
    "llama-server of llamarig-qwen3-coder.service held 12.0 GiB, more than its unit's limit (2026-11-28 05:00 UTC)"
)


def test_kills_are_named_with_their_cause() -> None:
    killed = machine(("== oom-units\n", f"== oom-units\n{KILL.unit}\n"), name="nspawn_debian13")
    (finding,) = look("memory.oom", A, Box(machine=killed, kernel=KernelLog(kills=(KILL,))))
    assert finding.found == f"ended by the out-of-memory killer: {BY_LIMIT}"

    browser = KilledProcess(9, "firefox", 1795842069, 3 * 1024**2)
    state = machine(("== oom\n", "== oom\n2\n"))
    (finding,) = look("memory.oom", A, Box(machine=state, kernel=KernelLog(kills=(KILL, browser))))
    assert finding.found == (
        "2 programs killed since boot, last firefox held 3.0 GiB, the box had no RAM left (2026-11-28 05:01 UTC); "
        f"{BY_LIMIT}"
    )
    assert finding.severity is Severity.NOTE
