"""Checks of GPU memory: free memory, the memory of plans, and displays."""

from __future__ import annotations

from collections.abc import Iterator

from llamarig.checks.base import Check, Finding, Severity
from llamarig.checks.box import Box
from llamarig.declare.model import Model
from llamarig.declare.placement import AllOnGpu, CpuOnly
from llamarig.declare.rig import Rig
from llamarig.facts.gpus import Gpu, shown
from llamarig.items.cards_in_use import cards_in_use
from llamarig.items.model_units import ServedModels
from llamarig.items.plans import ValidPlans
from llamarig.placement.devices import cards_of
from llamarig.placement.unified_memory import is_shared
from llamarig.records.plan_file import Plan
from llamarig.render import layout

_DISPLAY_REMEDY = "a display is active on it: leave memory for it (fit target_mib), or connect the monitor elsewhere"


def _planned_cards(rig: Rig, box: Box) -> Iterator[tuple[Model, Plan, list[Gpu | None]]]:
    """Each planned model with the cards of its plan, in device order; empty if the plan is for simulated GPUs."""
    for model in () if rig.simulated_gpus else rig.models:
        if (plan := box.plans.get(model.name)) is not None:
            yield model, plan, cards_of(plan.belongs.devices, box.gpus.gpus, model.serve.gpus)


class FreeMemory(Check):
    """Memory held by other programs is missing when the model is loaded."""

    id = "gpu.memory"
    expects = "while no declared model runs: 90 % of the memory free on each card without a plan; derived"
    remedy = "`nvidia-smi` lists the programs that hold it; stop them, or declare a smaller placement"

    def look(self, rig: Rig, box: Box) -> Iterator[Finding]:
        """Check while no server runs, because its memory is not reported separately; gpu.room covers planned cards.

        A display takes up to some GiB and does not give them back: that is a note. If llama.units reports that a model
        should run and does not, the memory is often the cause of that, or still held by that model.
        """
        if box.strays.servers or box.differences.get(ServedModels.name):
            return
        planned = [card for _, plan, cards in _planned_cards(rig, box) if not plan.proposals for card in cards]
        for card in cards_in_use(rig, box.gpus):
            if card in planned or card.integrated or card.free_mib >= 0.9 * card.total_mib:
                continue
            if box.strays.unseen:
                yield self.not_known(f"whether a model holds it: {box.strays.unseen}", about=shown(card))
            else:
                yield self.finding(
                    f"{card.free_mib} of {card.total_mib} MiB free, and no model runs",
                    f"{int(0.9 * card.total_mib)} MiB",
                    about=shown(card),
                    severity=Severity.NOTE if card.display else Severity.WARNING,
                    remedy=_DISPLAY_REMEDY if card.display else self.remedy,
                )


class PlanRoom(Check):
    """A plan fills its cards up to the margin, so memory that another program takes is missing at the next start."""

    id = "gpu.room"
    expects = (
        "on each card of a model's plan, free or held by our own servers: what the plan predicts, vision projector "
        "and draft model included (less is an error), and its margin; from the plan file"
    )
    remedy = (
        "`nvidia-smi` lists the other programs that hold it: stop them; or leave it to them (auto(margin_mib=...) "
        "keeps more free) and plan again"
    )

    def look(self, rig: Rig, box: Box) -> Iterator[Finding]:
        """Compare free memory, and memory held by our servers, with each plan.

        gpu.cards reports a missing card, and llama.units a stale plan. Memory that the driver reports as free still
        includes the CUDA context, which the planner had already subtracted (cudaMemGetInfo creates one first), so a
        smaller shortage is not found here.
        """
        if box.plan_problem and ValidPlans.check not in box.selected:
            yield self.not_known(box.plan_problem, declared=True)
        for model, plan, cards in _planned_cards(rig, box):
            if plan.proposals:
                yield self.not_known(
                    "it is served with fewer layers than planned, which no dry run has measured; plan it again with "
                    f"tasks/plan.py --data update={model.name}",
                    about=model.name,
                )
                continue
            for index, card in enumerate(cards):
                device = plan.belongs.devices[index]
                if is_shared(device):
                    continue  # memory.room counts it
                if card is not None and not card.total_mib:
                    about = f"{model.name} {device.name}"
                    yield self.not_known(f"the driver does not tell the memory of {shown(card)}", about=about)
                elif card is not None:
                    yield from self._of_card(rig, box, model, plan, index, card)
                elif not device.uuid:
                    about = f"{model.name} {device.name}"
                    yield self.not_known(f"the NVIDIA driver lists no card {device.description}", about=about)

    def _of_card(self, rig: Rig, box: Box, model: Model, plan: Plan, index: int, card: Gpu) -> Iterator[Finding]:
        others = plan.belongs.others_mib[index] if plan.belongs.others_mib else 0
        margin, predicted = plan.belongs.margins_mib[index], plan.gpus[index].total_mib
        held = box.vram_held_mib.get(card.uuid, 0)
        free, starts = card.free_mib + held, predicted + others
        if free >= starts + margin:
            return
        about = f"{model.name} {plan.belongs.devices[index].name}"
        if not box.vram_held_mib and (box.strays.unseen or _serves_on_gpus(rig, box)):
            why = box.strays.unseen or "the driver does not report it"
            yield self.not_known(f"how much GPU memory our own servers hold: {why}", about=about)
            return
        too_little = free < starts
        yield self.finding(
            f"{card.free_mib} of {card.total_mib} MiB of {shown(card)} free"
            + (f", {held} more are held by our own servers" if held else ""),
            f"{starts + margin} MiB: {predicted} predicted"
            + (f", {others} for vision projector and draft model" if others else "")
            + f", {margin} margin"
            + ("; it would not start" if too_little else ""),
            about=about,
            severity=Severity.ERROR if too_little else Severity.WARNING,
            remedy=f"{self.remedy} with tasks/plan.py --data update={model.name}",
        )


