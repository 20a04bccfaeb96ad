"""What is not as declared, told and never touched."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from pyinfra import logger
from pyinfra.api.command import FunctionCommand
from pyinfra.api.host import Host
from pyinfra.api.operation import operation
from pyinfra.api.state import State
from pyinfra.context import host, state

from tasks.facts.gpus import Gpus
from tasks.facts.machine import MachineState
from tasks.facts.measured import MemoryBandwidthMeasured, ReadSpeedMeasured
from tasks.facts.model_store import ModelStore
from tasks.facts.plannable import HeldByOurs
from tasks.facts.ram import MemoryModules
from tasks.facts.ram_users import RamHeld
from tasks.facts.strays import LlamaStrays
from tasks.facts.together import Asked
from tasks.facts.toolkits import ToolkitVersions
from tasks.operations import Commands, closed_by
from tasks.operations.asked import asked_by_deploy
from tasks.operations.audit_run import RUN
from tasks.operations.gpus import read_toolkits
from tasks.operations.key_files import key_files_found_wrong
from tasks.operations.load_modes import read_load_modes
from tasks.operations.lock_file import LockError, locked_models
from tasks.operations.long_work import files_to_fetch, read_releases, releases_to_build
from tasks.operations.once import only_looking, read_once, read_together
from tasks.operations.plan_file import PlanError, planned_by_us, read_plans
from tasks.operations.refuse import refusal_of, refuse
from tasks.operations.serving import NotReadyError, read_units, wanted_units
from tasks.planning import layout
from tasks.planning.checks.base import Check, Finding, Severity
from tasks.planning.checks.box import Box
from tasks.planning.checks.disk import DiskSpeed
from tasks.planning.checks.gpu_memory import PlanRoom
from tasks.planning.checks.llama_cpp import UnitsAsDeclared
from tasks.planning.checks.memory import MemoryBandwidth, PinnedWeights
from tasks.planning.checks.memory_room import MemoryRoom
from tasks.planning.checks.registry import CHECKS, NoSuchCheckError, findings, is_meant, known_by_name, selected
from tasks.planning.checks.report import COLOURS, host_record, lines, listing
from tasks.planning.difference import Difference
from tasks.planning.gpus import declared_toolkits
from tasks.planning.pinned_weights import expected_pinned_mib, wants_measuring, with_load_mode
from tasks.planning.serving import boot_differences, retired_units, unit_differences
from tasks.spec.model_lock import LockedModel
from tasks.spec.plan_file import Plan
from tasks.spec.rig import Rig

# Whichever of them is asked for first tells of a plan file that cannot be read; the others keep silent.
_TELL_OF_PLANS = (UnitsAsDeclared.id, PlanRoom.id, MemoryRoom.id)


@dataclass(frozen=True)
class Options:
    """What the user asked for with ``--data``. ``only`` and ``skip``: ids of checks, or their first words."""

    only: tuple[str, ...] = ()
    skip: tuple[str, ...] = ()
    json: str = ""
    prometheus: str = ""
    deep: bool = False
    disk: bool = False
    bandwidth: bool = False


@contextmanager
def looked_at_only() -> Iterator[None]:
    """Operations inside are asked whether they would change the box, and none of them is ever executed.

    So an audit cannot look for anything else than what a deploy would do: it asks the deploy itself.
    """
    state.check_for_changes = True  # `-y` would leave out the asking
    with host.when(lambda: False):
        yield


def asked_at_once(rig: Rig, options: Options, programs: Mapping[str, str]) -> None:
    """Ask the box everything in one command that checks and operations of an unchanged box ask of it one by one.

    :param programs: path here -> path there
    """
    only_looking()
    RUN.begin(state, options.json, options.prometheus)
    read_together(everything_asked(rig, options, programs))


def everything_asked(rig: Rig, options: Options, programs: Mapping[str, str]) -> list[Asked]:
    """All that a box is asked, in this order."""
    asked: list[Asked] = [(fact, {}) for fact in (MemoryModules, MachineState, Gpus, LlamaStrays, RamHeld)]
    if planned_by_us(rig):
        asked.append((HeldByOurs, {}))
    if paths := declared_toolkits(rig.builds):
        asked.append((ToolkitVersions, {"paths": paths}))
    if asks_the_deploy(options):
        asked += asked_by_deploy(rig, programs.values())
    return asked


def asks_the_deploy(options: Options) -> bool:
    """Whether a check that was asked for compares the box with what deploy.py would do."""
    try:
        return any(check.id.startswith(("llama.", "deploy.")) for check in selected(options.only, options.skip))
    except NoSuchCheckError:
        return False  # said in full when the box is looked at


@operation()
def checks_listed() -> Commands:
    """Every check, on the terminal, once whatever the number of hosts."""
    if state.is_executing and not RUN.listed:
        RUN.listed = True
        for line in listing():
            logger.info(line)
    host.noop("nothing was looked at")
    yield from ()


@operation()
def box_looked_at(rig: Rig, options: Options) -> Commands:
    """Every check's findings, kept for the report. Never a change."""
    try:
        checks = selected(options.only, options.skip)
        known_by_name(rig.host.accepted)
    except NoSuchCheckError as error:
        if state.is_executing:
            RUN.failed[host.name] = str(error)
            RUN.tell(state, options.json, options.prometheus)
        yield from refuse(str(error))
        return
    if not state.is_executing:
        return
    box = _box(rig, options, checks)
    if state.inventory.get_host(host.name) in state.failed_hosts:
        return  # a fact that cannot be loaded is told by pyinfra, which goes on with an empty one
    found = findings(checks, rig, box)
    skipped = {check.id: _why_skipped(check, options) for check in CHECKS if check not in checks}
    RUN.found[host.name] = found
    RUN.records[host.name] = host_record(host.name, checks, skipped, found).model_copy(
        update={"measured": box.measured}
    )
    for check, value in box.measured.items():
        host.log(f"measured for {check}: {value}")


