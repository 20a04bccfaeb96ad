"""Check of RAM for the models: the need of each, compared with the box's RAM and with the RAM available now."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

from llamarig.checks.base import Check, Finding, Severity
from llamarig.checks.box import Box
from llamarig.checks.gpu_memory import PlanRoom
from llamarig.declare.model import Model
from llamarig.declare.placement import CpuOnly
from llamarig.declare.rig import Rig
from llamarig.items.plans import ValidPlans
from llamarig.items.wanted_unit import exclusive_peers
from llamarig.placement.ram_budget import prompt_cache_mib
from llamarig.placement.unified_memory import memory_in_ram_of
from llamarig.records.plan_file import Plan
from llamarig.render import layout

_MIB = 1024**2
_LARGE_KIB = 1024**2
"""Programs that hold less than 1 GiB are not named."""
_MAX_NAMED = 3


@dataclass(frozen=True)
class _Need:
    """RAM that a model needs, in MiB by purpose: to start, once its caches are full, and as a reserve for the system.

    ``text``: a format string with ``gib`` and ``parts``.
    """

    start: Mapping[str, int]
    later: Mapping[str, int]
    reserve: Mapping[str, int]
    text: str
    remedy: str

    def describe(self, *parts: Mapping[str, int]) -> str:
        """The sum of these parts, in words."""
        listed = ", ".join(f"{name} {mib}" for part in parts for name, mib in part.items())
        return self.text.format(gib=f"{_mib(*parts) / 1024:.1f}", parts=listed)


class MemoryRoom(Check):
    """A model that does not fit into RAM is read from disk again and again, or killed."""

    id = "memory.room"
    expects = (
        "RAM for each declared model: by its plan, if it has one, with full caches; else at least the weights that do "
        "not fit on the GPUs, its prompt cache (cache_ram_mib) and 1 GiB of buffers, derived from placement and locked "
        "file sizes. For each model that is not running, as much available now, or held by units that would be "
        "stopped for it (a note if only its caches would lack it)"
    )
    remedy = "declare a smaller quant or more layers on the GPUs, or lower cache_ram_mib"

    def look(self, rig: Rig, box: Box) -> Iterator[Finding]:
        if box.plan_problem and not {ValidPlans.check, PlanRoom.id} & box.selected:
            yield self.not_known(box.plan_problem, declared=True)
        total = box.machine.total_kib
        if total is None:
            yield self.not_known("/proc/meminfo cannot be read")
            return
        # Of GPUs that share the RAM, only what the firmware has set aside for them.
        vram = sum(card.total_mib for card in box.gpus.cards)
        shared = any(card.integrated for card in box.gpus.cards)
        weights = {
            model.name: sum(file.size for file in locked.files) / _MIB
            for model, locked in zip(rig.models, box.locked, strict=False)
        }
        for model in rig.models:
            if (plan := box.plans.get(model.name)) is not None:
                need = _need_by_plan(model, plan)
            elif model.name not in weights:
                continue
            elif not vram and not shared and not isinstance(model.serve.placement, CpuOnly):
                yield self.not_known(f"the GPUs' memory is not known ({box.gpus.problem})", about=model.name)
                continue
            else:
                need = _least_need(model, weights[model.name], vram)
            in_all = (need.start, need.later, need.reserve)
            if _mib(*in_all) * 1024 > total:
                found = f"{_gib(total)} GiB of RAM"
                yield self.finding(found, need.describe(*in_all), about=model.name, remedy=need.remedy)
            else:
                yield from self._available_now(rig, box, model, need)

    def _available_now(self, rig: Rig, box: Box, model: Model, need: _Need) -> Iterator[Finding]:
        """Compare with the RAM available now, for a model that is not running. Unknown amounts are counted in its
        favour.

        Pages of mapped weights count as available, whichever process maps them, and so does everything that the units
        to be stopped could give back. CUDA's pinned buffers are shared memory of their process (seen with driver 580);
        memory that another driver took without charging it to a process counts as theirs.
        """
        available, units = box.machine.available_kib, box.ram_users.units
        if available is None or not box.ram_users.is_known or layout.unit_name(model.name) in units:
            return
        stopped = {name: units[name] for name in exclusive_peers(rig, model) if name in units}
        given_back = sum(user.gives_back_kib for user in stopped.values() if user is not None)
        if stopped:
            given_back += box.ram_users.unclaimed_kib
        room = (available + given_back) // 1024
        if room >= _mib(need.start, need.later):
            return
        if hidden := [name for name, user in stopped.items() if user is None]:
            yield self.not_known(f"how much RAM {', '.join(hidden)} holds is hidden in /proc", about=model.name)
            return
        starts = room >= _mib(need.start)
        yield self.finding(
            f"{_gib(available)} GiB of RAM available now"
            + (f", {_gib(given_back)} GiB more once {', '.join(stopped)} is stopped for it" if stopped else "")
            + f"; {_holders(box, stopped)}",
            need.describe(need.start, need.later) + ", with full caches"
            if starts
            else need.describe(need.start) + ", to start",
            about=model.name,
            severity=Severity.NOTE if starts else self.severity,
            remedy=f"stop other programs that hold it, or lower their need; or {need.remedy}",
        )


def _need_by_plan(model: Model, plan: Plan) -> _Need:
    ram, on_gpu = plan.ram, memory_in_ram_of(plan)
    return _Need(
        {"weights": ram.weights_mib, "buffers": ram.buffers_mib, **({"GPU memory": on_gpu} if on_gpu else {})},
        {"prompt cache": ram.cache_mib, "checkpoints": ram.checkpoints_mib},
        # For the system; available RAM is already without it.
        {"reserve": ram.reserve_mib},
        "{gib} GiB by its plan (MiB: {parts})",
        "declare a smaller quant, or lower cache_ram_mib or context_checkpoints; then plan again with "
        f"tasks/plan.py --data update={model.name}",
    )


def _least_need(model: Model, weights: float, vram: int) -> _Need:
    """The lower bound for a model without a plan: weights that do not fit on the GPUs, 1 GiB of host buffers, the
    prompt cache.

    :param weights: MiB of all weights
    :param vram: MiB of all GPUs
    """
    outside = weights if isinstance(model.serve.placement, CpuOnly) else max(weights - vram, 0)
    return _Need(
        {"weights": round(outside), "buffers": 1024},
        {"prompt cache": prompt_cache_mib(model.serve)},
        {},
        f"about {{gib}} GiB at least, estimated without a plan ({weights / 1024:.1f} GiB of weights)",
        MemoryRoom.remedy,
    )


def _holders(box: Box, stopped: Collection[str]) -> str:
    """The largest holders of RAM that keep running. RAM of no visible program is in tmpfs, huge pages or another
    container."""
    ours = [(unit, user) for unit, user in box.ram_users.units.items() if user is not None and unit not in stopped]
    others = [(f"{user.name} (pid {user.pid})", user) for user in box.ram_users.others]
    large = [(name, user.gives_back_kib) for name, user in (*ours, *others) if user.gives_back_kib >= _LARGE_KIB]
    if not large:
        return "no visible program holds much of the rest"
    largest = sorted(large, key=lambda item: -item[1])[:_MAX_NAMED]
    return f"the largest holders of the rest: {', '.join(f'{name} with {_gib(kib)}' for name, kib in largest)}"


def _mib(*parts: Mapping[str, int]) -> int:
    return sum(mib for part in parts for mib in part.values())


def _gib(kib: float) -> str:
    return f"{kib / 1024**2:.1f}"
