"""RAM speed and channels, swap, huge pages."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from tasks.planning import layout
from tasks.planning.checks.base import Check, Finding, Severity
from tasks.planning.checks.box import Box
from tasks.planning.checks.memory_room import MemoryRoom
from tasks.planning.pinned_pages import PRICE, is_pageable
from tasks.planning.ram.modules import channels_used
from tasks.planning.ram.speed import Verdict, judge
from tasks.spec.rig import Rig

_PROFILE = (
    "enter the BIOS setup and switch on the memory profile: XMP (Intel), EXPO (AMD, DDR5), DOCP or A-XMP (AMD, DDR4)"
)


class MemorySpeed(Check):
    """Tokens made from weights in RAM come as fast as the RAM is read: a lost profile is lost tokens a second."""

    id = "memory.speed"
    expects = (
        "RAM at its rated speed: host.memory_mts where declared, else what the modules' part numbers say, else "
        "at least the modules' own speed by the firmware, and no standard speed without a profile"
    )
    remedy = _PROFILE

    def look(self, rig: Rig, box: Box) -> Iterator[Finding]:
        """Declared speed over part numbers over suspicion."""
        declared = rig.host.memory_mts
        if not box.ram.modules:
            said = f"{declared} MT/s (host.memory_mts)" if declared else ""
            yield self.not_known(
                box.ram.why_not or "the firmware lists no memory modules", said, declared=declared is not None
            )
            return
        speed = judge(box.ram.modules, declared)
        expected = f"{speed.rated} MT/s ({speed.source})" if speed.rated else "the speed the modules were sold for"
        running = f"{len(box.ram.modules)} modules at {speed.mts} MT/s"
        match speed.verdict:
            case Verdict.UNKNOWN:
                yield self.not_known("the firmware tells no speed", expected, declared=declared is not None)
            case Verdict.BELOW:
                cost = f": what is computed from RAM runs at about {speed.percent} % of its tokens a second"
                # The owner's own word is held against him even where a platform promises less.
                bound = speed.limit if declared is None else ""
                yield self.finding(
                    running + cost,
                    expected,
                    severity=Severity.NOTE if bound else Severity.WARNING,
                    remedy=bound or self.remedy,
                )
            case Verdict.SUSPECT:
                yield self.finding(
                    f"{running}, {speed.limit or speed.source}",
                    expected,
                    severity=Severity.NOTE,
                    remedy="compare with what you bought, and declare it as host.memory_mts",
                )


class MemoryChannels(Check):
    """Half the channels are half the bandwidth."""

    id = "memory.channels"
    expects = "modules in two memory channels at least, derived from the slots' names in the firmware's table"
    remedy = "put the modules into the slots the board's manual names for two (usually the second and fourth)"

    def look(self, rig: Rig, box: Box) -> Iterator[Finding]:
        """Only where it can be seen: soldered memory and virtual machines have no slots."""
        modules = box.ram.modules
        if not modules or any(module.soldered or module.generation is None for module in modules):
            return
        if len(modules) == 1 and box.ram.slots > 1:
            yield self.finding(
                f"one module in {box.ram.slots} slots: half the bandwidth of two",
                "two modules or more",
                remedy="add a second, equal module",
            )
        # Boards that give two slots one name, or two slots in all one channel, do not tell where a module sits.
        places = {(module.locator, module.bank) for module in modules}
        if 1 < len(modules) == len(places) < box.ram.slots and channels_used(modules) == 1:
            slots = ", ".join(module.locator for module in modules)
            yield self.finding(f"all modules in one channel ({slots}): half the bandwidth", "two channels")


class MemoryBandwidth(Check):
    """What no firmware can gloss over."""

    id = "memory.bandwidth"
    expects = "half of what modules, speed and channels promise, at least; measured with --data bandwidth=1"
    remedy = "look for a missing channel or a speed that the firmware tells wrongly; measure again on an idle box"

    def look(self, rig: Rig, box: Box) -> Iterator[Finding]:
        """Eight bytes a transfer and channel."""
        if box.copy_gb_s is None:
            if self.id in box.asked:
                why = "less than 2.5 GiB of memory is available, or deploy.py has not brought its programs yet"
                yield self.not_known(f"nothing could be measured: {why}")
            return
        if not box.ram.modules:
            why = box.ram.why_not or "the firmware lists no memory modules"
            yield self.not_known(f"{box.measured[self.id]}, and nothing to hold that against: {why}")
            return
        speed = judge(box.ram.modules, rig.host.memory_mts)
        mts = speed.rated or speed.mts
        channels = channels_used(box.ram.modules) or min(len(box.ram.modules), 2)
        promised = mts * 8 * channels / 1000
        # A copy of one program reaches 60 to 90 % of the promise on desktops.
        if not promised:
            yield self.not_known(f"{box.measured[self.id]}, and the firmware tells no speed to hold that against")
        elif box.copy_gb_s < promised / 2:
            yield self.finding(
                box.measured[self.id], f"{promised / 2:.1f} GB/s of the {promised:.1f} GB/s of {mts} MT/s"
            )


class Swappiness(Check):
    """Expert weights that are swapped out are read back from disk, token by token."""

    id = "memory.swappiness"
    expects = (
        f"vm.swappiness = host.swappiness, now (/proc) and after a reboot ({layout.SYSCTL_FILE}; "
        f"{layout.UDEV_FILE} where another udev rule sets it)"
    )
    remedy = "run deploy.py"
    by_deploy = True

    def look(self, rig: Rig, box: Box) -> Iterator[Finding]:
        """One finding for both: one deploy mends both."""
        wanted = rig.host.swappiness
        if wanted is None:
            return
        now, boot = box.machine.swappiness, box.machine.swappiness_at_boot
        if now is None:
            yield self.not_known("/proc/sys/vm/swappiness cannot be read", f"{wanted} (host.swappiness)", declared=True)
            return
        expected = f"{wanted} (host.swappiness)"
        if boot == wanted and now == wanted:
            return
        later = "nothing set" if boot is None else f"{boot} from {box.machine.swappiness_file}"
        found = self.finding(f"{now} now, {later} after a reboot", expected)
        if boot != wanted and _comes_after_ours(box.machine.swappiness_file):
            # Deploying again cannot win against it.
            remedy = f"remove vm.swappiness from {box.machine.swappiness_file}"
            found = replace(found, remedy=remedy, by_deploy=False)
        yield found


def _comes_after_ours(file: str) -> bool:
    """Whether a file that sets vm.swappiness is applied after the one that deploy.py writes against it."""
    if not file.endswith(".rules"):
        return file not in ("", layout.SYSCTL_FILE)
    return file.rpartition("/")[2] > layout.UDEV_FILE.rpartition("/")[2]


class SwapInUse(Check):
    """Swap that holds parts of a running server slows each of its answers."""

    id = "memory.swap"
    expects = "no memory of a running llama-server in swap"
    remedy = "give the models less (cache_ram_mib, context, layers), or restart the server when memory is free"

    def look(self, rig: Rig, box: Box) -> Iterator[Finding]:
        """A server's own pages are a warning, other programs' nothing."""
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
                "little in compressed RAM: quantized weights do not compress",
                about="zram",
                severity=Severity.NOTE,
                remedy="lower vm.swappiness, or declare less for the models",
            )


class HugePages(Check):
    """llama.cpp's large allocations are read with a tenth of the page-table walks where huge pages are allowed."""

    id = "memory.huge-pages"
    expects = "transparent huge pages not `never`; derived, the kernel's default is madvise or always"
    remedy = "boot without transparent_hugepage=never, or look for a sysfs setting that switches them off"
    severity = Severity.NOTE

    def look(self, rig: Rig, box: Box) -> Iterator[Finding]:
        """Only `never` is worth a word."""
        if box.machine.huge_pages == "never":
            yield self.finding("never", "madvise or always")


