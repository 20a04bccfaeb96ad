"""Checks of GPUs: driver, cards, bus, power, errors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from llamarig.checks.base import Check, Finding, Severity
from llamarig.checks.box import Box
from llamarig.declare.host_policy import GpuCard
from llamarig.declare.rig import Rig
from llamarig.facts.gpus import UNNAMED, Gpu, GpuState, is_lost, shown
from llamarig.items.cards_in_use import (
    AMD_ON_BUS,
    NVIDIA_ON_BUS,
    Vendor,
    backends_in_use,
    bus_order_matters,
    cards_in_use,
    declared_cards,
    is_amd_card,
    large,
    of_cuda,
)
from llamarig.items.cuda_support import LOST_REMEDY, driver_remedy, gpu_differences
from llamarig.items.gpu_setup import PowerLimitError, is_card, power_differences, power_limits

# Bits of nvmlClocksEventReason* (nvml.h) that are faults. Left out: idle (1), the owner's own clock settings (2), the
# power limit (4), sync boost (0x10) and the display's clocks (0x100).
_THROTTLES = {
    0x08: "hardware slowdown (heat, power brake or current)",
    0x20: "software thermal slowdown",
    0x40: "hardware thermal slowdown",
    0x80: "power brake from the power supply",
}

_NO_AMDGPU = (
    "`dmesg | grep amdgpu` shows the reason; usually its firmware is missing: install firmware-amd-graphics (Debian), "
    "linux-firmware (Ubuntu), linux-firmware-amdgpu (Arch) or amd-gpu-firmware (Fedora), then reboot"
)


class Driver(Check):
    """After an upgrade the old kernel module stays loaded until a reboot, and CUDA programs no longer start."""

    id = "gpu.driver"
    expects = (
        "for the backends of the declared models, a driver that answers with a card; NVIDIA's kernel module of the "
        "same version as its library; derived"
    )
    remedy = "reboot, which loads the module of the same package as the library"
    severity = Severity.ERROR

    def look(self, rig: Rig, box: Box) -> Iterator[Finding]:
        gpus, backends = box.gpus, backends_in_use(rig)
        if gpus.module and gpus.library and gpus.module != gpus.library:
            yield self.finding(f"module {gpus.module}, library {gpus.library}", "the same version")
            return
        for complaint in gpus.complaints if backends & {"cuda", "vulkan"} or declared_cards(rig, "nvidia") else ():
            # gpu.cards reports a lost card if it is declared.
            if not is_lost(complaint):
                yield self.finding(
                    complaint,
                    "no warning from nvidia-smi",
                    severity=Severity.NOTE,
                    remedy="see `nvidia-smi -q`",
                )
            elif as_declared(rig, gpus):
                yield self.finding(complaint, "every card answering", remedy=LOST_REMEDY)
        for vendor in without_driver(rig, gpus):
            if vendor == "nvidia":
                yield self._of_nvidia(gpus)
            elif vendor == "amd":
                yield self._of_amd(gpus)
            else:
                yield self.not_known("neither NVIDIA's driver nor amdgpu shows a card; other drivers are not supported")

    def _of_nvidia(self, gpus: GpuState) -> Finding:
        found = gpus.problem or "no GPU answers"
        return self.finding(found, "an NVIDIA card that answers", remedy=driver_remedy(gpus))

    def _of_amd(self, gpus: GpuState) -> Finding:
        absent = bool(gpus.on_bus) and AMD_ON_BUS not in gpus.on_bus
        return self.finding(
            "no AMD card on the bus" if absent else "no AMD card that amdgpu drives",
            "an AMD card that amdgpu drives",
            remedy="reseat the card, and check that the BIOS lists it" if absent else _NO_AMDGPU,
        )


class CardsPresent(Check):
    """A card may drop off the bus, or come back in another order."""

    id = "gpu.cards"
    expects = (
        "the cards of host.gpus (declared), by name and where given by UUID; each maker's in that order, unless all "
        "models name UUIDs or CUDA_DEVICE_ORDER=FASTEST_FIRST; integrated graphics need not be declared"
    )
    remedy = "reseat the card and search `dmesg` for Xid; if the order is new, reorder host.gpus"
    severity = Severity.ERROR

    def look(self, rig: Rig, box: Box) -> Iterator[Finding]:
        """Report one finding for each maker's list, because a missing card moves all that follow."""
        gpus = box.gpus
        # gpu.driver reports that no card answers, if a model needs one.
        reported = without_driver(rig, gpus)
        if "nvidia" not in reported and not as_declared(rig, gpus):
            found = ", ".join(f"{card.name} {card.uuid}".rstrip() for card in gpus.gpus) or f"none ({gpus.problem})"
            found = "; ".join([found, *filter(is_lost, gpus.complaints)])
            yield self.finding(found, _listed(declared_cards(rig, "nvidia")))
        if "amd" not in reported and (wanted := declared_cards(rig, "amd")):
            yield from self._of_amd(wanted, gpus.amd)
        for card in declared_cards(rig, "other"):
            yield self.not_known("only cards of NVIDIA and AMD are queried", card.name, about=card.name)

    def _of_amd(self, wanted: list[GpuCard], amd: Sequence[Gpu]) -> Iterator[Finding]:
        left = list(amd)
        for want in wanted:
            if (card := next((card for card in left if is_amd_card(want, card)), None)) is not None:
                left.remove(card)
            elif nameless := [card for card in large(left) if card.name == UNNAMED]:
                left.remove(nameless[0])
                yield self.not_known(
                    f"the card at {nameless[0].bus_id} has no name: install the name lists of libdrm or pciutils",
                    want.name,
                    declared=True,
                    about=want.name,
                )
            else:
                yield self.finding(
                    ", ".join(map(shown, amd)) or "none",
                    _listed(wanted),
                    remedy="reseat the card, and read `dmesg | grep amdgpu`",
                )
                return