def _why_skipped(check: Check, options: Options) -> str:
    named = [name for name in options.skip if is_meant(check, name)]
    return f"skip={named[0]}" if named else f"only={','.join(options.only)}"


@operation()
def findings_reported(options: Options) -> Commands:
    """The report of all hosts, then this host's findings; fails the host when one of them is not to be lived with."""
    if not state.is_executing:
        yield FunctionCommand(lambda state, host: True, [], {})
        return
    if (trouble := RUN.tell(state, options.json, options.prometheus)) is not None:
        yield from refuse(trouble)
        return
    record = RUN.records.get(host.name)
    if record is None:
        return
    for finding in RUN.found[host.name]:
        _tell(host, finding)
    if record.status != "clean":
        yield FunctionCommand(_not_clean, [record.why], {})


def _not_clean(state: State, host: Host, why: str) -> bool:
    host.log_styled(f"not as declared: {why}", fg="red", log_func=logger.error)
    # With --no-wait pyinfra itself (3.10) forgets that a host has failed, and exits with 0.
    state.failed_hosts.add(host)
    return False


def _tell(host: Host, finding: Finding) -> None:
    first, *rest = lines(finding)
    colour = "green" if finding.accepted else COLOURS[finding.severity]
    failing = finding.fails or finding.severity in (Severity.ERROR, Severity.WARNING)
    host.log_styled(first, fg=colour, log_func=logger.warning if failing else logger.info)
    for line in rest:
        host.log(line)


@dataclass(frozen=True)
class _Asked:
    """Names of the operations looked at that would have done something, with the checks whose findings they close.

    ``refusals``: of these, those that would have refused, with their reason.
    """

    changing: dict[str, tuple[type[Check], ...]]
    refusals: dict[str, str]


def _would_change(state: State, host: Host) -> _Asked:
    """What deploy.py's operations said, in their order.

    One that refuses because of what an earlier one would mend (no unit without a release) does not count as refusing.
    """
    changing: dict[str, tuple[type[Check], ...]] = {}
    refusals: dict[str, str] = {}
    for op_hash, data in state.ops[host].items():
        names = state.get_op_meta(op_hash).names
        # Our own are not asked: asking runs an operation up to its first command.
        if any(name.startswith("Audit") for name in names) or not data.operation_meta.will_change:
            continue
        closes, why = closed_by(host, op_hash), refusal_of(host, op_hash)
        earlier = [others for name, others in changing.items() if name not in refusals]
        if why and not any(not closes or set(closes) & set(others) for others in earlier):
            refusals |= dict.fromkeys(names, why)
        changing |= dict.fromkeys(names, closes)
    return _Asked(changing, refusals)