class OutOfMemory(Check):
    """A kernel that ran out of memory kills the largest program, which here is the model."""

    id = "memory.oom"
    expects = "no model's unit that last ended by the kernel's out-of-memory killer; derived from systemd's own record"
    remedy = "declare less for the model (cache_ram_mib, context, a smaller quant), or more layers on the GPUs"
    severity = Severity.ERROR

    def look(self, rig: Rig, box: Box) -> Iterator[Finding]:
        """systemd says it of each unit; kills of other programs since boot are a note."""
        for unit in box.machine.oom_killed_units:
            yield self.finding("ended by the out-of-memory killer", "running, or ended on request", about=unit)
        if (
            box.machine.oom_kills
            and not box.machine.oom_killed_units
            and box.machine.virtualization != "systemd-nspawn"
        ):
            yield self.finding(
                f"{box.machine.oom_kills} programs killed since boot",
                "none",
                severity=Severity.NOTE,
                about="since boot",
            )


class LockedMemory(Check):
    """llama.cpp only warns when it may not lock what it was told to lock."""

    id = "memory.locked"
    expects = "a model declared with load_mode mlock is locked in RAM: no memlock limit, and locked pages"
    remedy = "restart the unit; see `journalctl -u` of it for `failed to mlock`"

    def look(self, rig: Rig, box: Box) -> Iterator[Finding]:
        """Of running servers, by their own /proc."""
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
    """A driver that refuses pinned memory is a debug line in the log: the weights are then ordinary memory."""

    id = "memory.pinned"
    expects = (
        "the weights in RAM of a running CUDA model with load_mode none or mlock are pinned memory: RssShmem of its "
        "process (/proc/PID/status) about their size, which a dry run has shown"
    )
    remedy = (
        "restart the unit when memory is free; if that does not help, look for a limit of the driver on pinned memory"
    )

    def look(self, rig: Rig, box: Box) -> Iterator[Finding]:
        """Of running servers, by their own /proc."""
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


ALL: tuple[Check, ...] = (
    MemorySpeed(),
    MemoryChannels(),
    MemoryBandwidth(),
    Swappiness(),
    SwapInUse(),
    MemoryRoom(),
    HugePages(),
    OutOfMemory(),
    LockedMemory(),
    PinnedWeights(),
)
