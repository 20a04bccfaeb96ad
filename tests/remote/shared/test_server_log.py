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


# A model with a layer of multi-token prediction on two simulated cards, with --spec-type draft-mtp.
WITH_SECOND_CONTEXT = """\
0.05.603.914 I load_tensors:   CPU_Mapped model buffer size =   125.00 MiB
0.05.603.915 I load_tensors:        CUDA0 model buffer size =   528.95 MiB
0.05.603.916 I load_tensors:        CUDA1 model buffer size =  1169.84 MiB
0.06.375.966 I llama_context:  CUDA_Host  output buffer size =     0.12 MiB
0.06.376.317 I llama_kv_cache:      CUDA0 KV buffer size =    45.00 MiB
0.06.376.325 I llama_kv_cache:      CUDA1 KV buffer size =    45.00 MiB
0.06.395.984 I sched_reserve:      CUDA0 compute buffer size =   100.02 MiB
0.06.396.018 I sched_reserve:      CUDA1 compute buffer size =   110.09 MiB
0.06.396.036 I sched_reserve:  CUDA_Host compute buffer size =    52.03 MiB
0.06.396.889 I llama_context:  CUDA_Host  output buffer size =     0.12 MiB
0.06.402.241 I llama_kv_cache:      CUDA1 KV buffer size =     9.00 MiB
0.06.412.231 I sched_reserve:      CUDA1 compute buffer size =    99.53 MiB
0.06.412.253 I sched_reserve:  CUDA_Host compute buffer size =    48.03 MiB
0.06.419.399 I sched_reserve:      CUDA1 compute buffer size =    99.53 MiB
0.06.424.064 I sched_reserve:  CUDA_Host compute buffer size =    48.03 MiB
""".splitlines()


def test_a_second_context_of_the_same_model_is_counted() -> None:
    """It loads no weights, and its buffers stand beside those of the first one. A draft model after it is left out."""
    for lines in (WITH_SECOND_CONTEXT, [*WITH_SECOND_CONTEXT, *LOADED[5:]]):
        log = read_log(lines)
        assert log.memory["CUDA0"].total == pytest.approx(528.95 + 45 + 100.02)
        assert log.memory["CUDA1"].total == pytest.approx(1169.84 + 45 + 9 + 110.09 + 99.53)


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
        ("ROCm error: CUBLAS_STATUS_ALLOC_FAILED", ["ROCm0", "ROCm1"]),
        ("MESA: error: ../src/intel/vulkan/anv_device.c:4237: VK_ERROR_OUT_OF_DEVICE_MEMORY", ["ROCm0", "ROCm1"]),
        ("terminate called after throwing an instance of 'vk::OutOfDeviceMemoryError'", ["ROCm0", "ROCm1"]),
        ("Queue 0x7f aborting with error : HSA_STATUS_ERROR_OUT_OF_RESOURCES: ...", ["ROCm0", "ROCm1"]),
    ],
)  # fmt: skip
def test_failed_allocations_of_other_backends_are_recognised(line: str, lacks: list[str]) -> None:
    assert list(shortfall(read_log([line]), None, {"ROCm0": 384, "ROCm1": 384})) == lacks


@pytest.mark.parametrize(
    ("block", "device", "mib"),
    [
        # llama.cpp #25304: cuBLAS finds no room for its handle.
        (
            "CUDA error: the resource allocation failed\n"
            "  current device: 0, in function cublas_handle at common.cuh:1400\n"
            "  cublasCreate_v2(&cublas_handles[device])",
            "0",
            0.0,
        ),
        # The same as other versions of cuBLAS and hipBLAS word it.
        (
            "CUDA error: the library was not initialized\n"
            "  current device: 1, in function cublas_handle at common.cuh:1400\n"
            "  cublasCreate_v2(&cublas_handles[device])",
            "1",
            0.0,
        ),
        ("ROCm error: CUBLAS_STATUS_NOT_INITIALIZED\n  current device: 0, in function cublas_handle", "0", 0.0),
        ("cuMemCreate failed: CUDA_ERROR_OUT_OF_MEMORY (4.50 MiB)", None, 4.5),
        # llama.cpp #25080 and ollama #18272: memory may have been free, so a step down is a guess.
        (
            "radv/amdgpu: Not enough memory for command submission.\n"
            "terminate called after throwing an instance of 'vk::DeviceLostError'\n"
            "  what():  vk::Queue::submit: ErrorDeviceLost",
            None,
            0.0,
        ),
        # radv_amdgpu_bo.c, in bytes.
        (
            "radv/amdgpu: Failed to allocate a buffer:\nradv/amdgpu:    size      : 1073741824 bytes\n"
            "radv/amdgpu:    alignment : 2097152 bytes\nradv/amdgpu:    domains   : 4",
            None,
            1024.0,
        ),
        # llama.cpp #15009.
        (
            "ggml_vulkan: Device memory allocation of size 4757131264 failed.\n"
            "ggml_vulkan: Requested buffer size exceeds device memory allocation limit: ErrorOutOfDeviceMemory\n"
            "ggml_gallocr_reserve_n: failed to allocate Vulkan0 buffer of size 4757131264",
            "Vulkan0",
            4757131264 / (1 << 20),
        ),
        # The virtual memory pool of a HIP build, and a size in the line itself.
        (
            "ROCm error: out of memory (hipMalloc of 512.00 MiB)\n  current device: 1, in function alloc at x.cu:580",
            "1",
            512.0,
        ),
    ],
)  # fmt: skip
def test_failures_are_read_with_device_and_size(block: str, device: str | None, mib: float) -> None:
    shortage = read_log([*LOADED, *block.splitlines()]).shortage
    assert shortage is not None
    assert (shortage.message, shortage.device) == (block.splitlines()[0], device)
    assert shortage.requested_mib == pytest.approx(mib)


@pytest.mark.parametrize(
    "lines",
    [
        # A lost device alone, and what the server does without: RAM that could not be pinned.
        "terminate called after throwing an instance of 'vk::DeviceLostError'\n  what(): ErrorDeviceLost",
        "ggml_vulkan: Failed to allocate pinned memory (vk::Device::allocateMemory: ErrorOutOfDeviceMemory)",
        "ggml_cuda_host_malloc: failed to allocate 512.00 MiB of pinned memory: out of memory",
        "CUDA error: an illegal memory access was encountered\n  current device: 0, in function x",
        "CUDA error: an internal operation failed\n  current device: 0, in function cublas_handle",
        # RAM, and a fault of the program.
        "terminate called after throwing an instance of 'vk::OutOfHostMemoryError'\n  what(): ErrorOutOfHostMemory",
        "alloc_tensor_range: failed to allocate Vulkan_Host buffer of size 437944320",
        "Memory access fault by GPU node-1 on address 0x7f00. Reason: Page not present or supervisor privilege.",
    ],
)
def test_other_failures_are_no_shortage(lines: str) -> None:
    assert read_log([*LOADED, *lines.splitlines()]).shortage is None


def test_sizes_far_from_a_failure_do_not_belong_to_it() -> None:
    later = [*["srv  load_model: waiting"] * 8, "srv load_model: prompt cache limit 8192 MiB"]
    shortage = read_log([OUT_OF_MEMORY_AT_WORK[-3], *later]).shortage
    assert shortage is not None
    assert shortage.requested_mib == 0


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
