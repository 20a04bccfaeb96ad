"""The unit that sets up NVIDIA cards before any model starts: CUDA's devices and the declared power limits."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from pyinfra.api.command import FunctionCommand, StringCommand
from pyinfra.api.host import Host
from pyinfra.api.state import State

from llamarig.declare.host_policy import GpuCard
from llamarig.declare.rig import Rig
from llamarig.engine.control_machine import ControlMachine
from llamarig.engine.item import Commands, Difference, Item, Query, Seen, query
from llamarig.engine.refuse import report
from llamarig.engine.run import NoAnswerError, read_fact
from llamarig.engine.upload import upload
from llamarig.facts.gpus import Gpu, Gpus, GpuState
from llamarig.facts.unit_files import UnitFile, UnitFiles
from llamarig.items.cards_in_use import vendor_of
from llamarig.items.cuda_support import cuda_builds
from llamarig.remote.shared.unit_directives import directives
from llamarig.render import layout


class GpuSetup(Item):
    """Before any model starts, CUDA's devices exist and every card has its declared power limit, also after a reboot.

    A card without a declared limit has its default.
    """

    name = "GPU setup"
    covered_by = ("gpu.power", "gpu.cards", "gpu.driver")

    def queries(self, rig: Rig, here: ControlMachine) -> Iterable[Query[Any]]:
        """The unit, also where nothing needs it: an earlier declaration may have left it."""
        yield query(UnitFiles, names=[layout.GPUS_UNIT])
        if _limits_declared(rig):
            yield query(Gpus)

    def differences(self, rig: Rig, seen: Seen) -> list[Difference]:
        """At most one for the unit that sets up the cards, and one for each card's limit."""
        unit = _unit(seen)
        if not (_limits_declared(rig) or bool(cuda_builds(rig))):
            return [Difference(layout.GPUS_UNIT, "no such unit", "installed, and not needed")] if unit.text else []
        try:
            limits = power_limits(rig.host.gpus, seen.get(Gpus)) if _limits_declared(rig) else []
        except PowerLimitError as error:
            return [Difference.refusal_of("power limits", "those of host.gpus", str(error))]
        found = power_differences(limits)
        if unit.text != gpus_unit_text(limits, bool(cuda_builds(rig))):
            found_text = "differs" if unit.text else "missing"
            texts = (unit.text, gpus_unit_text(limits, bool(cuda_builds(rig))))
            found.append(Difference(layout.GPUS_UNIT, "the unit that this version writes", found_text, texts=texts))
        elif wrong := [
            *(() if unit.active else ("inactive",)),
            *(() if unit.enabled else ("disabled",)),
            *(("changed on the disk since systemd read it",) if unit.needs_reload else ()),
        ]:
            found.append(Difference(layout.GPUS_UNIT, "active, enabled and up to date", ", ".join(wrong)))
        return found

    def fix(self, rig: Rig, seen: Seen, differences: list[Difference]) -> Commands:
        """Write the unit, and restart it unless only its comments differ."""
        unit = _unit(seen)
        if not (_limits_declared(rig) or bool(cuda_builds(rig))):
            yield StringCommand("systemctl", "--quiet", "disable", "--now", layout.GPUS_UNIT)
            yield StringCommand("rm", f"{layout.UNITS}/{layout.GPUS_UNIT}")
            yield StringCommand("systemctl", "daemon-reload")
            return
        limits = power_limits(rig.host.gpus, seen.get(Gpus)) if _limits_declared(rig) else []
        text = gpus_unit_text(limits, bool(cuda_builds(rig)))
        only_comments = directives(unit.text) == directives(text)
        if unit.active and not only_comments:
            # While systemd has the old text, whose ExecStop restores the default of a card that is no longer named.
            yield StringCommand("systemctl", "stop", layout.GPUS_UNIT)
        if unit.text != text:
            yield upload(text, f"{layout.UNITS}/{layout.GPUS_UNIT}")
        yield StringCommand("systemctl", "daemon-reload")
        yield StringCommand("systemctl", "--quiet", "enable", layout.GPUS_UNIT)
        if unit.active and only_comments and not power_differences(limits):
            return
        yield StringCommand("systemctl", "restart", layout.GPUS_UNIT)
        if _limits_declared(rig):
            yield FunctionCommand(_read_back, [rig], {})


def _limits_declared(rig: Rig) -> bool:
    return any(card.power_limit_w for card in rig.host.gpus)


def _unit(seen: Seen) -> UnitFile:
    return seen.get(UnitFiles, names=[layout.GPUS_UNIT]).get(layout.GPUS_UNIT, UnitFile())


def _read_back(state: State, host: Host, rig: Rig) -> bool:
    """Check that the cards have their limits: nvidia-smi may accept a limit that a card ignores."""
    try:
        still = power_differences(power_limits(rig.host.gpus, read_fact(Gpus, fresh=True)))
    except PowerLimitError as error:
        report(host, str(error))
        return False
    except NoAnswerError:  # it has been reported
        return False
    if still:
        see = f"see `journalctl -u {layout.GPUS_UNIT}`"
        lines = [difference.finding for difference in still]
        report(host, f"nvidia-smi has set the power limits, but the cards do not have them: {see}", lines)
    return not still


