"""What happens on the box while a sample is taken: other programs' load, steal, throttling, clocks.

A sample that was disturbed is repeated and does not count. What is as usual on this box disturbs nothing: a program
that computes all day is beside the samples of both settings.
"""

from __future__ import annotations

import os
import re
import statistics
import subprocess
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

from llamarig.remote.shared.deadline import run_within
from llamarig.remote.shared.record import Record

_MORE_LOAD = 0.10
"""Fraction of all processors (or of the time, for waits) by which other programs' load may exceed what is usual. A
choice, not a measurement: what stays below it is left to the interval of the paired differences."""
_MORE_STEAL = 0.03
_OTHER_CLOCK = 0.05
"""Fraction by which a GPU's clock may differ from that of the same candidate's other samples."""
_EVERY_S = 2.0
_NVIDIA_SMI = "nvidia-smi"
_SLOWED = {0x8: "hardware slowdown", 0x20: "too hot", 0x40: "too hot", 0x80: "power brake"}
"""Bits of clocks_event_reasons.active (nvml.h: nvmlClocksEventReason*) that a well-cooled card does not show. A power
limit (0x4) is a setting, and the same for all samples."""


@dataclass(frozen=True)
class Conditions(Record):
    """Conditions of one sample.

    Fractions: ``other_load`` of all processors that other programs used, None where the kernel does not tell;
    ``steal`` of all processors that a hypervisor took; ``other_waits`` of the time that other programs waited for
    disks or memory. ``gpu_mhz``: median clock of each NVIDIA GPU while it computed. ``throttled``: in words.
    """

    other_load: Optional[float] = None
    steal: float = 0.0
    other_waits: float = 0.0
    gpu_mhz: tuple[int, ...] = ()
    throttled: tuple[str, ...] = ()


def disturbances(now: Conditions, usual: Sequence[Conditions], same: Sequence[Conditions]) -> tuple[str, ...]:
    """What disturbed a sample, in words; nothing for a good one.

    :param usual: conditions of the samples so far
    :param same: of those of the same candidate: faster flags may draw more power, and so lower the clocks
    """
    found = list(now.throttled)
    if now.other_load is not None:
        load = _median(one.other_load for one in usual if one.other_load is not None)
        if now.other_load > _limit(load, _MORE_LOAD):
            found.append(f"other programs used {_percent(now.other_load)} of the processors, usually {_percent(load)}")
    steal = _median(one.steal for one in usual)
    if now.steal > _limit(steal, _MORE_STEAL):
        found.append(f"the hypervisor took {_percent(now.steal)} of the processors, usually {_percent(steal)}")
    waits = _median(one.other_waits for one in usual)
    if now.other_waits > _limit(waits, _MORE_LOAD):
        found.append(f"other programs waited for disks or memory {_percent(now.other_waits)} of the time")
    for index, clock in enumerate(now.gpu_mhz):
        known = _median(one.gpu_mhz[index] for one in same if len(one.gpu_mhz) > index)
        if known and abs(clock / known - 1) > _OTHER_CLOCK:
            found.append(f"GPU {index} at {clock} MHz, before at {known:.0f}")
    return tuple(found)


def _limit(usual: float, more: float) -> float:
    """What disturbs: on a box that is never idle, half as much again as is usual there."""
    return usual + max(more, usual / 2)


def _medians(clocks: Sequence[Sequence[int]]) -> tuple[int, ...]:
    """The median clock of each GPU; of as many as every reading has."""
    gpus = min(map(len, clocks), default=0)
    return tuple(round(statistics.median(reading[gpu] for reading in clocks)) for gpu in range(gpus))


def _median(values: Iterable[float]) -> float:
    known = list(values)
    return statistics.median(known) if known else 0.0


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.0f} %"


# --- readings ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Reading:
    """Counters of the kernel at one moment, in seconds; ``unit``: processor time of the server, None where the kernel
    does not show it; ``throttles``: how often a processor was too hot."""

    at: float
    busy: float
    steal: float
    processors: int
    unit: Optional[float]
    ours: float
    waits: float
    throttles: int


def conditions_between(
    before: Reading, after: Reading, clocks: Sequence[Sequence[int]] = (), slowed: Iterable[str] = ()
) -> Conditions:
    """The conditions between two readings.

    :param clocks: MHz of each GPU, at several moments
    :param slowed: reasons for which a GPU was slowed down meanwhile
    """
    elapsed = max(1e-3, after.at - before.at)
    whole = elapsed * max(1, after.processors)
    other = None
    if before.unit is not None and after.unit is not None:
        known = after.unit - before.unit + after.ours - before.ours
        other = round(min(1.0, max(0.0, (after.busy - before.busy - known) / whole)), 4)
    hot = ["a processor was too hot"] if after.throttles > before.throttles else []
    return Conditions(
        other_load=other,
        steal=round(min(1.0, max(0.0, (after.steal - before.steal) / whole)), 4),
        other_waits=round(min(1.0, max(0.0, (after.waits - before.waits) / elapsed)), 4),
        gpu_mhz=tuple(round(statistics.median(of_gpu)) for of_gpu in map(lambda *of_gpu: of_gpu, *clocks))
        if clocks
        else (),
        throttled=tuple(sorted({*hot, *slowed})),
    )