def _serves_on_gpus(rig: Rig, box: Box) -> bool:
    """Whether one of our units is running that may hold GPU memory."""
    in_ram = {layout.unit_name(model.name) for model in rig.models if isinstance(model.serve.placement, CpuOnly)}
    return any(server.unit.startswith("llamarig-") and server.unit not in in_ram for server in box.strays.servers)


class SharedMemoryLimit(Check):
    """By default, the kernel lets AMD's integrated graphics use half of the RAM."""

    id = "gpu.gtt"
    expects = (
        "where AMD's integrated graphics serve, as much memory for them (set aside by the firmware, and GTT) as each "
        "model takes there: by its plan, or with all_on_gpu() the size of its locked files; derived"
    )
    remedy = (
        "raise the limit with the kernel parameters ttm.pages_limit and ttm.page_pool_size (pages of 4 KiB), restart "
        "the box, and plan again; or declare a smaller quant or context"
    )

    def look(self, rig: Rig, box: Box) -> Iterator[Finding]:
        """Compare where such a GPU is the only one in use."""
        cards = cards_in_use(rig, box.gpus)
        if len(cards) != 1 or not cards[0].shared_mib:
            return
        limit = cards[0].total_mib + cards[0].shared_mib
        sizes = {
            model.name: sum(file.size for file in locked.files) >> 20
            for model, locked in zip(rig.models, box.locked, strict=False)
            if isinstance(model.serve.placement, AllOnGpu)
        }
        planned = {name: sum(row.total_mib for row in plan.gpus) for name, plan in box.plans.items()}
        for name, mib in (sizes | planned).items():
            if mib > limit:
                yield self.finding(
                    f"{limit} MiB, of them {cards[0].shared_mib} of GTT", f"{mib} MiB or more", about=name
                )


class Display(Check):
    """A desktop takes 300 to 2000 MiB that the placement counts on, and more when a window opens."""

    id = "gpu.display"
    expects = "no display on a model's first card, which holds most layers; derived"
    remedy = "connect the monitor to another card or the integrated graphics, or leave memory free (fit target_mib)"
    severity = Severity.NOTE

    def look(self, rig: Rig, box: Box) -> Iterator[Finding]:
        """Report the display as a note, even if there is only one card.

        nvidia-smi reports a display as active if memory is allocated for it, with or without a monitor.
        """
        for card in dict.fromkeys(_first_card(rig, box, model) for model in rig.models):
            if card is not None and card.display and not card.integrated:
                yield self.finding("a display is active", "none", about=shown(card))


def _first_card(rig: Rig, box: Box, model: Model) -> Gpu | None:
    """The card that is CUDA0 for a model, or its equivalent: by plan, by UUID, by the declared order."""
    backend = rig.build_of(model).backend
    if backend == "cpu" or isinstance(model.serve.placement, CpuOnly):
        return None
    cards = list(box.gpus.gpus) if backend == "cuda" else cards_in_use(rig, box.gpus)
    if plan := box.plans.get(model.name):
        planned = cards_of(plan.belongs.devices, cards, model.serve.gpus)
        if planned and planned[0] is not None:
            return planned[0]
    if model.serve.gpus:
        return next((card for card in cards if card.uuid == model.serve.gpus[0]), None)
    if model.serve.environment.get("CUDA_DEVICE_ORDER") == "FASTEST_FIRST":
        # nvidia-smi does not report what CUDA ranks cards by; the largest card is usually the fastest.
        cards.sort(key=lambda card: -card.total_mib)
    return next(iter(cards), None)
