"""GPUs: driver, cards, bus, power, memory."""

from __future__ import annotations

from collections.abc import Iterator

from tasks.planning.checks.base import Check, Finding, Severity
from tasks.planning.checks.box import Box, Gpu
from tasks.spec.placement import CpuOnly
from tasks.spec.rig import Rig

# nvml.h, nvmlClocksEventReason*: what keeps a card below the clocks it was asked for. Idle (1), the owner's own clock
# settings (2), sync boost (0x10) and the display's clocks (0x100) are nobody's fault; a card at its power limit (4)
# does what it was told.
_THROTTLES = {
    0x08: "hardware slowdown (heat, power brake or current)",
    0x20: "software thermal slowdown",
    0x40: "hardware thermal slowdown",
    0x80: "power brake from the power supply",
}


def _shown(card: Gpu) -> str:
    return f"{card.name} ({card.bus_id})" if card.bus_id else card.name


def needs_gpu(rig: Rig) -> bool:
    """Whether a declared model is placed on a GPU."""
    backends = {build.name: build.backend for build in rig.builds}
    return any(
        backends[model.build] != "cpu" and not isinstance(model.serve.placement, CpuOnly) for model in rig.models
    )


class Driver(Check):
    """After an upgrade of its packages the loaded driver is the old one until a reboot, and CUDA starts no more."""

    id = "gpu.driver"
    expects = "a driver that answers, its kernel module of the same version as its library; derived"
    remedy = "reboot: the module is loaded from the package the library came from"
    severity = Severity.ERROR

    def look(self, rig: Rig, box: Box) -> Iterator[Finding]:
        """Only on boxes with models for GPUs, and by the driver's own words."""
        gpus = box.gpus
        if gpus.module and gpus.library and gpus.module != gpus.library:
            yield self.finding(f"module {gpus.module}, library {gpus.library}", "the same version")
        elif needs_gpu(rig) and not gpus.cards:
            yield self.finding(
                gpus.why_not or "no GPU answers",
                "a GPU that answers",
                remedy="declare host.nvidia_driver, or install the distribution's driver packages; then reboot",
            )


class CardsPresent(Check):
    """A card that fell off the bus, or came back in another order."""

    id = "gpu.cards"
    expects = "the cards of host.gpus (declared), in that order, by name and where given by UUID"
    remedy = "reseat the card and look at `dmesg` for Xid; a new order is declared by reordering host.gpus"
    severity = Severity.ERROR

    def look(self, rig: Rig, box: Box) -> Iterator[Finding]:
        """One finding for the whole list: a missing card moves all that follow."""
        wanted = rig.host.gpus
        if not wanted:
            return
        expected = ", ".join(f"{card.name} {card.uuid or ''}".rstrip() for card in wanted)
        cards = box.gpus.cards
        matched = len(cards) == len(wanted) and all(
            want.name.lower() in card.name.lower() and want.uuid in (None, card.uuid)
            for want, card in zip(wanted, cards, strict=True)
        )
        if not matched:
            found = ", ".join(f"{card.name} {card.uuid}".rstrip() for card in cards) or f"none ({box.gpus.why_not})"
            yield self.finding(found, expected)


class PowerLimit(Check):
    """A limit is forgotten at each reboot unless something sets it again."""

    id = "gpu.power"
    expects = "each card's power limit as host.gpus[].power_limit_w (declared), else the card's default"
    remedy = "nvidia-smi -i GPU -pl WATTS, and again at boot"

    def look(self, rig: Rig, box: Box) -> Iterator[Finding]:
        """Read back from the card."""
        for index, card in enumerate(box.gpus.cards):
            declared = rig.host.gpus[index].power_limit_w if index < len(rig.host.gpus) else None
            if declared is not None and card.power_limit_w is None:
                yield self.not_known("the card tells no limit", f"{declared:g} W", declared=True, about=_shown(card))
                continue
            wanted = declared if declared is not None else card.power_default_w
            if wanted is None or card.power_limit_w is None or abs(card.power_limit_w - wanted) < 1:
                continue
            yield self.finding(
                f"{card.power_limit_w:g} W",
                f"{wanted:g} W ({'host.gpus' if declared is not None else 'its default'})",
                about=_shown(card),
                severity=Severity.WARNING if declared is not None else Severity.NOTE,
                remedy=self.remedy if declared is not None else "declare it as power_limit_w if it is meant",
            )