def _box(rig: Rig, options: Options, checks: Sequence[Check]) -> Box:
    """All facts of the host at hand, one command a concern."""
    locked, differences = _differences(rig, options.deep) if asks_the_deploy(options) else (_locked(rig), {})
    pinned = _pinned(rig, locked) if any(isinstance(check, PinnedWeights) for check in checks) else {}
    plans, unread = _plans(rig)
    chosen = {check.id for check in checks}
    teller = next((name for name in _TELL_OF_PLANS if name in chosen), "")
    if unread and teller == UnitsAsDeclared.id:
        wrong = Difference(rig.plan_file, "a plan file", unread, remedy="restore it from git", by_deploy=False)
        others = [item for item in differences.get(teller, ()) if unread not in item.found]
        differences = {**differences, teller: [*others, wrong]}
    asked = _would_change(state, state.inventory.get_host(host.name))
    box = Box(
        ram=read_once(MemoryModules),
        machine=read_once(MachineState),
        gpus=read_once(Gpus),
        toolkits=read_toolkits(rig),
        strays=read_once(LlamaStrays),
        ram_users=read_once(RamHeld),
        locked=tuple(locked),
        differences=differences,
        operations=asked.changing,
        refusals=asked.refusals,
        plans=plans,
        unread={teller: unread} if unread else {},
        pinned_mib=pinned,
        vram_held_mib=read_once(HeldByOurs).vram_mib if plans else {},
    )
    if options.disk:
        box = replace(box, asked=box.asked | {DiskSpeed.id}, read_mb_s=host.get_fact(ReadSpeedMeasured))
    if options.bandwidth:
        box = replace(box, asked=box.asked | {MemoryBandwidth.id}, copy_gb_s=host.get_fact(MemoryBandwidthMeasured))
    return box


def _plans(rig: Rig) -> tuple[Mapping[str, Plan], str]:
    """The plans of the models that are placed by one, and why their file cannot be read, if it cannot."""
    models = planned_by_us(rig)
    try:
        plans = read_plans(rig.plan_file).boxes.get(host.name, {}) if models else {}
    except PlanError as error:
        return {}, str(error)
    return {model.name: plans[model.name] for model in models if model.name in plans}, ""


def _pinned(rig: Rig, locked: Sequence[LockedModel]) -> dict[str, int]:
    """Unit -> MiB of weights that it should hold in pinned memory, for models whose size there is known.

    Not while a server loads, nor of one that may be asleep: it gives its weights back.
    """
    if not locked or not any(wants_measuring(rig, model) for model in rig.models):
        return {}
    units = read_units(rig)
    try:
        modes, memory = read_load_modes(rig, read_releases(rig), locked, units)
    except PlanError:
        return {}  # reported with the units
    found = {}
    for model in rig.models:
        served = with_load_mode(rig, model, modes[model.name].mode)
        name, mib = layout.unit_name(model.name), expected_pinned_mib(rig, served, memory)
        is_loaded = name in units and units[name].health == 200 and model.serve.sleep_idle_s is None
        if mib is not None and is_loaded:
            found[name] = mib
    return found


def _locked(rig: Rig) -> Sequence[LockedModel]:
    try:
        return locked_models(rig) or ()
    except LockError:
        return ()


def _differences(rig: Rig, deep: bool) -> tuple[Sequence[LockedModel], dict[str, list[Difference]]]:
    """The locked models, and what deploy.py itself would find, filed under the check it belongs to.

    What follows from something else is not told: a unit that cannot be rendered because its release is broken is one
    finding, about the release.
    """
    releases, units = read_releases(rig), read_units(rig)
    differences = {
        "llama.release": [item for _, found in releases_to_build(rig, releases) for item in found],
        "llama.key-files": list(key_files_found_wrong(rig).values()),
        "llama.units": [
            Difference(name, "of no declared model, so stopped", "running or started at boot")
            for name in retired_units(rig, units)
        ],
    }
    try:
        locked = locked_models(rig)
    except LockError as error:
        differences["llama.model-lock"] = [
            Difference(rig.model_lock, "a model lock", str(error), remedy="restore it from git", by_deploy=False)
        ]
        return [], differences
    if locked is None:
        differences["llama.model-lock"] = [Difference(rig.model_lock, "an entry for every model", "lacks one")]
        return [], differences
    store = read_once(ModelStore)
    differences["llama.model-files"] = [found for _, _, found in files_to_fetch(locked, store, deep)]
    try:
        wanted = wanted_units(rig, releases, locked, store, units)
    except NotReadyError as error:
        if not differences["llama.release"] and not differences["llama.model-files"]:
            # Who refuses, and so whether deploy.py would mend it, is known to its operations (a plan it would make).
            why = str(error).removesuffix("; nothing was changed")
            differences["llama.units"].append(Difference("units", "ready to be served", why))
        return locked, differences
    for item in wanted:
        unit = units.get(item.unit)
        differences["llama.units"] += [*unit_differences(item, unit), *boot_differences(item, unit)][:1]
    return locked, differences
