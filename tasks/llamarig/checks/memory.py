"""Checks of RAM: speed and channels, swap, huge pages, out-of-memory kills, locked and pinned memory."""

from __future__ import annotations

from collections.abc import Iterator

from llamarig.checks.base import Check, Finding, Severity
from llamarig.checks.box import Box
from llamarig.checks.ram_speed import Verdict, judge
from llamarig.declare.rig import Rig
from llamarig.facts.kernel_messages import KilledProcess, shown_time
from llamarig.facts.ram import channels_used
from llamarig.remote.shared.pinned_pages import PRICE, is_pageable
from llamarig.render import layout

_MAX_NAMED = 3
"""Killed processes that a finding names."""

_PROFILE = "enable the memory profile in the BIOS setup: XMP (Intel), EXPO (AMD, DDR5), DOCP or A-XMP (AMD, DDR4)"


class MemorySpeed(Check):
    """A lost memory profile slows down every token, because weights in RAM are read for each one."""

    id = "memory.speed"
    expects = (
        "RAM at its rated speed: host.memory_mts if declared, else the speed in the modules' part numbers, else "
        "at least the modules' own speed by the firmware, and no standard speed without a profile; a note where "
        "processor or board allow no more"
    )
    remedy = _PROFILE

    def look(self, rig: Rig, box: Box) -> Iterator[Finding]:
        """Trust the declared speed most, then part numbers, then indications."""
        declared = rig.host.memory_mts
        if not box.ram.modules:
            expected = f"{declared} MT/s (host.memory_mts)" if declared else ""
            yield self.not_known(
                box.ram.why_not or "the firmware lists no memory modules", expected, declared=declared is not None
            )
            return
        speed = judge(box.ram, declared)
        expected = f"{speed.rated} MT/s ({speed.source})" if speed.rated else "the speed the modules were sold for"
        count = len(box.ram.modules)
        running = f"{count} module{'s' * (count != 1)} at {speed.mts} MT/s"
        match speed.verdict:
            case Verdict.UNKNOWN:
                why = "the firmware reports no speed that such modules have"
                yield self.not_known(why, expected, declared=declared is not None)
            case Verdict.BELOW:
                cost = f": what is computed from RAM runs at about {speed.percent} % of its tokens a second"
                # A declared speed is expected even if the platform promises less.
                limit = speed.limit if declared is None else ""
                declare = f"{speed.limit.removesuffix(', so this is normal')}: declare memory_mts={speed.mts}"
                yield self.finding(
                    running + cost,
                    expected,
                    severity=Severity.NOTE if limit else Severity.WARNING,
                    remedy=limit or (declare if speed.fixed else self.remedy),
                )
            case Verdict.SUSPECT:
                yield self.finding(
                    f"{running}, {speed.limit or speed.source}",
                    expected,
                    severity=Severity.NOTE,
                    remedy="look up the speed of the modules you bought, and declare it as host.memory_mts",
                )


class MemoryChannels(Check):
    """With half the channels, RAM has half the bandwidth."""

    id = "memory.channels"
    expects = "modules in at least two memory channels, derived from the slots' names in the firmware's table"
    remedy = "use the slots that the board's manual recommends for two modules (usually the second and fourth)"

    def look(self, rig: Rig, box: Box) -> Iterator[Finding]:
        """Check only slotted modules: soldered memory and virtual machines have no slots."""
        modules = box.ram.modules
        if not modules or any(module.soldered or module.generation is None for module in modules):
            return
        if len(modules) == 1 and box.ram.slots > 1:
            yield self.finding(
                f"one module in {box.ram.slots} slots: half the bandwidth of two",
                "two modules or more",
                remedy="add a second, equal module",
            )
        # If the board gives two slots the same name, or has one channel for all, the names do not tell.
        places = {(module.locator, module.bank) for module in modules}
        if 1 < len(modules) == len(places) < box.ram.slots and channels_used(modules) == 1:
            slots = ", ".join(module.locator for module in modules)
            yield self.finding(f"all modules in one channel ({slots}): half the bandwidth", "two channels")


class MemoryBandwidth(Check):
    """The bandwidth of a copy, which does not depend on what the firmware reports."""

    id = "memory.bandwidth"
    expects = "at least half of the theoretical bandwidth of speed and channels; measured with --data bandwidth=1"
    remedy = "look for an unused channel or a speed that the firmware misreports; measure again on an idle box"

    def look(self, rig: Rig, box: Box) -> Iterator[Finding]:
        if box.copy_gb_s is None:
            if self.id in box.requested:
                why = "less than 2.5 GiB of memory is available, or deploy.py has not copied its programs yet"
                yield self.not_known(f"it could not be measured: {why}")
            return
        if not box.ram.modules:
            why = box.ram.why_not or "the firmware lists no memory modules"
            yield self.not_known(f"{box.measured[self.id]}, with no speed to compare it with: {why}")
            return
        speed = judge(box.ram, rig.host.memory_mts)
        mts = speed.rated or speed.mts
        channels = channels_used(box.ram.modules) or min(len(box.ram.modules), 2)
        theoretical = mts * 8 * channels / 1000
        # A copy by one program reaches 60 to 90 % of the theoretical bandwidth on desktops.
        if not theoretical:
            yield self.not_known(f"{box.measured[self.id]}, and the firmware reports no speed to compare it with")
        elif box.copy_gb_s < theoretical / 2:
            yield self.finding(
                box.measured[self.id], f"{theoretical / 2:.1f} GB/s, half of the {theoretical:.1f} GB/s of {mts} MT/s"
            )


