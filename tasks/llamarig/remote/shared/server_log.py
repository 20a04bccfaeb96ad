"""Parser for the memory lines of llama-server's log: buffer sizes, free memory, and failed allocations.

Performs no I/O. The lines are those of the pinned commit: src/llama-model.cpp (load_tensors), llama-kv-cache.cpp,
llama-memory-recurrent.cpp, llama-context.cpp (sched_reserve), common/common.cpp (device_info), ggml-cuda.cu and
ggml-alloc.c. Sizes are logged from verbosity 4 on, failures always.
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
_REQUESTED = re.compile(r"allocating (?P<mib>\d+\.\d+) MiB on device (?P<device>\d+): cudaMalloc failed: out of memory")
_NO_BUFFER = re.compile(r"(?:failed|unable) to allocate (?P<name>[A-Za-z]+\d+) buffer(?: of size (?P<bytes>\d+))?")
_VULKAN = re.compile(r"ErrorOutOfDeviceMemory|Device memory allocation of size \d+ failed")
# An allocation while a request is computed. CUDA prints the error first and the device in the next line.
_AT_WORK = re.compile(r"(?:CUDA|ROCm) error: out of memory")
_CURRENT_DEVICE = re.compile(r"current device: (?P<device>\d+)")


@dataclass
class Memory:
    """Buffers of one device, in MiB."""

    model: float = 0.0
    context: float = 0.0
    compute: float = 0.0

    @property
    def total(self) -> float:
        """Sum of all buffers."""
        return self.model + self.context + self.compute


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

    The buffers of a draft model, which is loaded after the main model, are left out, as they are in plans.
    """
    found = ServerLog()
    complete = second = False
    failing = None
    for line in lines:
        if (device := _DEVICE.search(line)) is not None:
            found.free_mib.setdefault(device["name"], int(device["free"]))
        elif (buffer := _BUFFER.search(line)) is not None:
            second = second or (complete and buffer["kind"] == "model")
            complete = complete or buffer["kind"] == "compute"
            if not second:
                _add(found.memory.setdefault(buffer["name"], Memory()), buffer["kind"], float(buffer["mib"]))
        elif (shortage := _shortage(line)) is not None:
            failing = _merged(failing, shortage)
        elif failing is not None and failing.device is None and (current := _CURRENT_DEVICE.search(line)) is not None:
            failing = Shortage(failing.message, current["device"], failing.requested_mib)
    found.shortage = failing
    return found


def _add(memory: Memory, kind: str, mib: float) -> None:
    if kind == "model":
        memory.model += mib
    elif kind == "compute":
        memory.compute = mib  # reserved again several times, each replacing the one before
    else:
        memory.context += mib


def _shortage(line: str) -> Shortage | None:
    if (requested := _REQUESTED.search(line)) is not None:
        return Shortage(line.strip(), requested["device"], float(requested["mib"]))
    if (buffer := _NO_BUFFER.search(line)) is not None:
        return Shortage(line.strip(), buffer["name"], int(buffer["bytes"] or 0) / (1 << 20))
    if _AT_WORK.search(line) or _VULKAN.search(line):
        return Shortage(line.strip())
    return None


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
