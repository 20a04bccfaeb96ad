"""GPUs' memory: what is free, what a plan counts on, and what a display takes of it."""

from __future__ import annotations

from collections.abc import Iterator

from tasks.planning import layout
from tasks.planning.checks.base import Check, Finding, Severity
from tasks.planning.checks.box import Box
from tasks.planning.checks.llama_cpp import UnitsAsDeclared
from tasks.planning.gpu_use import cards_in_use
from tasks.planning.gpus import Gpu, shown
from tasks.planning.plans.device import cards_of
from tasks.spec.model import Model
from tasks.spec.placement import CpuOnly
from tasks.spec.plan_file import Plan
from tasks.spec.rig import Rig

_OF_DISPLAY = "a display is active on it: leave it room (fit target_mib), or plug the monitor in elsewhere"


def _planned_cards(rig: Rig, box: Box) -> Iterator[tuple[Model, Plan, list[Gpu | None]]]:
    """Each planned model with the cards of its plan, in device order; none where it is for GPUs that are not here."""
    for model in () if rig.simulated_gpus else rig.models:
        if (plan := box.plans.get(model.name)) is not None:
            yield model, plan, cards_of(plan.belongs.devices, box.gpus.gpus, model.serve.gpus)


class FreeMemory(Check):
    """What other programs hold of a card's memory is missing when the model is loaded."""

    id = "gpu.memory"
    expects = "while no declared model runs: 90 % of the memory free of each card that no plan speaks of; derived"
    remedy = "`nvidia-smi` lists who holds it; stop them, or declare a smaller placement"

    def look(self, rig: Rig, box: Box) -> Iterator[Finding]:
        """While a server runs its own memory cannot be told from others' here; of planned cards gpu.room knows more.

        A display takes what it needs, up to some GiB, and gives it back to nobody: that is a note. Where llama.units
        tells of a model that should run and does not, what holds the memory is often its cause, or still that model.
        """
        if box.strays.servers or box.differences.get(UnitsAsDeclared.id):
            return
        planned = [card for _, plan, cards in _planned_cards(rig, box) if not plan.proposals for card in cards]
        for card in cards_in_use(rig, box.gpus):
            if card in planned or card.free_mib >= 0.9 * card.total_mib:
                continue
            if box.strays.unseen:
                yield self.not_known(f"whether a model holds it: {box.strays.unseen}", about=shown(card))
            else:
                yield self.finding(
                    f"{card.free_mib} of {card.total_mib} MiB free, and no model runs",
                    f"{int(0.9 * card.total_mib)} MiB",
                    about=shown(card),
                    severity=Severity.NOTE if card.display else Severity.WARNING,
                    remedy=_OF_DISPLAY if card.display else self.remedy,
                )


class PlanRoom(Check):
    """A plan fills its cards to the margin: what another program takes is missing at the model's next start."""

    id = "gpu.room"
    expects = (
        "on each card of a model's plan, free or held by our own servers: what the plan predicts, vision projector "
        "and draft model included (less is an error), and its margin; from the plan file"
    )
    remedy = (
        "`nvidia-smi` lists who else holds it: stop them; or let them have it (auto(margin_mib=...) keeps more free) "
        "and plan anew"
    )

    def look(self, rig: Rig, box: Box) -> Iterator[Finding]:
        """A card that is not there is told by gpu.cards, and by llama.units as a plan that no longer holds.

        What the driver calls free still has room for CUDA's own context in it, what the planner started from had not
        (cudaMemGetInfo makes one first): a shortage smaller than that is not seen here.
        """
        if why := box.unread.get(self.id):
            yield self.not_known(why, declared=True)
        for model, plan, cards in _planned_cards(rig, box):
            if plan.proposals:
                yield self.not_known(
                    "it serves with fewer layers than planned, which no dry run has predicted; plan it anew with "
                    f"tasks/plan.py --data update={model.name}",
                    about=model.name,
                )
                continue
            for index, card in enumerate(cards):
                device = plan.belongs.devices[index]
                if card is not None:
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
            why = box.strays.unseen or "the driver does not tell"
            yield self.not_known(f"how much of the cards our own servers hold: {why}", about=about)
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
    """Whether one of our units runs that may hold memory of a card."""
    in_ram = {layout.unit_name(model.name) for model in rig.models if isinstance(model.serve.placement, CpuOnly)}
    return any(server.unit.startswith("llamarig-") and server.unit not in in_ram for server in box.strays.servers)


class Display(Check):
    """A desktop takes 300 to 2000 MiB that a placement counted on, and takes more when a window opens."""

    id = "gpu.display"
    expects = "no display on a model's first card, which holds most layers; derived"
    remedy = "plug the monitor into another card or the processor's graphics, or leave room (fit target_mib)"
    severity = Severity.NOTE

    def look(self, rig: Rig, box: Box) -> Iterator[Finding]:
        """With one card there may be no other place; it is said all the same, as a note.

        nvidia-smi calls a display active where memory is allocated for it, whether a monitor is there or not.
        """
        for card in dict.fromkeys(_first_card(rig, box, model) for model in rig.models):
            if card is not None and card.display:
                yield self.finding("a display is active", "none", about=shown(card))


def _first_card(rig: Rig, box: Box, model: Model) -> Gpu | None:
    """The card that is CUDA0 to a model, or its like: by plan, by UUID, by the declared order."""
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
        # CUDA reckons the speed by what nvidia-smi does not tell; of a box's cards the largest is usually the fastest.
        cards.sort(key=lambda card: -card.total_mib)
    return next(iter(cards), None)


ALL: tuple[Check, ...] = (FreeMemory(), PlanRoom(), Display())
