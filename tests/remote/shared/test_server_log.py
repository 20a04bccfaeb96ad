"""Memory lines of llama-server's log, from the pinned commit and from reports of users whose GPUs were too small."""

from __future__ import annotations

import random

import pytest
from llamarig.remote.shared.server_log import TOLERANCE_MIB, compare, match_device, read_log, shortfall

MARGINS = {"CUDA0": 384, "CUDA1": 384}
PLANNED = {"CUDA0": 23280, "CUDA1": 12100}

# The format strings of the pinned commit, with Qwen3-Coder-Next's sizes on box A.
LOADED = """\
0.00.105.232 I device_info:
0.00.208.940 I   - CUDA0   : NVIDIA GeForce RTX 4090 (24080 MiB, 23671 MiB free)
0.00.208.951 I   - CUDA1   : NVIDIA GeForce RTX 5070 Ti (15845 MiB, 12761 MiB free)
0.00.208.960 I   - CPU     : AMD Ryzen 7 5800X3D 8-Core Processor (64203 MiB, 64203 MiB free)
0.01.480.050 I load_tensors: offloaded 49/49 layers to GPU
0.01.480.061 I load_tensors:    CUDA_Host model buffer size = 37871.25 MiB
0.01.480.065 I load_tensors:        CUDA0 model buffer size = 19309.70 MiB
0.01.480.066 I load_tensors:        CUDA1 model buffer size =  9242.11 MiB
0.41.110.002 I llama_context:  CUDA_Host  output buffer size =     0.58 MiB
0.41.130.770 I llama_kv_cache:      CUDA0 KV buffer size =  2176.00 MiB
0.41.131.113 I llama_kv_cache:      CUDA1 KV buffer size =  1088.00 MiB
0.41.140.203 I llama_memory_recurrent:      CUDA0 RS buffer size =    50.25 MiB
0.41.140.377 I llama_memory_recurrent:      CUDA1 RS buffer size =    25.12 MiB
0.41.402.511 I sched_reserve:      CUDA0 compute buffer size =  1744.09 MiB
0.41.402.514 I sched_reserve:      CUDA1 compute buffer size =  1744.09 MiB
0.41.402.516 I sched_reserve:  CUDA_Host compute buffer size =  1056.05 MiB
0.41.402.520 I sched_reserve: graph (pp bs=2048, tg bs=1): nodes = 4183 / 3031, splits = 104 / 63, input objects = 9
""".splitlines()
WEIGHTS_DO_NOT_FIT = [
    *LOADED[:4],
    "0.01.470.101 E ggml_backend_cuda_buffer_type_alloc_buffer: allocating 19309.70 MiB on device 0: "
    "cudaMalloc failed: out of memory",
    "0.01.470.110 E alloc_tensor_range: failed to allocate CUDA0 buffer of size 20247688192",
    "0.01.495.020 E llama_model_load: error loading model: unable to allocate CUDA0 buffer",
    "0.01.495.033 E llama_model_load_from_file_impl: failed to load model",
]
# From a user's report of 1 August 2026 (llama.cpp pull request 26297): the server works without this buffer.
COMPUTE_BUFFER_DOES_NOT_FIT = [
    *LOADED[:13],
    "1.06.520.077 E ggml_backend_cuda_buffer_type_alloc_buffer: allocating 1744.09 MiB on device 1: cudaMalloc failed: "
    "out of memory",
    "1.06.520.084 E ggml_gallocr_reserve_n_impl: failed to allocate CUDA1 buffer of size 1828814848",
    "1.06.520.086 E graph_reserve: failed to allocate compute buffers",
]
OUT_OF_MEMORY_AT_WORK = [
    *LOADED,
    "0.51.120.417 E CUDA error: out of memory",
    "0.51.120.420 E   current device: 1, in function alloc at /src/ggml/src/ggml-cuda/ggml-cuda.cu:512",
    "0.51.120.421 E   ggml_cuda_device_malloc(&ptr, look_ahead_size, device)",
]


def test_buffers_and_free_memory_of_a_start() -> None:
    log = read_log(["systemd says something", *LOADED])
    assert log.free_mib == {"CUDA0": 23671, "CUDA1": 12761}
    assert log.memory["CUDA0"].model == 19309.70
    assert log.memory["CUDA0"].context == 2176 + 50.25
    assert log.memory["CUDA0"].compute == 1744.09
    assert log.memory["CUDA_Host"].total == pytest.approx(37871.25 + 1056.05)
    assert log.shortage is None


def test_the_buffers_of_a_draft_model_are_left_out() -> None:
    draft = [line.replace("19309.70", "900.00").replace("2176.00", "100.00") for line in LOADED[5:]]
    assert read_log([*LOADED, *draft]).memory == read_log(LOADED).memory


def test_a_compute_buffer_reserved_again_replaces_the_first() -> None:
    again = "0.50.000.000 I sched_reserve:      CUDA0 compute buffer size =  1800.00 MiB"
    assert read_log([*LOADED, again]).memory["CUDA0"].compute == 1800


