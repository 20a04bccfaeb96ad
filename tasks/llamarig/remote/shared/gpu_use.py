"""Whether a server computes on a GPU: what its log says, and which devices its process has open.

llama-server serves from the CPU where it finds no GPU, with one line in its log and HTTP 200 on /health. Performs no
I/O but reading /proc.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

FIRST_LINES = 300
"""Lines of a log among which a server says that it found no GPU: it looks before it reads the model."""

# common/arg.cpp, ggml-cuda.cu (also in HIP and MUSA builds) and ggml-vulkan.cpp of the pinned commit.
NO_GPU = "no usable GPU found, --gpu-layers option|failed to initialize (CUDA|ROCm|MUSA)|ggml_vulkan: No devices found"
"""An extended regular expression for lines that say that there is no GPU.

The first is also printed where a backend is loaded later, from GGML_BACKEND_PATH (src/llama.cpp:102): those are
simulated GPUs, whose units belong to builds for the CPU and are not looked at.
"""

# CUDA opens its device when it is initialized, and nothing where that fails (measured with driver 580 and a node
# covered by another file); Tegra, WSL2 and AMD have other names.
DEVICES = "(nvidia[0-9]+|nvmap|dxg|kfd|renderD[0-9]+)"
"""An extended regular expression for the last part of the path of a GPU's device."""


def no_gpu_line(lines: Iterable[str]) -> str:
    """The first line that says that there is no GPU, without its time and level; empty where none does."""
    for line in lines:
        if re.search(NO_GPU, line):
            return re.sub(r"^[0-9.]+ [A-Z] ", "", line.strip())
    return ""


def open_devices(pid: str, proc: Path = Path("/proc")) -> list[str] | None:
    """The devices of GPUs that a process has open; None where that is hidden, or the process has ended."""
    found = set()
    try:
        for descriptor in (proc / pid / "fd").iterdir():
            try:
                target = descriptor.readlink()
            except FileNotFoundError:  # closed in between
                continue
            if re.fullmatch(DEVICES, target.name):
                found.add(str(target))
    except OSError:
        return None
    return sorted(found)