def without_driver(rig: Rig, gpus: GpuState) -> list[Vendor]:
    """Makers whose driver shows no card although a backend needs one; "other" if the maker is unknown."""
    backends, found = backends_in_use(rig), list[Vendor]()
    if "cuda" in backends and not gpus.gpus:
        found.append("nvidia")
    if "hip" in backends and not has_amd(gpus):
        found.append("amd")
    if backends == {"vulkan"} and not gpus.gpus and not has_amd(gpus):
        # Vulkan also runs on cards of other makers, which cannot be queried.
        on_bus: dict[str, Vendor] = {AMD_ON_BUS: "amd", NVIDIA_ON_BUS: "nvidia"}
        found.append(next((vendor for number, vendor in on_bus.items() if number in gpus.on_bus), "other"))
    return found


def has_amd(gpus: GpuState) -> bool:
    """Whether amdgpu drives a card for models: a dedicated one, or integrated graphics if no other AMD card is on the
    bus."""
    return bool(large(gpus.amd)) or 0 < len(gpus.amd) >= gpus.on_bus.count(AMD_ON_BUS)


def as_declared(rig: Rig, gpus: GpuState) -> bool:
    """Whether NVIDIA's cards are the declared ones, in their order where it matters; true if none are declared."""
    wanted, left = declared_cards(rig, "nvidia"), list(gpus.gpus)
    if not wanted:
        return True
    if len(wanted) == len(left) and not bus_order_matters(rig):
        # Match cards with a UUID first, and RTX 4070 Ti before RTX 4070.
        for want in sorted(wanted, key=lambda card: (card.uuid is None, -len(card.name))):
            left = _without(left, next((card for card in left if is_card(want, card)), None))
        return not left
    return len(wanted) == len(left) and all(is_card(*pair) for pair in zip(wanted, left, strict=True))


def _without(cards: list[Gpu], found: Gpu | None) -> list[Gpu]:
    return [card for card in cards if card is not found]


def _listed(wanted: Sequence[GpuCard]) -> str:
    return ", ".join(f"{card.name} {card.uuid or ''}".rstrip() for card in wanted)


class Toolkit(Check):
    """A driver too old for the toolkit refuses its code; code for another architecture fails or gives wrong results."""

    id = "gpu.toolkit"
    expects = "a driver new enough for each CUDA build's toolkit, and code in it for the cards that models see; derived"
    remedy = "install a newer driver, or change the build's cuda_toolkit or architectures to suit this box"
    severity = Severity.ERROR

    def look(self, rig: Rig, box: Box) -> Iterator[Finding]:
        """Compare with NVIDIA's table of minimum driver versions. gpu.driver reports a missing driver."""
        if not box.gpus.problem:
            yield from map(self.of_difference, gpu_differences(rig.builds, of_cuda(rig, box.gpus), box.toolkits))


