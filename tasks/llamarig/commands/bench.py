"""Measure the speed of running models over their own API, store it in the ledger, and compare it with earlier runs."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime

from pyinfra import logger
from pyinfra.api.command import FunctionCommand
from pyinfra.api.host import Host
from pyinfra.api.operation import operation
from pyinfra.api.state import State

from llamarig.checks.bench_comparison import (
    Comparison,
    changed_conditions,
    changed_flags,
    compare_with_other_build,
    compare_with_previous,
    conditions_line,
    rates,
    release_of,
    speed,
    speed_flags,
    table,
    untried_settings,
)
from llamarig.checks.ram_speed import effective_speed
from llamarig.declare.rig import Rig
from llamarig.engine.item import Commands
from llamarig.engine.package_files import programs
from llamarig.engine.refuse import false_if_unanswered, refuse, report, while_answered
from llamarig.engine.run import ask, conclude, read_fact
from llamarig.engine.screen import say
from llamarig.facts.files import Sha256Sums
from llamarig.facts.gpus import Gpus
from llamarig.facts.measurements import RequestTimed
from llamarig.facts.model_headers import ModelHeaders
from llamarig.facts.ram import MemoryModules
from llamarig.facts.units import Unit, Units
from llamarig.items.wanted_unit import health_addresses
from llamarig.placement.speed_prediction import ram_bytes_per_token
from llamarig.records.bench_ledger import BenchEntry, Conditions, TimedGpu, append_timing, read_ledger
from llamarig.records.shard_sets import all_shards
from llamarig.records.store import RecordError
from llamarig.remote.shared.gguf_header import combined_header
from llamarig.remote.shared.jobs import Timing
from llamarig.render import layout


@dataclass(frozen=True)
class BenchOptions:
    """BenchOptions given with ``--data``.

    ``only``: a model. ``depth``: tokens of the prompt, 0 for the default. ``generate``: tokens to generate.
    """

    only: str = ""
    runs: int = 5
    depth: int = 0
    generate: int = 128


@operation()
@while_answered
def timed(rig: Rig, options: BenchOptions) -> Commands:
    """Time every running model, or ``only`` one, as it serves. Nothing on the box is started, stopped or changed."""
    names = [model.name for model in rig.models]
    if not names:
        yield from refuse("this box declares no model, so there is none to time")
        return
    if options.only and options.only not in names:
        yield from refuse(f"no model is called {options.only!r}; this box has {', '.join(names)}")
        return
    if problem := _programs_problem():
        yield from refuse(problem)
        return
    units = read_fact(Units, health=health_addresses(rig))
    running = {
        name: unit
        for name in names
        if (unit := units.get(layout.unit_name(name))) is not None and unit.is_active and unit.arguments
    }
    wanted = [name for name in running if options.only in ("", name)]
    if not wanted:
        which = options.only or "no model of this box"
        how = f"systemctl start {layout.unit_name(options.only or names[0])} on the box, then time again"
        yield from refuse(f"{which} {'does not run' if options.only else 'runs'}, and bench starts no server: {how}")
        return
    yield FunctionCommand(_bench, [rig, options, {name: running[name] for name in wanted}, sorted(running)], {})


def _programs_problem() -> str:
    """Why the programs on the box cannot be used; empty if they can."""
    found = ask(Sha256Sums, paths=list(programs()))
    if any(found.get(path) != file.sha256 for path, file in programs().items()):
        return "llamarig's programs on this box are of another version: run deploy.py, then time again"
    return ""


@false_if_unanswered
def _bench(
    state: State, host: Host, rig: Rig, options: BenchOptions, units: dict[str, Unit], running: list[str]
) -> bool:
    rows: list[tuple[BenchEntry, Comparison | None]] = []
    failed = False
    try:
        ledger = read_ledger(rig.bench_ledger)
        for name, unit in units.items():
            timings = _timings(host, name, options)
            if isinstance(timings, str):
                report(host, f"{name} {timings}; nothing was stored for it")
                failed = True
                continue
            entry = _entry(host, name, unit, timings, [other for other in running if other != name])
            append_timing(rig.bench_ledger, entry)
            rows.append((entry, compare_with_previous(entry, ledger)))
    except RecordError as error:
        report(host, str(error))
        return False
    for line in table(rows) if rows else []:
        say(host, line)
    for entry, comparison in rows:
        _log_comparison(host, entry, comparison, ledger)
    for hint in untried_settings(rig, [entry.model for entry, _ in rows], ask(Gpus)):
        say(host, hint)
    if rows:
        conclude(
            host, f"timed {len(rows)} of {len(units)}, stored in {rig.bench_ledger}: commit it", *map(_in_short, rows)
        )
    return not failed and not any(comparison is not None and comparison.is_slower for _, comparison in rows)


def _in_short(row: tuple[BenchEntry, Comparison | None]) -> str:
    entry, comparison = row
    then = f", {comparison.earlier.conditions.date[:10]}: {rates(comparison.earlier)}" if comparison else ""
    return f"{entry.model}: {rates(entry)}{then}"


def _log_comparison(host: Host, entry: BenchEntry, comparison: Comparison | None, ledger: list[BenchEntry]) -> None:
    say(host, conditions_line(entry))
    if (other := compare_with_other_build(entry, ledger)) is not None:
        then = other.earlier
        changes = "; ".join([*changed_flags(entry, then), *changed_conditions(entry.conditions, then.conditions)])
        say(host, f"{entry.model}: against {other.earlier.conditions.date[:10]} ({changes}): {other}")
    if comparison is None:
        return
    then = comparison.earlier
    why = "; ".join(changed_conditions(entry.conditions, then.conditions))
    if not comparison.is_slower:
        if why:
            say(host, f"{entry.model}: changed since {then.conditions.date[:10]}: {why}")
    else:
        report(
            host,
            f"{entry.model} is slower than on {then.conditions.date[:10]} with the same build and flags: {comparison}",
            [
                f"then {rates(then)}, now {rates(entry)}",
                f"changed since: {why or 'no recorded condition'}",
                "check temperature, power limit, RAM speed and other programs with tasks/audit.py",
            ],
        )


def _timings(host: Host, name: str, options: BenchOptions) -> list[Timing] | str:
    """The runs after the warm-up, or why there are none."""
    found: list[Timing] = []
    for run in range(options.runs + 1):
        timing: Timing = ask(
            RequestTimed,
            unit=layout.unit_name(name),
            prompt_tokens=options.depth,
            generated_tokens=options.generate,
        )
        if timing.problem:
            return timing.problem
        if timing.alone is False:
            return "served another request while it was timed: time it when it is idle"
        say(
            host,
            f"{name}: {f'run {run} of {options.runs}' if run else 'warming up'}: "
            f"prompt {timing.prompt_per_second:.0f} t/s"
            + (f", generation {timing.generation_per_second:.1f} t/s" if timing.generated_tokens else ""),
        )
        found.append(timing)
    if found[0].alone is None:
        say(
            host,
            f"{name} does not show its slots (slots=False): whether it served other requests meanwhile is not known",
            log_func=logger.warning,
        )
    return found[1:]


def _entry(host: Host, name: str, unit: Unit, timings: list[Timing], beside: Iterable[str]) -> BenchEntry:
    gpus, ram = ask(Gpus), ask(MemoryModules)
    rates = [mts for module in ram.modules if (mts := effective_speed(module))]
    return BenchEntry(
        box=host.name,
        model=name,
        release=release_of(unit.arguments),
        flags=speed_flags(unit.arguments),
        runs=len(timings),
        prompt=speed(timing.prompt_per_second for timing in timings),
        generation=speed(timing.generation_per_second for timing in timings) if timings[0].generated_tokens else None,
        ram_bytes_per_token=_ram_bytes_per_token(host, unit),
        conditions=Conditions(
            date=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            driver=gpus.module or (gpus.amd_driver if gpus.amd else ""),
            cards=tuple(
                TimedGpu(name=card.name, uuid=card.uuid, power_limit_w=card.power_limit_w) for card in gpus.cards
            ),
            ram_mts=min(rates, default=None),
            prompt_tokens=timings[0].prompt_tokens,
            generated_tokens=timings[0].generated_tokens,
            beside=tuple(beside),
        ),
    )


def _ram_bytes_per_token(host: Host, unit: Unit) -> float | None:
    words = list(unit.arguments)
    if "--model" not in words[:-1]:
        return None
    shards = all_shards(words[words.index("--model") + 1])
    headers = ask(ModelHeaders, paths=shards).of(shards)
    try:
        return None if headers is None else ram_bytes_per_token(words, combined_header(headers))
    except re.error:  # an accepted override rule that only llama.cpp understands
        return None
