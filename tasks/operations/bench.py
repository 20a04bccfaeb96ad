"""How fast the running models are: timed over their own API, kept in the ledger, held against the last time."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path

from pyinfra import logger
from pyinfra.api.command import FunctionCommand
from pyinfra.api.host import Host
from pyinfra.api.operation import operation
from pyinfra.api.state import State
from pyinfra.context import host

from tasks.facts.files import Sha256Sums
from tasks.facts.gpus import Gpus
from tasks.facts.measured import RequestTimed
from tasks.facts.model_headers import ModelHeaders
from tasks.facts.ram import MemoryModules
from tasks.operations import Commands
from tasks.operations.bench_ledger import LedgerError, add_to_ledger, read_ledger
from tasks.operations.refuse import refuse, report
from tasks.operations.serving import read_units
from tasks.planning import layout
from tasks.planning.bench import (
    Comparison,
    Timing,
    changed_conditions,
    changed_flags,
    compared,
    compared_with_another,
    conditions_line,
    release_of,
    speed,
    speed_flags,
    table,
)
from tasks.planning.plans.ram_reads import ram_bytes_per_token
from tasks.planning.serving import Unit
from tasks.planning.shard_sets import all_shards
from tasks.spec.bench_ledger import BenchEntry, Card, Conditions
from tasks.spec.rig import Rig

_PROGRAMS = ("bench_request.py", "probe_servers.py", "server_client.py")


@dataclass(frozen=True)
class Options:
    """What the user asked for. ``depth``: tokens of prompt, 0 as usual; ``generate``: tokens; ``only``: a model."""

    only: str = ""
    runs: int = 5
    depth: int = 0
    generate: int = 128


@operation()
def benched(rig: Rig, options: Options) -> Commands:
    """Every running model, or ``only`` one, timed as it serves. The box stays as it is, the same processes run on."""
    names = [model.name for model in rig.models]
    if options.only and options.only not in names:
        yield from refuse(f"no model is called {options.only!r}; this box has {', '.join(names)}")
        return
    if problem := _not_as_asked():
        yield from refuse(problem)
        return
    units = read_units(rig)
    running = {
        name: unit
        for name in names
        if (unit := units.get(layout.unit_name(name))) is not None and unit.is_active and unit.arguments
    }
    wanted = [name for name in running if options.only in ("", name)]
    if not wanted:
        which = options.only or "no model of this box"
        how = f"systemctl start {layout.unit_name(options.only or names[0])} on the box, then time again"
        yield from refuse(
            f"{which} {'does not run' if options.only else 'runs'}, and nothing is started for this: {how}"
        )
        return
    yield FunctionCommand(_bench, [rig, options, {name: running[name] for name in wanted}, sorted(running)], {})


def _not_as_asked() -> str:
    """Why the box's own programs cannot be used, empty where they can."""
    here = {f"{layout.PROGRAMS}/tasks/files/{name}": Path(__file__).parents[1] / "files" / name for name in _PROGRAMS}
    there = host.get_fact(Sha256Sums, paths=list(here))
    if any(there.get(path) != sha256(source.read_bytes()).hexdigest() for path, source in here.items()):
        return "llamarig's programs on this box are not this repository's: run deploy.py, then time again"
    return ""


def _bench(state: State, host: Host, rig: Rig, options: Options, units: dict[str, Unit], running: list[str]) -> bool:
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
            add_to_ledger(rig.bench_ledger, entry)
            rows.append((entry, compared(entry, ledger)))
    except LedgerError as error:
        report(host, str(error))
        return False
    for line in table(rows) if rows else []:
        host.log(line)
    for entry, comparison in rows:
        _tell(host, entry, comparison, ledger)
    if rows:
        host.log(f"stored in {rig.bench_ledger}: commit it")
    return not failed and not any(comparison is not None and comparison.is_slower for _, comparison in rows)


def _tell(host: Host, entry: BenchEntry, comparison: Comparison | None, ledger: list[BenchEntry]) -> None:
    host.log(conditions_line(entry))
    if (other := compared_with_another(entry, ledger)) is not None:
        changes = "; ".join(changed_flags(entry, other.earlier))
        host.log(f"{entry.model}: against {other.earlier.conditions.date[:10]} ({changes}): {other}")
    if comparison is not None and comparison.is_slower:
        then = comparison.earlier
        why = "; ".join(changed_conditions(entry.conditions, then.conditions)) or "no condition that is known of"
        report(
            host,
            f"{entry.model} is slower than on {then.conditions.date[:10]} with the same build and flags: {comparison}",
            [
                f"then {then.prompt.median:g} and {then.generation.median:g} tokens/s, "
                f"now {entry.prompt.median:g} and {entry.generation.median:g}",
                f"changed since: {why}",
                "look at temperature, power limit, RAM speed and other programs: tasks/audit.py",
            ],
        )


def _timings(host: Host, name: str, options: Options) -> list[Timing] | str:
    """The runs after the one that warms up, or why there are none."""
    found: list[Timing] = []
    for run in range(options.runs + 1):
        timing: Timing = host.get_fact(
            RequestTimed,
            unit=layout.unit_name(name),
            prompt_tokens=options.depth,
            generated_tokens=options.generate,
        )
        if timing.problem:
            return timing.problem
        if timing.alone is False:
            return "was asked by somebody else while it was timed: time it when it is idle"
        host.log(
            f"{name}: {f'run {run} of {options.runs}' if run else 'warming up'}: "
            f"prompt {timing.prompt_per_second:.0f} t/s, generation {timing.generation_per_second:.1f} t/s"
        )
        found.append(timing)
    if found[0].alone is None:
        host.log(
            f"{name} hides its slots (slots=False): whether others were served meanwhile is not known", logger.warning
        )
    return found[1:]


def _entry(host: Host, name: str, unit: Unit, timings: list[Timing], beside: Iterable[str]) -> BenchEntry:
    gpus, ram = host.get_fact(Gpus), host.get_fact(MemoryModules)
    rates = [module.effective for module in ram.modules if module.effective]
    return BenchEntry(
        box=host.name,
        model=name,
        release=release_of(unit.arguments),
        flags=speed_flags(unit.arguments),
        runs=len(timings),
        prompt=speed(timing.prompt_per_second for timing in timings),
        generation=speed(timing.generation_per_second for timing in timings),
        ram_bytes_per_token=_ram_bytes_per_token(host, unit),
        conditions=Conditions(
            # The date is put on at this edge; nothing that plans has a clock.
            date=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            driver=gpus.module,
            cards=tuple(Card(name=card.name, uuid=card.uuid, power_limit_w=card.power_limit_w) for card in gpus.cards),
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
    headers = host.get_fact(ModelHeaders, paths=shards)
    if any(shard not in headers for shard in shards):
        return None
    tensors = [tensor for shard in shards for tensor in headers[shard].tensors]
    return ram_bytes_per_token(words, tensors, headers[shards[0]].metadata)