class PowerLimit(Check):
    """A power limit is lost at each reboot unless something sets it again."""

    id = "gpu.power"
    expects = (
        "each card's power limit as host.gpus[].power_limit_w (declared), with persistence mode on, without which an "
        "idle card forgets it; else the card's default"
    )
    remedy = "run deploy.py"
    by_deploy = True

    def look(self, rig: Rig, box: Box) -> Iterator[Finding]:
        if not as_declared(rig, box.gpus):
            return
        wanted = declared_cards(rig, "nvidia")
        declared = {place for place, card in enumerate(wanted) if card.power_limit_w}
        limited = [card for place, card in enumerate(box.gpus.gpus) if place in declared]
        try:
            yield from map(self.of_difference, power_differences(power_limits(rig.host.gpus, box.gpus)))
        except PowerLimitError as error:
            yield self.finding(str(error), "a limit within the card's range", remedy="declare another power_limit_w")
        for card in cards_in_use(rig, box.gpus):
            differs = abs(card.power_limit_w - card.power_default_w) >= 1
            if card not in limited and card.power_limit_w and card.power_default_w and differs:
                yield Finding(
                    check=self.id,
                    severity=Severity.NOTE,
                    expected=f"{card.power_default_w:g} W (its default)",
                    found=f"{card.power_limit_w:g} W",
                    remedy="declare it as power_limit_w if it is intended",
                    about=shown(card),
                    fails=False,
                )


class PcieLink(Check):
    """A card in the wrong slot, or badly seated, reads experts and prompts at a fraction of the speed."""

    id = "gpu.pcie"
    expects = "each busy card's link as wide and fast as card and slot allow; derived from the driver"
    remedy = (
        "put the card into the slot wired to the processor, reseat it, check the riser and the PCIe setting of the "
        "BIOS; or accept it (host.accepted)"
    )

    def look(self, rig: Rig, box: Box) -> Iterator[Finding]:
        """Compare generation and width with their maxima while the card works.

        `nvidia-smi --help-query-gpu` says that both may be reduced when the GPU is not in use, and amdgpu lists x1
        among the states of pp_dpm_pcie. So an idle card's lower generation is normal; its narrower link is rare, and a
        note.
        """
        for card in cards_in_use(rig, box.gpus):
            if card.pcie_width and card.pcie_width_max and card.pcie_width < card.pcie_width_max:
                yield self.finding(
                    f"x{card.pcie_width}" + ("" if card.busy else ", idle"),
                    f"x{card.pcie_width_max}",
                    about=shown(card),
                    severity=Severity.WARNING if card.busy else Severity.NOTE,
                    remedy=self.remedy if card.busy else f"check again while a model answers; then: {self.remedy}",
                )
            elif (
                card.busy
                and card.pcie_generation
                and card.pcie_generation_max
                and card.pcie_generation < card.pcie_generation_max
            ):
                yield self.finding(
                    f"generation {card.pcie_generation} under load",
                    f"generation {card.pcie_generation_max}",
                    about=shown(card),
                )


class Throttled(Check):
    """Heat or the power supply slows the card down."""

    id = "gpu.throttle"
    expects = "no thermal or power-brake slowdown now; derived from the driver"
    remedy = "clean the fans, look at the case's airflow and the power cables; or lower power_limit_w"

    def look(self, rig: Rig, box: Box) -> Iterator[Finding]:
        for card in cards_in_use(rig, box.gpus):
            reasons = [name for bit, name in _THROTTLES.items() if card.throttle & bit]
            if reasons:
                yield self.finding(", ".join(reasons), "no slowdown", about=shown(card))


class EccErrors(Check):
    """After uncorrected memory errors, answers may be wrong."""

    id = "gpu.ecc"
    expects = "no uncorrected memory error since the driver was loaded, where the card counts them"
    remedy = "restart the box; if they come back the card's memory is failing"
    severity = Severity.ERROR

    def look(self, rig: Rig, box: Box) -> Iterator[Finding]:
        """Cards without ECC report no number, which is no finding."""
        for card in cards_in_use(rig, box.gpus):
            if card.ecc_errors:
                yield self.finding(f"{card.ecc_errors} uncorrected errors", "none", about=shown(card))


class SplitUpgrades(Check):
    """An unattended upgrade of the driver's library breaks the next start of a model until a reboot."""

    id = "gpu.upgrades"
    expects = "NVIDIA driver packages held back if the distribution upgrades automatically; derived"
    remedy = (
        "declare host.nvidia_driver, which holds them; or hold the nvidia packages yourself (apt-mark hold; Fedora: "
        "dnf versionlock add). Upgrade them by hand, then reboot"
    )

    def look(self, rig: Rig, box: Box) -> Iterator[Finding]:
        """Check only if the NVIDIA module is loaded, and comes from packages: AMD's comes with the kernel."""
        machine = box.machine
        if not box.gpus.module:
            return
        if machine.unattended_upgrades is None:
            yield self.not_known("neither apt nor dnf nor pacman tells whether it upgrades automatically")
        elif machine.unattended_upgrades and machine.driver_packaged and not machine.driver_held:
            yield self.finding("unattended upgrades may replace the driver", "the driver's packages held back")