def test_a_start_that_took_what_was_predicted_has_no_shortfall() -> None:
    log = read_log(LOADED)
    found = compare(log, PLANNED)
    assert [str(device) for device in found] == [
        "CUDA0 23280 MiB, predicted 23280",
        "CUDA1 12099 MiB, predicted 12100",
    ]
    assert not any(device.differs for device in found)
    assert shortfall(log, PLANNED, {"CUDA0": 384, "CUDA1": 384}) == {}
    assert shortfall(log, {name: mib + TOLERANCE_MIB + 1 for name, mib in PLANNED.items()}, MARGINS) == {}, (
        "less is fine"
    )


def test_more_than_predicted_is_short_of_what_it_takes_from_the_margin() -> None:
    log = read_log(LOADED)
    less = {"CUDA0": 23000, "CUDA1": 12000}
    assert all(device.differs for device in compare(log, less))
    # 384 MiB should stay free: 391 are free on CUDA0, 661 on CUDA1.
    assert shortfall(log, less, MARGINS) == {}
    lacks = shortfall(log, less, {"CUDA0": 500, "CUDA1": 500})
    assert lacks == {"CUDA0": pytest.approx(23280.04 + 500 - 23671)}


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        # 23,671 MiB were free, enough for 23,280 and the margin: how much was missing is unknown.
        (WEIGHTS_DO_NOT_FIT, {"CUDA0": 1.0}),
        (COMPUTE_BUFFER_DOES_NOT_FIT, {"CUDA1": 1.0}),
        (OUT_OF_MEMORY_AT_WORK, {"CUDA1": 1.0}),
    ],
)
def test_the_shortfall_of_a_failed_allocation_is_computed(lines: list[str], expected: dict[str, float]) -> None:
    log = read_log(lines)
    assert log.shortage is not None
    assert shortfall(log, PLANNED, MARGINS) == expected


def test_the_shortfall_counts_memory_held_by_another_process() -> None:
    lines = [line.replace("23671 MiB free", "22000 MiB free") for line in WEIGHTS_DO_NOT_FIT]
    assert shortfall(read_log(lines), PLANNED, MARGINS) == {"CUDA0": 23280 + 384 - 22000}
    # No dry run measured a step down: the need is what was allocated plus what was requested.
    assert shortfall(read_log(lines), None, MARGINS) == {"CUDA0": 1.0}
    lines = [line.replace("12761 MiB free", "11000 MiB free") for line in COMPUTE_BUFFER_DOES_NOT_FIT]
    wanted = 9242.11 + 1088 + 25.12 + 1744.09
    assert shortfall(read_log(lines), None, MARGINS) == {"CUDA1": pytest.approx(wanted + 384 - 11000)}


@pytest.mark.parametrize(
    "line",
    [
        "alloc_tensor_range: failed to allocate CPU buffer of size 437944320",
        "llama_model_load: error loading model: unable to allocate CPU buffer",
        "ggml_gallocr_reserve_n_impl: failed to allocate CUDA_Host buffer of size 1107296256",
        "error: invalid argument: --no-mmap",
        "llama_model_load: error loading model: missing tensor 'blk.3.attn_q.weight'",
    ],
)
def test_failures_unrelated_to_gpu_memory_have_no_shortfall(line: str) -> None:
    assert shortfall(read_log([*LOADED, line]), PLANNED, MARGINS) == {}


@pytest.mark.parametrize(
    ("line", "lacks"),
    [
        ("ggml_gallocr_reserve_n: failed to allocate ROCm0 buffer of size 14822711296", ["ROCm0"]),
        ("alloc_buffer: allocating 144.00 MiB on device 0: cudaMalloc failed: out of memory", ["ROCm0"]),
        ("ggml_vulkan: Device memory allocation of size 1828814848 failed.", ["ROCm0", "ROCm1"]),
    ],
)  # fmt: skip
def test_failed_allocations_of_other_backends_are_recognised(line: str, lacks: list[str]) -> None:
    assert list(shortfall(read_log([line]), None, {"ROCm0": 384, "ROCm1": 384})) == lacks


def test_devices_are_matched_by_name_and_number() -> None:
    assert match_device("1", ["CUDA0", "CUDA1"]) == "CUDA1"
    assert match_device("CUDA0", ["CUDA0", "CUDA1"]) == "CUDA0"
    assert match_device("CPU", ["CUDA0"]) is None
    assert match_device("2", ["CUDA0"]) is None


def test_damaged_lines_raise_no_error() -> None:
    chance = random.Random(7)
    text = "\n".join([*COMPUTE_BUFFER_DOES_NOT_FIT, *OUT_OF_MEMORY_AT_WORK])
    for _ in range(300):
        broken = list(text)
        for _ in range(chance.randrange(1, 40)):
            broken[chance.randrange(len(broken))] = chance.choice("\n\0 =:9.CUDA")
        log = read_log("".join(broken).splitlines())
        shortfall(log, PLANNED, MARGINS)
        compare(log, PLANNED)