class SwapInUse(Check):
    """Parts of a running server in swap slow down each of its answers."""

    id = "memory.swap"
    expects = "no memory of a running llama-server in swap"
    remedy = "lower the models' need (cache_ram_mib, context, layers), or restart the server when memory is free"

    def look(self, rig: Rig, box: Box) -> Iterator[Finding]:
        """Warn about pages of servers, and note swap in compressed RAM; swapped pages of other programs are ignored."""
        if box.strays.unseen and box.machine.swap_used_kib != 0:
            yield self.not_known(box.strays.unseen)
        for server in box.strays.servers:
            if server.swapped_kib >= 16 * 1024:
                swapped = f"{server.swapped_kib // 1024} MiB of it in swap"
                yield self.finding(swapped, "all of it in RAM", about=server.unit or "llama-server")
        zram = [device for device in box.machine.swap_devices if "zram" in device]
        if zram and (box.machine.swap_used_kib or 0) > 1024 * 1024:
            yield self.finding(
                f"{(box.machine.swap_used_kib or 0) // 1024} MiB in swap on {', '.join(zram)}, which is RAM itself",
                "little swap in compressed RAM: quantized weights do not compress",
                about="zram",
                severity=Severity.NOTE,
                remedy="lower vm.swappiness, or lower the models' need",
            )


class HugePages(Check):
    """With huge pages, reading llama.cpp's large allocations needs a tenth of the page-table walks."""

    id = "memory.huge-pages"
    expects = "transparent huge pages not set to `never`; derived, the kernel's default is madvise or always"
    remedy = "boot without transparent_hugepage=never, or remove the sysfs setting that disables them"
    severity = Severity.NOTE

    def look(self, rig: Rig, box: Box) -> Iterator[Finding]:
        if box.machine.huge_pages == "never":
            yield self.finding("never", "madvise or always")


class OutOfMemory(Check):
    """A kernel that runs out of memory kills the largest program, which is the model's server here."""

    id = "memory.oom"
    expects = (
        "no model's unit last ended by the kernel's out-of-memory killer; derived from systemd's own record, and from "
        "the kernel's messages"
    )
    remedy = "lower the model's need (cache_ram_mib, context, a smaller quant), or put more layers on the GPUs"
    severity = Severity.ERROR

    def look(self, rig: Rig, box: Box) -> Iterator[Finding]:
        """Report units that systemd records as killed; kills of other programs since boot are a note."""
        last = {kill.unit: kill for kill in box.kernel.kills if kill.unit}
        for unit in box.machine.oom_killed_units:
            words = f": {_killed(last[unit])}" if unit in last else ""
            yield self.finding(f"ended by the out-of-memory killer{words}", "running, or ended on request", about=unit)
        if (
            box.machine.oom_kills
            and not box.machine.oom_killed_units
            and box.machine.virtualization != "systemd-nspawn"
        ):
            newest = [_killed(kill) for kill in box.kernel.kills[: -_MAX_NAMED - 1 : -1]]
            yield self.finding(
                f"{box.machine.oom_kills} programs killed since boot" + (f", last {'; '.join(newest)}" * bool(newest)),
                "none",
                severity=Severity.NOTE,
                about="since boot",
            )


def _killed(kill: KilledProcess) -> str:
    """A killed process in words: what it was, how much it held, why, and when."""
    what = f"{kill.name} of {kill.unit}" if kill.unit else kill.name
    why = "more than its unit's limit" if kill.of_limit else "the box had no RAM left"
    return f"{what} held {kill.resident_kib / 1024**2:.1f} GiB, {why} ({shown_time(kill.time)})"


class LockedMemory(Check):
    """llama.cpp only logs a warning if it cannot lock its memory."""

    id = "memory.locked"
    expects = "a model declared with load_mode mlock is locked in RAM: no memlock limit, and locked pages"
    remedy = "restart the unit; search its log (`journalctl -u UNIT`) for `failed to mlock`"

    def look(self, rig: Rig, box: Box) -> Iterator[Finding]:
        locking = {
            layout.unit_name(model.name) for model in rig.models if model.serve.load_mode in ("mlock", "mmap+mlock")
        }
        if locking and box.strays.unseen:
            yield self.not_known(box.strays.unseen, declared=True)
        for server in box.strays.servers:
            if server.unit not in locking:
                continue
            if server.memlock_limit_kib is not None:
                yield self.finding(
                    f"a limit of {server.memlock_limit_kib} KiB", "no limit (LimitMEMLOCK=infinity)", about=server.unit
                )
            elif not server.locked_kib:
                yield self.finding("nothing is locked", "its weights locked in RAM", about=server.unit)


class PinnedWeights(Check):
    """A driver's refusal to pin memory is only a debug line in the log; the weights are then ordinary memory."""

    id = "memory.pinned"
    expects = (
        "the weights in RAM of a running CUDA model with load_mode none or mlock are pinned memory: RssShmem of its "
        "process (/proc/PID/status) is about their size, which a dry run has measured"
    )
    remedy = "restart the unit when memory is free; if that does not help, look for a driver limit on pinned memory"

    def look(self, rig: Rig, box: Box) -> Iterator[Finding]:
        if box.pinned_mib and box.strays.unseen:
            yield self.not_known(box.strays.unseen)
        for server in box.strays.servers:
            wanted = box.pinned_mib.get(server.unit)
            if wanted and is_pageable(server.shared_kib // 1024, wanted):
                yield self.finding(
                    f"{server.shared_kib // 1024} MiB of shared memory, so its weights are not pinned: {PRICE}",
                    f"{wanted} MiB of pinned weights",
                    about=server.unit,
                )
