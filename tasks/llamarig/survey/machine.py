"""What a declaration says of the machine: speed of the RAM, threads of a hybrid processor, place for model files."""

from __future__ import annotations

from collections import Counter

from llamarig.checks.ram_speed import Verdict, judge
from llamarig.placement.box_capacity import parse_cpu_list
from llamarig.render import layout
from llamarig.survey.hardware import Hardware

_GIB = 1024**3
_SMALL_STORE = 100 * _GIB
"""Below it, the models that such boxes serve do not fit in twos (group_data/README.md: 20 to 69 GB each)."""


def ram_gib(hardware: Hardware) -> int:
    """RAM in whole GiB, as it is sold: of its modules, else of what the kernel has, rounded up to 2 GiB."""
    if hardware.ram.modules:
        return sum(module.size_mib for module in hardware.ram.modules) // 1024
    kib = hardware.machine.total_kib or 0
    return -(-kib // (2 * 1024**2)) * 2


def ram_words(hardware: Hardware) -> str:
    """``64 GB DDR5 at 4800 MT/s``, as far as it is known."""
    generations = {module.type for module in hardware.ram.modules if module.type}
    speed = judge(hardware.ram).mts
    kind = f" {generations.pop()}" if len(generations) == 1 else ""
    return f"{ram_gib(hardware)} GB{kind or ' RAM'}{f' at {speed} MT/s' if speed else ''}"


def memory_of(hardware: Hardware) -> tuple[int | None, tuple[str, ...], tuple[str, ...]]:
    """The speed to declare, comments, and remarks."""
    ram = hardware.ram
    if not ram.modules:
        lines = [f"The RAM's speed is not known: {ram.why_not}."] if ram.why_not else []
        unread = ("the RAM's speed was not read, which only root can",) if "only root" in ram.why_not else ()
        return None, (*lines, "Its rated speed would be declared here: memory_mts=6000 of a DDR5-6000 kit."), unread
    found = Counter((module.size_mib // 1024, module.part_number.strip()) for module in ram.modules)
    modules = ", ".join(f"{count} x {size} GB {part}".rstrip() for (size, part), count in found.items())
    speed = judge(ram)
    source = "part number" if speed.source.startswith("part number") else speed.source.removeprefix("by ")
    rated = f"{modules}: rated {speed.rated} MT/s by {source}, and they run at {speed.mts}"
    if speed.verdict is Verdict.BELOW and not speed.limit:
        remark = f"RAM runs at {speed.mts} MT/s, and is rated {speed.rated}: switch XMP or EXPO on in the BIOS"
        return speed.rated, (f"{rated}: switch XMP or EXPO on in the BIOS.",), (remark,)
    if speed.verdict is Verdict.BELOW:
        return None, (f"{rated}: {speed.limit}.",), ()
    if speed.verdict is Verdict.FULL and speed.rated:
        return speed.rated, (f"{rated}.",), ()
    runs = f" run at {speed.mts} MT/s" if speed.mts else ": the firmware tells no speed"
    why = f" ({speed.limit or speed.source})" if speed.limit or speed.source else ""
    note = f"{modules}{runs}{why}. If the kit is sold as faster: memory_mts=..."
    doubtful = speed.verdict is Verdict.SUSPECT and not speed.limit
    remark = f"RAM runs at {speed.mts} MT/s: if its kit is sold as faster, declare memory_mts and switch XMP or EXPO on"
    return None, (note,), (remark,) if doubtful else ()


def threads_of(hardware: Hardware) -> tuple[int | None, str | None, tuple[str, ...]]:
    """Threads and CPUs for the fast cores of a hybrid processor, and a comment; nothing where all cores are alike."""
    processor = hardware.processor
    if not processor.fast_cpus or not processor.fast_cores:
        return None, None, ()
    cpus = cpu_list(processor.fast_cpus)
    slow = cpu_list({cpu for cpu, _ in processor.core_of} - processor.fast_cpus)
    note = f"Hybrid processor: {processor.fast_cores} fast cores are CPUs {cpus}; CPUs {slow} are slower."
    return processor.fast_cores, cpus, (note,)


def cpu_list(cpus: frozenset[int] | set[int]) -> str:
    """CPU numbers as systemd writes them: ``0-11,14``."""
    ordered, parts = sorted(cpus), list[list[int]]()
    for cpu in ordered:
        if parts and cpu == parts[-1][-1] + 1:
            parts[-1].append(cpu)
        else:
            parts.append([cpu])
    text = ",".join(f"{part[0]}-{part[-1]}" if len(part) > 1 else str(part[0]) for part in parts)
    assert parse_cpu_list(text) == frozenset(cpus)
    return text


def disk_of(hardware: Hardware) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Where model files go and how much is free there: comments, and remarks."""
    free = hardware.machine.disk_free
    if free is None:
        return (), ()
    kind = f" ({hardware.machine.filesystem})" if hardware.machine.filesystem else ""
    note = f"Model files go to {layout.MODELS}, where {free / _GIB:.0f} GiB are free{kind}."
    larger = [one for one in hardware.filesystems if one.free > 2 * free and one.path != "/"]
    if free >= _SMALL_STORE or not larger:
        remark = (f"only {free / _GIB:.0f} GiB are free for models",) if free < _SMALL_STORE else ()
        return (note,), remark
    best = max(larger, key=lambda one: one.free)
    words = f"{best.path} has {best.free / _GIB:.0f} GiB free"
    line = f"{best.path.rstrip('/')}/models {layout.MODELS} none bind 0 0"
    how = f"To use it, bind-mount a directory of it there (/etc/fstab: {line})."
    return (note, f"{words}. {how}"), (f"only {free / _GIB:.0f} GiB are free for models, and {words} (see the file)",)
