"""What a llama-server's own log says of its memory: buffers it took, what was free, and where it ran out.

Pure, the standard library alone and Python 3.9, because the same file runs on the box. The lines are those of the
pinned commit: src/llama-model.cpp (load_tensors), llama-kv-cache.cpp, llama-memory-recurrent.cpp, llama-context.cpp
(sched_reserve), common/common.cpp (device_info), ggml-cuda.cu and ggml-alloc.c. Sizes come at verbosity 4, failures at
any.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

TOLERANCE_MIB = 64
"""What a server that really loads takes more on the output's card than llama.cpp's own dry run says: 12 and 60 MiB of
compute buffer were seen, on real cards and simulated ones (tests/gpu/RESULTS.md). A margin is six times as much."""

_BUFFER = re.compile(
    r"\b(?:load_tensors|llama_kv_cache\w*|llama_memory_recurrent|sched_reserve|llama_context): +"
    r"(?P<name>\S+) +(?P<kind>model|KV|RS|compute) buffer size = +(?P<mib>\d+\.\d+) MiB"
)
_DEVICE = re.compile(r"- +(?P<name>[A-Za-z]+\d+) *: .*\((?P<total>\d+) MiB, (?P<free>\d+) MiB free\)")
_ASKED = re.compile(r"allocating (?P<mib>\d+\.\d+) MiB on device (?P<device>\d+): cudaMalloc failed: out of memory")
_NO_BUFFER = re.compile(r"(?:failed|unable) to allocate (?P<name>[A-Za-z]+\d+) buffer(?: of size (?P<bytes>\d+))?")
_VULKAN = re.compile(r"ErrorOutOfDeviceMemory|Device memory allocation of size \d+ failed")
# CUDA names its own error first, and the card in the line after it; ROCm says it with HIP's words.
_AT_WORK = re.compile(r"(?:CUDA|ROCm) error: out of memory")
_CARD = re.compile(r"current device: (?P<device>\d+)")


@dataclass
class Memory:
    """MiB of one device's buffers."""

    model: float = 0.0
    context: float = 0.0
    compute: float = 0.0

    @property
    def total(self) -> float:
        """All of it."""
        return self.model + self.context + self.compute


@dataclass(frozen=True)
class Shortage:
    """GPU memory ran out. ``device``: its name or number, None where that is not said; ``asked_mib``: 0 likewise."""

    said: str
    device: str | None = None
    asked_mib: float = 0.0


@dataclass
class ServerLog:
    """``memory``: buffer name -> what was taken; ``free_mib``: device -> MiB free before anything was."""

    memory: dict[str, Memory] = field(default_factory=dict)
    free_mib: dict[str, int] = field(default_factory=dict)
    shortage: Shortage | None = None


def read_log(lines: Iterable[str]) -> ServerLog:
    """One start of one server, from its first line on.

    A draft model is loaded after the first one is complete; its buffers are not counted, since no plan counts them.
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
            failing = _fuller(failing, shortage)
        elif failing is not None and failing.device is None and (card := _CARD.search(line)) is not None:
            failing = Shortage(failing.said, card["device"], failing.asked_mib)
    found.shortage = failing
    return found


def _add(memory: Memory, kind: str, mib: float) -> None:
    if kind == "model":
        memory.model += mib
    elif kind == "compute":
        memory.compute = mib  # reserved anew now and then, in place of what was
    else:
        memory.context += mib


def _shortage(line: str) -> Shortage | None:
    if (asked := _ASKED.search(line)) is not None:
        return Shortage(line.strip(), asked["device"], float(asked["mib"]))
    if (buffer := _NO_BUFFER.search(line)) is not None:
        return Shortage(line.strip(), buffer["name"], int(buffer["bytes"] or 0) / (1 << 20))
    if _AT_WORK.search(line) or _VULKAN.search(line):
        return Shortage(line.strip())
    return None


def _fuller(first: Shortage | None, then: Shortage) -> Shortage:
    """The first line that fails says the most of what was asked; a later one may know the device."""
    if first is None:
        return then
    return Shortage(first.said, first.device or then.device, first.asked_mib or then.asked_mib)


def device_named(said: str, devices: Iterable[str]) -> str | None:
    """The device a message means by name or number, None where it is none of these (RAM, for one)."""
    for name in devices:
        if said == name or (said.isdigit() and re.sub(r"\D", "", name) == said):
            return name
    return None


@dataclass(frozen=True)
class Against:
    """A device as it is and as it was predicted, in MiB; ``free`` before the start, None where it was not said."""

    name: str
    measured: float
    predicted: int
    free: int | None = None
    tolerance: int = TOLERANCE_MIB

    @property
    def differs(self) -> bool:
        """Whether by more than a dry run is known to be off."""
        return abs(self.measured - self.predicted) > self.tolerance

    def __str__(self) -> str:
        return f"{self.name} {self.measured:.0f} MiB, predicted {self.predicted}"


def against(log: ServerLog, predicted: Mapping[str, int], tolerance: int = TOLERANCE_MIB) -> list[Against]:
    """Every predicted device that the log says something of."""
    return [
        Against(name, log.memory[name].total, mib, log.free_mib.get(name), tolerance)
        for name, mib in predicted.items()
        if name in log.memory
    ]


def missing(
    log: ServerLog,
    predicted: Mapping[str, int] | None,
    margins: Mapping[str, int],
    tolerance: int = TOLERANCE_MIB,
) -> dict[str, float]:
    """Device -> MiB that a start lacked: empty where it had what it was planned to have.

    Where memory ran out: what was to be taken and the margin, less what was free; at least something, since it failed.
    Where a device took more than predicted: what of the margin that cost.

    :param predicted: MiB a device, None for a placement that no dry run measured: then the margin alone is looked at
    """
    lacks: dict[str, float] = {}
    if log.shortage is not None:
        name = device_named(log.shortage.device, margins) if log.shortage.device is not None else None
        if log.shortage.device is not None and name is None:
            return {}  # RAM, for one: no layer fewer on a GPU helps that
        for short in [name] if name is not None else margins:
            taken = log.memory.get(short, Memory()).total + log.shortage.asked_mib
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