def read_now(group: str, pid: str, root: Path = Path("/")) -> Reading:
    """Read the counters.

    :param group: control group of the server's unit, as systemd names it
    :param pid: of the server. Not the group's own time, which a container may not show
    """
    ticks, processors = _ticks(_text(root / "proc/stat"))
    directory = root / "sys/fs/cgroup" / group.strip("/") if group.strip("/") else None
    usage = _text(root / f"proc/{pid}/stat").rpartition(")")[2].split() if pid else []
    waits = sum(_pressure(_text(root / f"proc/pressure/{what}")) for what in ("io", "memory"))
    if directory:
        waits -= sum(_pressure(_text(directory / f"{what}.pressure")) for what in ("io", "memory"))
    counts = (root / "sys/devices/system/cpu").glob("cpu[0-9]*/thermal_throttle/core_throttle_count")
    used = os.times()
    return Reading(
        at=time.monotonic(),
        busy=sum(ticks[name] for name in ("user", "nice", "system", "irq", "softirq")),
        steal=ticks["steal"],
        processors=processors,
        unit=sum(map(int, usage[11:13])) / os.sysconf("SC_CLK_TCK") if len(usage) > 12 else None,
        ours=used.user + used.system + used.children_user + used.children_system,
        waits=waits,
        throttles=sum(int(text) for file in counts if (text := _text(file).strip()).isdigit()),
    )


def _ticks(stat: str) -> tuple[dict[str, float], int]:
    """Seconds of all processors together by kind, and the number of processors, of /proc/stat."""
    names = ("user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal")
    line = re.search(r"^cpu +([\d ]+)$", stat, re.MULTILINE)
    values = [int(word) / os.sysconf("SC_CLK_TCK") for word in line[1].split()] if line else []
    ticks = {name: values[index] if index < len(values) else 0.0 for index, name in enumerate(names)}
    return ticks, len(re.findall(r"^cpu\d+ ", stat, re.MULTILINE))


def _pressure(text: str) -> float:
    """Seconds in which some program waited, of a pressure file; 0 where the kernel has none."""
    found = re.search(r"^some .*total=(\d+)", text, re.MULTILINE)
    return int(found[1]) / 1e6 if found else 0.0


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


# --- while a sample is taken ------------------------------------------------------------------------------------------


class Watch:
    """Reads GPU clocks every two seconds; ``conditions`` are those of the time since it was made."""

    def __init__(self, group: str, pid: str) -> None:
        self._group, self._pid, self._before = group, pid, read_now(group, pid)
        self._clocks: list[Sequence[int]] = []
        self._slowed: set[str] = set()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def _look(self) -> None:
        while not self._ended.wait(_EVERY_S):
            rows = gpu_rows()
            if not rows:
                return
            self._clocks.append([clock for clock, _ in rows])
            self._slowed |= {
                f"GPU {index}: {what}"
                for index, (_, reasons) in enumerate(rows)
                for bit, what in _SLOWED.items()
                if reasons & bit
            }

    def conditions(self) -> Conditions:
        """End the watch, and return the conditions since it began."""
        self._ended.set()
        self._thread.join(timeout=30)
        return conditions_between(self._before, read_now(self._group, self._pid), self._clocks, self._slowed)


@contextmanager
def watched(group: str, pid: str) -> Iterator[Watch]:
    """Watch the conditions of a sample; the watch ends with the block, whatever happens in it.

    :param group: control group of the server's unit, as systemd names it
    :param pid: of the server
    """
    watch = Watch(group, pid)
    try:
        yield watch
    finally:
        watch._ended.set()


def gpu_rows() -> list[tuple[int, int]]:
    """Clock in MHz and reasons for slowing down (bits) of each NVIDIA GPU; zeros of one that does not report them.

    Nothing where there is no nvidia-smi, or no GPU.
    """
    query = "clocks.sm,clocks_throttle_reasons.active"  # its older name, which newer drivers still take
    try:
        done = run_within([_NVIDIA_SMI, f"--query-gpu={query}", "--format=csv,noheader,nounits"], 20)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return [_row(line) for line in done.stdout.splitlines() if "," in line] if not done.returncode else []


def _row(line: str) -> tuple[int, int]:
    found = re.fullmatch(r"\s*(\d+)\s*,\s*(0x[0-9a-fA-F]+)\s*", line)
    return (int(found[1]), int(found[2], 16)) if found else (0, 0)