class PcieLink(Check):
    """A card in the wrong slot, or seated badly, reads experts and prompts at a fraction of the speed."""

    id = "gpu.pcie"
    expects = "each card's link as wide as card and slot can, and under load as fast; derived from the driver"
    remedy = "put the card into the slot wired to the processor, reseat it, check the riser and the BIOS's PCIe setting"

    def look(self, rig: Rig, box: Box) -> Iterator[Finding]:
        """An idle card lowers its generation to save power, never its width: only a busy one's generation tells."""
        for card in box.gpus.cards:
            if card.pcie_width and card.pcie_width_max and card.pcie_width < card.pcie_width_max:
                yield self.finding(f"x{card.pcie_width}", f"x{card.pcie_width_max}", about=_shown(card))
            elif (
                card.pcie_gen
                and card.pcie_gen_max
                and card.pcie_gen < card.pcie_gen_max
                and card.pstate in ("P0", "P1", "P2")
                and not (card.throttle or 0) & 1
            ):
                yield self.finding(
                    f"generation {card.pcie_gen} under load", f"generation {card.pcie_gen_max}", about=_shown(card)
                )


class Throttled(Check):
    """A card that is too hot, or whose power supply calls a halt."""

    id = "gpu.throttle"
    expects = "no thermal or power-brake slowdown now; derived from the driver"
    remedy = "clean the fans, look at the case's airflow and the power cables; or lower power_limit_w"

    def look(self, rig: Rig, box: Box) -> Iterator[Finding]:
        """The driver's bit mask; a card at its power limit does what it was told."""
        for card in box.gpus.cards:
            reasons = [name for bit, name in _THROTTLES.items() if (card.throttle or 0) & bit]
            if reasons:
                yield self.finding(", ".join(reasons), "no slowdown", about=_shown(card))


class EccErrors(Check):
    """Uncorrected memory errors: answers may be wrong."""

    id = "gpu.ecc"
    expects = "no uncorrected memory error since the driver was loaded, where the card counts them"
    remedy = "restart the box; if they come back the card's memory is failing"
    severity = Severity.ERROR

    def look(self, rig: Rig, box: Box) -> Iterator[Finding]:
        """Cards without ECC tell nothing, which is no finding."""
        for card in box.gpus.cards:
            if card.ecc_errors:
                yield self.finding(f"{card.ecc_errors} uncorrected errors", "none", about=_shown(card))


class Persistence(Check):
    """Without it the driver lets go of an idle card, and forgets its power limit."""

    id = "gpu.persistence"
    expects = "persistence mode on where a power limit is declared (host.gpus)"
    remedy = "systemctl enable --now nvidia-persistenced"

    def look(self, rig: Rig, box: Box) -> Iterator[Finding]:
        """Only where there is a setting to forget: a running server keeps the card awake anyway."""
        for index, card in enumerate(box.gpus.cards):
            declared = index < len(rig.host.gpus) and rig.host.gpus[index].power_limit_w is not None
            if declared and card.persistence is False:
                yield self.finding("off", "on", about=_shown(card))


class Display(Check):
    """A desktop takes 300 to 2000 MiB that a placement counted on, and takes more when a window opens."""

    id = "gpu.display"
    expects = "no display on the first card, which holds most layers; derived"
    remedy = "plug the monitor into another card or the processor's graphics, or leave room (fit target_mib)"
    severity = Severity.NOTE

    def look(self, rig: Rig, box: Box) -> Iterator[Finding]:
        """With one card there may be no other place; it is said all the same, as a note."""
        if box.gpus.cards and box.gpus.cards[0].display:
            yield self.finding("a display is active", "none", about=_shown(box.gpus.cards[0]))


class FreeMemory(Check):
    """What other programs hold of a card's memory is missing when the model is loaded."""

    id = "gpu.memory"
    expects = "while no declared model runs: 90 % of each card's memory free; derived"
    remedy = "`nvidia-smi` lists who holds it; stop them, or declare a smaller placement"

    def look(self, rig: Rig, box: Box) -> Iterator[Finding]:
        """While a server runs its own memory cannot be told from others' here."""
        if box.strays.servers:
            return
        for card in box.gpus.cards:
            if card.memory_mib and card.free_mib is not None and card.free_mib < 0.9 * card.memory_mib:
                yield self.finding(
                    f"{card.free_mib} of {card.memory_mib} MiB free, and no model runs",
                    f"{int(0.9 * card.memory_mib)} MiB",
                    about=_shown(card),
                )


class SplitUpgrades(Check):
    """An upgrade at night replaces the driver's library under a loaded module; the next start of a model fails."""

    id = "gpu.upgrades"
    expects = "NVIDIA driver packages held back where the distribution upgrades by itself; derived"
    remedy = (
        "declare host.nvidia_driver, which holds them; or apt-mark hold the nvidia packages yourself. Upgrade them by "
        "hand, then reboot"
    )

    def look(self, rig: Rig, box: Box) -> Iterator[Finding]:
        """Only where the NVIDIA module is loaded: AMD's comes with the kernel."""
        if box.gpus.module and box.machine.unattended_upgrades and not box.machine.driver_held:
            yield self.finding("unattended upgrades may replace the driver", "the driver's packages held back")


ALL: tuple[Check, ...] = (
    Driver(),
    CardsPresent(),
    PcieLink(),
    PowerLimit(),
    Persistence(),
    Throttled(),
    EccErrors(),
    FreeMemory(),
    Display(),
    SplitUpgrades(),
)
