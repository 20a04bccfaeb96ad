"""RAM for the models: what each needs, against what the box has, and against what is available of it now."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

from tasks.planning import layout
from tasks.planning.checks.base import Check, Finding, Severity
from tasks.planning.checks.box import Box
from tasks.planning.plans.ram import CACHE_RAM_MIB
from tasks.planning.serving import exclusive_peers
from tasks.spec.model import Model
from tasks.spec.placement import CpuOnly
from tasks.spec.plan_file import RamBudget
from tasks.spec.rig import Rig

_MIB = 1024**2
_TOLD_KIB = 1024**2
"""Who holds less than 1 GiB is not what a model lacks."""
_MOST_TOLD = 3


@dataclass(frozen=True)
class _Need:
    """MiB of RAM that a model needs to start, more once its caches are full, and for the system beside it."""

    start: Mapping[str, int]
    later: Mapping[str, int]
    reserve: Mapping[str, int]
    words: str
    remedy: str

    def said(self, *parts: Mapping[str, int]) -> str:
        """In words, how much these parts are together."""
        listed = ", ".join(f"{name} {mib}" for part in parts for name, mib in part.items())
        return self.words.format(gib=f"{_mib(*parts) / 1024:.1f}", parts=listed)


class MemoryRoom(Check):
    """A model that does not fit into RAM is read from disk again and again, or killed."""

    id = "memory.room"
    expects = (
        "RAM for what each declared model needs: by its plan, where it has one, with full caches; else at the least: "
        "weights that the GPUs cannot hold, its prompt cache (cache_ram_mib) and 1 GiB of buffers, derived from "
        "placement and locked file sizes. And for each that does not run, as much available now, or held by the units "
        "that would be stopped for it (a note where only caches would lack it)"
    )
    remedy = "declare a smaller quant or more layers on the GPUs, or lower cache_ram_mib"

    def look(self, rig: Rig, box: Box) -> Iterator[Finding]:
        """What cannot fit at all is not told a second time as what does not fit now."""
        if why := box.unread.get(self.id):
            yield self.not_known(why, declared=True)
        total = box.machine.total_kib
        if total is None:
            yield self.not_known("/proc/meminfo cannot be read")
            return
        vram = sum(card.total_mib for card in box.gpus.cards)
        weights = {
            model.name: sum(file.size for file in locked.files) / _MIB
            for model, locked in zip(rig.models, box.locked, strict=False)
        }
        for model in rig.models:
            if (plan := box.plans.get(model.name)) is not None:
                need = _planned(model, plan.ram)
            elif model.name not in weights:
                continue
            elif not vram and not isinstance(model.serve.placement, CpuOnly):
                yield self.not_known(f"the GPUs' memory is not known ({box.gpus.problem})", about=model.name)
                continue
            else:
                need = _reckoned(model, weights[model.name], vram)
            in_all = (need.start, need.later, need.reserve)
            if _mib(*in_all) * 1024 > total:
                found = f"{_gib(total)} GiB of RAM"
                yield self.finding(found, need.said(*in_all), about=model.name, remedy=need.remedy)
            else:
                yield from self._now(rig, box, model, need)

    def _now(self, rig: Rig, box: Box, model: Model, need: _Need) -> Iterator[Finding]:
        """One that runs has been paid for. Where it cannot be told, less is said and not more.

        The pages of mapped weights count as available, whoever maps them; so does all that the units which would be
        stopped could give back. CUDA's pinned buffers are shared memory of their process (seen with driver 580); what
        another driver took for one without charging it is counted as if it were theirs.
        """
        available, units = box.machine.available_kib, box.ram_users.units
        if available is None or not box.ram_users.told or layout.unit_name(model.name) in units:
            return
        stopped = {name: units[name] for name in exclusive_peers(rig, model) if name in units}
        back = sum(user.gives_back_kib for user in stopped.values() if user is not None)
        if stopped:
            back += box.ram_users.unclaimed_kib
        room = (available + back) // 1024
        if room >= _mib(need.start, need.later):
            return
        if hidden := [name for name, user in stopped.items() if user is None]:
            yield self.not_known(f"how much RAM {', '.join(hidden)} holds is hidden in /proc", about=model.name)
            return
        starts = room >= _mib(need.start)
        yield self.finding(
            f"{_gib(available)} GiB of RAM available now"
            + (f", {_gib(back)} GiB more once {', '.join(stopped)} is stopped for it" if stopped else "")
            + f"; {_holders(box, stopped)}",
            need.said(need.start, need.later) + ", its caches full" if starts else need.said(need.start) + ", to start",
            about=model.name,
            severity=Severity.NOTE if starts else self.severity,
            remedy=f"stop what else holds it, or give that less; or {need.remedy}",
        )


def _planned(model: Model, ram: RamBudget) -> _Need:
    return _Need(
        {"weights": ram.weights_mib, "buffers": ram.buffers_mib},
        {"prompt cache": ram.cache_mib, "checkpoints": ram.checkpoints_mib},
        # For the system, which has its own already where RAM is said to be available.
        {"reserve": ram.reserve_mib},
        "{gib} GiB by its plan (MiB: {parts})",
        "declare a smaller quant, or lower cache_ram_mib or context_checkpoints; then plan anew with "
        f"tasks/plan.py --data update={model.name}",
    )


def _reckoned(model: Model, weights: float, vram: int) -> _Need:
    """At least: weights that cannot be on the GPUs, 1 GiB of host buffers, the prompt cache. All in MiB.

    Only what is sure: a plan says more, and not every model has one.
    """
    outside = weights if isinstance(model.serve.placement, CpuOnly) else max(weights - vram, 0)
    cache = CACHE_RAM_MIB if model.serve.cache_ram_mib is None else max(model.serve.cache_ram_mib, 0)
    return _Need(
        {"weights": round(outside), "buffers": 1024},
        {"prompt cache": cache},
        {},
        f"about {{gib}} GiB at the least, reckoned without a plan ({weights / 1024:.1f} GiB of weights)",
        MemoryRoom.remedy,
    )


def _holders(box: Box, stopped: Collection[str]) -> str:
    """The biggest of those that stay: what is held by nobody seen is in tmpfs, huge pages or another container."""
    ours = [(unit, user) for unit, user in box.ram_users.units.items() if user is not None and unit not in stopped]
    others = [(f"{user.name} (pid {user.pid})", user) for user in box.ram_users.others]
    large = [(name, user.gives_back_kib) for name, user in (*ours, *others) if user.gives_back_kib >= _TOLD_KIB]
    if not large:
        return "no program seen here holds much of the rest"
    largest = sorted(large, key=lambda item: -item[1])[:_MOST_TOLD]
    return f"the biggest that hold the rest: {', '.join(f'{name} with {_gib(kib)}' for name, kib in largest)}"


def _mib(*parts: Mapping[str, int]) -> int:
    return sum(mib for part in parts for mib in part.values())


def _gib(kib: float) -> str:
    return f"{kib / 1024**2:.1f}"
