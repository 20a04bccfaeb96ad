"""Parser for the memory lines of llama-server's log: buffer sizes, free memory, and failed allocations.

Performs no I/O. The lines are those of the pinned commit: src/llama-model.cpp (load_tensors), llama-kv-cache.cpp,
llama-memory-recurrent.cpp, llama-context.cpp (sched_reserve), common/common.cpp (device_info), ggml-cuda.cu,
ggml-vulkan-buffers.cpp and ggml-alloc.c. Sizes are logged from verbosity 4 on, failures always.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

TOLERANCE_MIB = 64
"""How much more than llama.cpp's dry run predicts a real load may take, on the GPU of the output layer: 12 and 60 MiB
of compute buffer were measured, on real and simulated GPUs (tests/gpu/RESULTS.md). The default margin is six times as
much."""

_BUFFER = re.compile(
    r"\b(?:load_tensors|llama_kv_cache\w*|llama_memory_recurrent|sched_reserve|llama_context): +"
    r"(?P<name>\S+) +(?P<kind>model|KV|RS|compute) buffer size = +(?P<mib>\d+\.\d+) MiB"
)
_DEVICE = re.compile(r"- +(?P<name>[A-Za-z]+\d+) *: .*\((?P<total>\d+) MiB, (?P<free>\d+) MiB free\)")
# Failures for lack of GPU memory, as each library words them. Where a pattern has no device, the start may have been
# short on any of them.
_SHORTAGES = tuple(
    re.compile(pattern)
    for pattern in (
        # Buffers (ggml-cuda.cu, also in HIP builds; ggml-alloc.c for every backend).
        r"allocating (?P<mib>\d+\.\d+) MiB on device (?P<device>\d+): cudaMalloc failed: out of memory",
        r"(?:failed|unable) to allocate (?P<name>[A-Za-z]+\d+) buffer(?: of size (?P<bytes>\d+))?",
        # An allocation while a request is computed (ggml_cuda_error): the texts of cudaGetErrorString, cuGetErrorString
        # and cublasGetStatusString; builds without the last, HIP's among them, print the name of the status.
        r"(?:CUDA|ROCm|HIP|MUSA) error\b.*(?:out of memory|resource allocation failed|BLAS_STATUS_ALLOC_FAILED)",
        # cuBLAS and hipBLAS that find no room for a context of their own (cublas_handle, before their first use).
        r"(?:CUDA|ROCm|HIP|MUSA) error\b.*(?:library was not initialized|BLAS_STATUS_NOT_INITIALIZED)",
        r"\b(?:cudaErrorMemoryAllocation|CUDA_ERROR_OUT_OF_MEMORY)\b",
        r"hipErrorOutOfMemory|HSA_STATUS_ERROR_OUT_OF_RESOURCES|rocblas_status_memory_error",
        # ggml-vulkan-buffers.cpp, and the text of the exception where it ends the program.
        r"emory allocation of size (?P<bytes>\d+) failed",
        r"OutOfDeviceMemory|VK_ERROR_OUT_OF_DEVICE_MEMORY",
        # Mesa's radv (radv_amdgpu_cs.c, radv_amdgpu_bo.c); ErrorDeviceLost follows, which alone says nothing of memory.
        r"amdgpu: Not enough memory for command submission",
        r"amdgpu: Failed to allocate a buffer",
    )
)
# Memory in RAM, which the program does without if it gets none (ggml-cuda.cu, ggml-vulkan.cpp).
_PINNED = re.compile(r"pinned memory")
# Lines after a failure that add to it: CUDA's device, and a size in the next few lines.
_CURRENT_DEVICE = re.compile(r"current device: (?P<device>\d+)")
_SIZE = re.compile(r"(?P<mib>\d+(?:\.\d+)?) MiB\b|\b(?P<bytes>\d{4,18}) bytes|\bsize *[:=]? *(?P<size>\d{4,18})\b")
_BLOCK_LINES = 6
"""How many lines after a failure may still belong to it: CUDA prints two, radv five."""


@dataclass
class Memory:
    """Buffers of one device, in MiB. ``second``: compute buffers of a second context of the same model."""

    model: float = 0.0
    context: float = 0.0
    compute: float = 0.0
    second: float = 0.0

    @property
    def total(self) -> float:
        """Sum of all buffers."""
        return self.model + self.context + self.compute + self.second


@dataclass(frozen=True)
class Shortage:
    """A failed allocation.

    ``message``: the log line; ``device``: name or number, None where the log does not name one; ``requested_mib``: 0
    where the log gives no size.
    """

    message: str
    device: str | None = None
    requested_mib: float = 0.0


@dataclass
class ServerLog:
    """``memory``: buffer name -> sizes; ``free_mib``: device -> MiB that were free before the model was loaded."""

    memory: dict[str, Memory] = field(default_factory=dict)
    free_mib: dict[str, int] = field(default_factory=dict)
    shortage: Shortage | None = None


def read_log(lines: Iterable[str]) -> ServerLog:
    """Parse the log of one start of one server, from its first line on.

    The buffers of a draft model, which is loaded after the main model, are left out, as they are in plans. Those of a
    second context of the main model, for its own layers of multi-token prediction, are counted, as they are in plans.
    """
    found = ServerLog()
    complete = second = again = False
    failing, left = None, 0
    for line in lines:
        left -= 1
        if (device := _DEVICE.search(line)) is not None:
            found.free_mib.setdefault(device["name"], int(device["free"]))
        elif (buffer := _BUFFER.search(line)) is not None:
            kind = buffer["kind"]
            second = second or (complete and kind == "model")
            again = again or (complete and kind in ("KV", "RS"))
            complete = complete or kind == "compute"
            if not second:
                memory = found.memory.setdefault(buffer["name"], Memory())
                _add(memory, "second" if again and kind == "compute" else kind, float(buffer["mib"]))
        elif (shortage := _shortage(line)) is not None:
            failing, left = _merged(failing, shortage), _BLOCK_LINES
        elif failing is not None and left > 0:
            current = _CURRENT_DEVICE.search(line)
            failing = _merged(failing, Shortage(line, current["device"] if current else None, _size(line)))
    found.shortage = failing
    return found


def _add(memory: Memory, kind: str, mib: float) -> None:
    if kind == "model":
        memory.model += mib
    elif kind in ("compute", "second"):
        setattr(memory, kind, mib)  # reserved again several times, each replacing the one before
    else:
        memory.context += mib


def _shortage(line: str) -> Shortage | None:
    """The failed allocation that a line reports; None for any other line."""
    if _PINNED.search(line):
        return None
    for pattern in _SHORTAGES:
        if (match := pattern.search(line)) is not None:
            named = match.groupdict()
            return Shortage(line.strip(), named.get("device") or named.get("name"), _size_of(named) or _size(line))
    return None


def _size(line: str) -> float:
    """The size that a line has, in MiB; 0 where it has none."""
    match = _SIZE.search(line)
    return _size_of(match.groupdict()) if match is not None else 0.0


def _size_of(named: Mapping[str, str | None]) -> float:
    mib, size = named.get("mib"), named.get("bytes") or named.get("size")
    return float(mib) if mib else int(size or 0) / (1 << 20)


def _merged(first: Shortage | None, later: Shortage) -> Shortage:
    """Keep the first failing line, which has the most detail; a later line may add the device or the size."""
    if first is None:
        return later
    return Shortage(first.message, first.device or later.device, first.requested_mib or later.requested_mib)


def match_device(logged: str, devices: Iterable[str]) -> str | None:
    """Return the device that a log line means by name or number; None where it is none of ``devices`` (RAM)."""
    for name in devices:
        if logged == name or (logged.isdigit() and re.sub(r"\D", "", name) == logged):
            return name
    return None


@dataclass(frozen=True)
class DeviceComparison:
    """Memory of a device, measured and predicted, in MiB; ``free``: before the start, None where it was not logged."""

    name: str
    measured: float
    predicted: int
    free: int | None = None
    tolerance: int = TOLERANCE_MIB

    @property
    def differs(self) -> bool:
        """Whether the difference is larger than the known error of a dry run."""
        return abs(self.measured - self.predicted) > self.tolerance

    def __str__(self) -> str:
        return f"{self.name} {self.measured:.0f} MiB, predicted {self.predicted}"


def compare(log: ServerLog, predicted: Mapping[str, int], tolerance: int = TOLERANCE_MIB) -> list[DeviceComparison]:
    """Compare the log with a prediction, for every predicted device that the log mentions."""
    return [
        DeviceComparison(name, log.memory[name].total, mib, log.free_mib.get(name), tolerance)
        for name, mib in predicted.items()
        if name in log.memory
    ]


def shortfall(
    log: ServerLog,
    predicted: Mapping[str, int] | None,
    margins: Mapping[str, int],
    tolerance: int = TOLERANCE_MIB,
) -> dict[str, float]:
    """Return device -> MiB that a start was short of; empty where it had what the plan requires.

    After a failed allocation: the memory to be used plus the margin, minus what was free, and at least 1 MiB.
    Where a device took more than predicted: the part of its margin that this used up.

    :param predicted: device -> MiB, None for a placement that no dry run measured: then only margins are checked
    """
    lacks: dict[str, float] = {}
    if log.shortage is not None:
        name = match_device(log.shortage.device, margins) if log.shortage.device is not None else None
        if log.shortage.device is not None and name is None:
            return {}  # RAM: moving layers off a GPU would not help
        for short in [name] if name is not None else margins:
            taken = log.memory.get(short, Memory()).total + log.shortage.requested_mib
            wanted = max(taken, float((predicted or {}).get(short, 0)))
            room = log.free_mib.get(short)
            lacks[short] = max(1.0, wanted + margins[short] - room) if room is not None else 1.0
        return lacks
    for name, margin in margins.items():
        room, memory = log.free_mib.get(name), log.memory.get(name)
        if room is None or memory is None:
            continue
        more = memory.total - (predicted or {}).get(name, 0)
        if more > tolerance and memory.total + margin - room > tolerance:
            lacks[name] = memory.total + margin - room
    return lacks
