"""GPUs: driver, cards, bus, power."""

from __future__ import annotations

from collections.abc import Iterator

from tasks.planning.checks.base import Check, Finding, Severity
from tasks.planning.checks.box import Box
from tasks.planning.gpu_power import PowerLimitError, is_card, power_differences, power_limits
from tasks.planning.gpus import gpu_differences, shown
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
                gpus.problem or "no GPU answers",
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
            is_card(want, card) for want, card in zip(wanted, cards, strict=True)
        )
        if not matched:
            found = ", ".join(f"{card.name} {card.uuid}".rstrip() for card in cards) or f"none ({box.gpus.problem})"
            yield self.finding(found, expected)


class Toolkit(Check):
    """A driver too old for the toolkit refuses to run what it compiled; code for another card runs wrongly or not."""

    id = "gpu.toolkit"
    expects = "a driver new enough for each CUDA build's toolkit, and code in each build for each card; derived"
    remedy = "install a newer driver, or declare the build's cuda_toolkit and architectures for this box"
    severity = Severity.ERROR

    def look(self, rig: Rig, box: Box) -> Iterator[Finding]:
        """By NVIDIA's table of the oldest driver a toolkit runs with; a missing driver is another check's finding."""
        if not box.gpus.problem:
            yield from self.of_differences(gpu_differences(rig.builds, box.gpus, box.toolkits))


class PowerLimit(Check):
    """A limit is forgotten at each reboot unless something sets it again."""

    id = "gpu.power"
    expects = (
        "each card's power limit as host.gpus[].power_limit_w (declared), with persistence mode on, without which an "
        "idle card forgets it; else the card's default"
    )
    remedy = "run deploy.py"
    by_deploy = True

    def look(self, rig: Rig, box: Box) -> Iterator[Finding]:
        """Read back from the cards, where they are the declared ones."""
        if any(CardsPresent().look(rig, box)):
            return
        declared = {index for index, card in enumerate(rig.host.gpus) if card.power_limit_w}
        try:
            yield from self.of_differences(power_differences(power_limits(rig.host.gpus, box.gpus)))
        except PowerLimitError as error:
            yield self.finding(str(error), "a limit that the card takes", remedy="declare another power_limit_w")
        for index, card in enumerate(box.gpus.cards):
            differs = abs(card.power_limit_w - card.power_default_w) >= 1
            if index not in declared and card.power_limit_w and card.power_default_w and differs:
                yield Finding(
                    check=self.id,
                    severity=Severity.NOTE,
                    expected=f"{card.power_default_w:g} W (its default)",
                    found=f"{card.power_limit_w:g} W",
                    remedy="declare it as power_limit_w if it is meant",
                    about=shown(card),
                    fails=False,
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
                yield self.finding(f"x{card.pcie_width}", f"x{card.pcie_width_max}", about=shown(card))
            elif (
                card.pcie_generation
                and card.pcie_generation_max
                and card.pcie_generation < card.pcie_generation_max
                and card.pstate in ("P0", "P1", "P2")
                and not card.throttle & 1
            ):
                yield self.finding(
                    f"generation {card.pcie_generation} under load",
                    f"generation {card.pcie_generation_max}",
                    about=shown(card),
                )


class Throttled(Check):
    """A card that is too hot, or whose power supply calls a halt."""

    id = "gpu.throttle"
    expects = "no thermal or power-brake slowdown now; derived from the driver"
    remedy = "clean the fans, look at the case's airflow and the power cables; or lower power_limit_w"

    def look(self, rig: Rig, box: Box) -> Iterator[Finding]:
        """The driver's bit mask; a card at its power limit does what it was told."""
        for card in box.gpus.cards:
            reasons = [name for bit, name in _THROTTLES.items() if card.throttle & bit]
            if reasons:
                yield self.finding(", ".join(reasons), "no slowdown", about=shown(card))


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
                yield self.finding(f"{card.ecc_errors} uncorrected errors", "none", about=shown(card))


class SplitUpgrades(Check):
    """An upgrade at night replaces the driver's library under a loaded module; the next start of a model fails."""

    id = "gpu.upgrades"
    expects = "NVIDIA driver packages held back where the distribution upgrades by itself; derived"
    remedy = (
        "declare host.nvidia_driver, which holds them; or hold the nvidia packages yourself (apt-mark hold; Fedora: "
        "dnf versionlock add). Upgrade them by hand, then reboot"
    )

    def look(self, rig: Rig, box: Box) -> Iterator[Finding]:
        """Only where the NVIDIA module is loaded: AMD's comes with the kernel."""
        if box.gpus.module and box.machine.unattended_upgrades and not box.machine.driver_held:
            yield self.finding("unattended upgrades may replace the driver", "the driver's packages held back")


ALL: tuple[Check, ...] = (
    Driver(),
    CardsPresent(),
    Toolkit(),
    PcieLink(),
    PowerLimit(),
    Throttled(),
    EccErrors(),
    SplitUpgrades(),
)
