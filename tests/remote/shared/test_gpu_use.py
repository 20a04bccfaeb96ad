"""Evidence that a server computes on a GPU."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from llamarig.remote.shared.gpu_use import no_gpu_line, open_devices

# llama.cpp #27923 (a server that was started before the driver was ready).
AT_BOOT = """\
0.00.1 E ggml_cuda_init: failed to initialize CUDA: no CUDA-capable device is detected
0.00.1 W warning: no usable GPU found, --gpu-layers option will be ignored
0.01.1 I load_tensors:   CPU_Mapped model buffer size = 21623.30 MiB
0.01.2 I llama_kv_cache:        CPU KV buffer size =   640.00 MiB
""".splitlines()


@pytest.mark.parametrize(
    "line",
    [
        "ggml_cuda_init: failed to initialize CUDA: no CUDA-capable device is detected",
        "ggml_cuda_init: failed to initialize ROCm: no ROCm-capable device is detected",
        "warning: no usable GPU found, --gpu-layers option will be ignored",
        "ggml_vulkan: No devices found.",
    ],
)
def test_lines_that_say_that_no_gpu_was_found(line: str) -> None:
    assert no_gpu_line(["load", line, *AT_BOOT]) == line


def test_the_first_of_a_reported_log() -> None:
    assert no_gpu_line(AT_BOOT) == "ggml_cuda_init: failed to initialize CUDA: no CUDA-capable device is detected"
    assert no_gpu_line(AT_BOOT[2:]) == ""
    assert no_gpu_line(["warning: no usable GPU found, --gpu-layers-draft option will be ignored"]) == ""


def test_open_devices_of_a_process(tmp_path: Path) -> None:
    descriptors = tmp_path / "7/fd"
    descriptors.mkdir(parents=True)
    assert open_devices("7", tmp_path) == []
    for number, target in enumerate(("/dev/nvidia0", "/dev/nvidia-uvm", "/dev/nvidiactl", "socket:[7]", "/dev/null")):
        (descriptors / str(number)).symlink_to(target)
    assert open_devices("7", tmp_path) == ["/dev/nvidia0"]
    assert open_devices("8", tmp_path) is None
    assert open_devices(str(os.getpid())) == []
