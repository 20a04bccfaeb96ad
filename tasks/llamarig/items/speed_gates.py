"""What the switch of a running model to another release is compared by: `d.upgrade_gate(...)`, and the bench ledger."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from pyinfra import logger
from pyinfra.context import host

from llamarig.declare.flags import memory_flags, rows
from llamarig.declare.rig import Rig
from llamarig.declare.serve import Serve
from llamarig.engine.run import ask
from llamarig.engine.screen import say
from llamarig.facts.capacity import Capacity
from llamarig.facts.gpus import Gpus
from llamarig.facts.units import Unit
from llamarig.items.wanted_unit import Wanted
from llamarig.records.bench_ledger import BenchEntry, Conditions, TimedGpu, read_ledger
from llamarig.records.store import RecordError
from llamarig.records.timing_changes import by_flag, changed_conditions, release_of, speed_flags
from llamarig.remote.shared.jobs import SpeedGate
from llamarig.render import layout

PROMPT_TOKENS, GENERATED_TOKENS = 2048, 128
"""Of the request where the ledger has no timing of the release that serves: those of tasks/bench.py."""
_MEMORY = frozenset(memory_flags(rows(Serve)))
# What a plan or a build decides: how layers are placed and weights loaded.
_PLACED = frozenset(
    {
        *("--override-tensor", "--tensor-split", "--n-gpu-layers", "--n-cpu-moe", "--cpu-moe"),
        *("--fit", "--fit-target", "--fit-ctx", "--load-mode", "--no-mmap", "--mlock"),
    }
)


@dataclass(frozen=True)
class GateOutcome:
    """The gate of a switch, or why there is none although it is declared; both empty where nothing is compared."""

    gate: SpeedGate | None = None
    missing: str = ""


def speed_gate(
    rig: Rig, item: Wanted, unit: Unit | None, ledger: Sequence[BenchEntry], box: str, now: Conditions
) -> GateOutcome:
    """What a switch is compared by.

    :param unit: as it is now
    :param ledger: all timings, the oldest first
    :param now: conditions on the box, without clocks and RAM speed
    """
    declared = rig.gate_of(item.model)
    if declared is None or unit is None or not (unit.is_active and unit.arguments and item.running):
        return GateOutcome()
    old, new = release_of(unit.arguments), release_of(item.arguments)
    if not old or old == new:
        return GateOutcome()
    serve = item.model.serve
    if serve.task != "completion":
        return GateOutcome(missing="it generates nothing that could be timed")
    if others := _other_changes(unit.arguments, item.arguments):
        return GateOutcome(missing=f"{', '.join(others)} changed with the release")
    gate = SpeedGate(
        limit=declared.slower_than_percent / 100,
        release=old,
        prompt_tokens=max(1, min(PROMPT_TOKENS, (serve.context // serve.parallel - GENERATED_TOKENS) // 2)),
        generated_tokens=GENERATED_TOKENS,
    )
    flags = speed_flags(unit.arguments)
    entries = [one for one in ledger if one.key == (box, item.model.name, old, flags) and one.generation is not None]
    alike = [one for one in entries if not changed_conditions(_as_known(now, one.conditions), one.conditions)]
    if not alike or alike[-1].generation is None:
        return GateOutcome(gate)
    last = alike[-1]
    return GateOutcome(
        replace(
            gate,
            prompt_tokens=last.conditions.prompt_tokens,
            generated_tokens=last.conditions.generated_tokens,
            prompt_per_second=last.prompt.median,
            generation_per_second=alike[-1].generation.median,
        )
    )


def _as_known(now: Conditions, then: Conditions) -> Conditions:
    """What is known before anything is timed; the rest as it was then."""
    return now.model_copy(update={"ram_mts": then.ram_mts, "throttled": then.throttled})


def _other_changes(before: Sequence[str], after: Sequence[str]) -> list[str]:
    """Flags that change with the release, other than what a plan or a build decides.

    A flag that only one of two releases has is compared where it decides memory.
    """
    old, new = by_flag(speed_flags(before)), by_flag(speed_flags(after))
    flags = sorted(flag for flag in {*old, *new} if flag not in _PLACED)
    return [
        flag for flag in flags if old.get(flag) != new.get(flag) and ((flag in old and flag in new) or flag in _MEMORY)
    ]


def gate_of_switch(rig: Rig, item: Wanted, units: Mapping[str, Unit]) -> SpeedGate | None:
    """The gate of a switch on the current host; says why there is none although it is declared."""
    unit = units.get(item.unit)
    if rig.gate_of(item.model) is None or unit is None or not unit.is_active:
        return None
    ledger: list[BenchEntry] = []
    try:
        ledger = read_ledger(rig.bench_ledger)
    except RecordError as error:
        say(host, f"{error}; so {item.model.name} is timed before it is switched", log_func=logger.warning)
    found = speed_gate(rig, item, unit, ledger, host.name, _conditions(_running_beside(item, rig, units)))
    if found.missing:
        say(host, f"{item.model.name}: its speed is not compared with the release before: {found.missing}", fg="yellow")
    return found.gate


def _running_beside(item: Wanted, rig: Rig, units: Mapping[str, Unit]) -> list[str]:
    return sorted(
        model.name
        for model in rig.models
        if model.name != item.model.name and units.get(layout.unit_name(model.name), Unit()).is_active
    )


def _conditions(beside: Iterable[str]) -> Conditions:
    gpus = ask(Gpus)
    cards = (TimedGpu(name=card.name, uuid=card.uuid, power_limit_w=card.power_limit_w) for card in gpus.cards)
    return Conditions(
        date="2000-01-01T00:00:00Z",  # not compared
        driver=gpus.module or (gpus.amd_driver if gpus.amd else ""),
        cards=tuple(cards),
        prompt_tokens=1,
        generated_tokens=0,
        beside=tuple(beside),
        kernel=ask(Capacity).kernel,
    )