class PowerLimitError(ValueError):
    """A declared limit cannot be set on this box; the message names the reason and the remedy."""


@dataclass(frozen=True)
class CardPowerLimit:
    """One card's declared limit."""

    card: Gpu
    watts: float


def power_limits(declared: Sequence[GpuCard], state: GpuState) -> list[CardPowerLimit]:
    """The declared limits with their cards; the order of ``declared`` is that of nvidia-smi.

    :raises PowerLimitError: if a card is missing, is another one, or does not support its limit
    """
    for index, card in enumerate(declared):
        if card.power_limit_w and vendor_of(card) != "nvidia":
            raise PowerLimitError(
                f"host.gpus[{index}] is {card.name}, and nvidia-smi sets limits of NVIDIA cards only: leave its "
                "power_limit_w out"
            )
    of_nvidia = [(index, card) for index, card in enumerate(declared) if vendor_of(card) == "nvidia"]
    wanted = [
        (index, place, card, card.power_limit_w) for place, (index, card) in enumerate(of_nvidia) if card.power_limit_w
    ]
    if wanted and not state.gpus:
        raise PowerLimitError(
            f"host.gpus declares a power limit, which nvidia-smi sets, and {state.problem}: install the NVIDIA driver "
            "with your distribution's packages, or leave power_limit_w out"
        )
    limits = []
    for index, place, card, watts in wanted:
        found = state.gpus[place] if place < len(state.gpus) else None
        if found is None or not is_card(card, found):
            actual = f"it is {found.name} {found.uuid}" if found else f"there are {len(state.gpus)}"
            raise PowerLimitError(
                f"host.gpus[{index}] is {card.name} {card.uuid or ''}".rstrip() + f", and on the box {actual}: no "
                "limit is set on a card that was not meant; declare host.gpus as `nvidia-smi -L` lists them"
            )
        if not found.power_limit_w:
            raise PowerLimitError(
                f"{found.name} reports no power limit, so none can be set: leave host.gpus[{index}].power_limit_w out"
            )
        if found.power_most_w and not found.power_least_w <= watts <= found.power_most_w:
            raise PowerLimitError(
                f"host.gpus[{index}].power_limit_w = {watts:g}: {found.name} takes {found.power_least_w:g} to "
                f"{found.power_most_w:g} W"
            )
        limits.append(CardPowerLimit(found, watts))
    return limits


def is_card(declared: GpuCard, found: Gpu) -> bool:
    """Whether a card of the box is the declared one, by its name, and by its UUID if that is declared."""
    return declared.name.lower() in found.name.lower() and declared.uuid in (None, found.uuid)


def power_differences(limits: Sequence[CardPowerLimit]) -> list[Difference]:
    """At most one for each card that has another limit than declared, or loses it when it is idle."""
    found = []
    for limit in limits:
        card, wanted, had = limit.card, list[str](), list[str]()
        if abs(card.power_limit_w - limit.watts) >= 1:
            wanted.append(f"{limit.watts:g} W (host.gpus)")
            had.append(f"{card.power_limit_w:g} W")
        if card.persistence is False:
            # Without persistence mode the driver closes an idle card, which resets its power limit.
            wanted.append("persistence mode on, so that it keeps its limit")
            had.append("persistence mode off")
        if wanted:
            found.append(Difference(f"{card.name} ({card.bus_id})", ", ".join(wanted), ", ".join(had)))
    return found


_DEVICES = """\
# On first use CUDA loads its kernel module and creates its devices with a setuid program. A model's unit may not run
# that (NoNewPrivileges), and its DeviceAllow is evaluated before it starts. So this unit does it first.
ExecStart=-nvidia-modprobe -u -c 0
ExecStart=-nvidia-smi --list-gpus"""


def gpus_unit_text(limits: Sequence[CardPowerLimit], cuda: bool) -> str:
    """The oneshot unit that creates devices and sets limits before any model starts. Stopping it restores the defaults.

    :param cuda: whether a model of the box is served by a CUDA build
    """
    starts, stops = [_DEVICES] if cuda else [], []
    for limit in limits:
        card = limit.card
        starts += [
            f"# {card.name}",
            f"ExecStart=nvidia-smi --id={card.uuid} --persistence-mode=1",
            f"ExecStart=nvidia-smi --id={card.uuid} --power-limit={limit.watts:g}",
        ]
        if card.power_default_w:
            stops.append(f"ExecStop=-nvidia-smi --id={card.uuid} --power-limit={card.power_default_w:g}")
    lines = [
        "# Written by llamarig; a deploy reverts edits.",
        "[Unit]",
        "Description=NVIDIA devices and their declared power limits, before any model",
        "# nvidia-persistenced resets persistence mode when it starts.",
        "After=nvidia-persistenced.service",
        "",
        "[Service]",
        "Type=oneshot",
        "RemainAfterExit=yes",
        *starts,
        *stops,
        "TimeoutSec=120",
        "",
        "[Install]",
        "WantedBy=multi-user.target",
    ]
    return "\n".join(lines) + "\n"
