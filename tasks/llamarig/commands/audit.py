"""Report drift; change nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pyinfra import logger
from pyinfra.api.command import FunctionCommand
from pyinfra.api.host import Host
from pyinfra.api.operation import operation
from pyinfra.api.state import State
from pyinfra.context import host, state

from llamarig.checks.base import Check, Finding, Severity
from llamarig.checks.box import Box
from llamarig.checks.disk import DiskSpeed
from llamarig.checks.memory import MemoryBandwidth
from llamarig.checks.registry import CHECKS, NoSuchCheckError, check_accepted_names, findings, is_selected_by, selected
from llamarig.checks.report import COLOURS, host_record, lines, listing
from llamarig.commands.audit_run import run_of
from llamarig.declare.rig import Rig
from llamarig.engine.comparison_inputs import read_here, read_seen
from llamarig.engine.control_machine import ControlMachine
from llamarig.engine.converge import compare
from llamarig.engine.item import Commands, Query, query
from llamarig.engine.refuse import refuse, while_answered
from llamarig.engine.run import NoAnswerError, ask, of_host, read_all, read_fact, run
from llamarig.engine.screen import announce, say
from llamarig.facts.cuda_toolkits import ToolkitVersions
from llamarig.facts.gpus import Gpus
from llamarig.facts.kernel_messages import KernelMessages
from llamarig.facts.machine import MachineState
from llamarig.facts.measurements import MemoryBandwidthMeasured, ReadSpeedMeasured
from llamarig.facts.plannable_devices import HeldByServers
from llamarig.facts.ram import MemoryModules
from llamarig.facts.ram_users import RamHeld
from llamarig.facts.sandbox_support import PacketFilter, SystemdVersion
from llamarig.facts.stray_settings import StraySettings
from llamarig.facts.units import Units
from llamarig.items.all_items import ITEMS
from llamarig.items.cuda_support import declared_toolkits
from llamarig.items.model_units import ServedModels
from llamarig.items.placements import PlanError, chosen_load_modes, planned_models
from llamarig.items.releases import releases_of
from llamarig.items.unit_differences import unproved_units
from llamarig.items.wanted_unit import health_addresses
from llamarig.placement.pinned_weights import expected_pinned_mib, needs_measurement, with_load_mode
from llamarig.render import layout


@dataclass(frozen=True)
class AuditOptions:
    """AuditOptions given with ``--data``. ``only`` and ``skip``: ids of checks, or their first words."""

    only: tuple[str, ...] = ()
    skip: tuple[str, ...] = ()
    json: str = ""
    prometheus: str = ""
    disk: bool = False
    bandwidth: bool = False


def begin(options: AuditOptions) -> None:
    """Replace the files of an earlier audit, before the first host is read."""
    run_of(state).begin(state, options.json, options.prometheus)


def audit(rig: Rig, options: AuditOptions) -> None:
    """Read and compare the host, and report."""
    run().only_looks = True
    audited(name="Audit", rig=rig, options=options)


def queries_of_audit(rig: Rig, here: ControlMachine) -> Iterable[Query[Any]]:
    """Every query of an audit, of its checks and of all audited items."""
    of_checks = (
        MemoryModules,
        MachineState,
        Gpus,
        KernelMessages,
        StraySettings,
        RamHeld,
        PacketFilter,
        SystemdVersion,
    )
    yield from (query(fact) for fact in of_checks)
    if planned_models(rig):
        yield query(HeldByServers)
    if paths := declared_toolkits(rig.builds):
        yield query(ToolkitVersions, paths=paths)
    for item in ITEMS:
        if item.audited:
            yield from item.queries(rig, here)


@operation()
def checks_listed() -> Commands:
    """Print the list of checks once, also with several hosts."""
    if state.is_executing and not run_of(state).listed:
        run_of(state).listed = True
        for line in listing():
            announce(line)
    host.noop("the checks were listed, not run")
    yield from ()


@operation()
@while_answered
def audited(rig: Rig, options: AuditOptions) -> Commands:
    """Run the checks, print this host's findings, and write the report of all hosts; fail if one of them fails."""
    try:
        checks = selected(options.only, options.skip)
        check_accepted_names(rig.host.accepted)
    except NoSuchCheckError as error:
        if state.is_executing:
            run_of(state).failed[host.name] = str(error)
            run_of(state).write(state, options.json, options.prometheus)
        yield from refuse(str(error))
        return
    if not state.is_executing:
        yield FunctionCommand(lambda state, host: True, [], {})
        return
    read_all(queries_of_audit(rig, read_here(rig)))
    if unanswered := of_host().unanswered:  # it has been reported
        run_of(state).failed[host.name] = unanswered
        yield FunctionCommand(lambda state, host: False, [], {})
        return
    try:
        box = _box(rig, options, checks)
    except NoAnswerError as error:
        run_of(state).failed[host.name] = str(error)
        raise
    if state.inventory.get_host(host.name) in state.failed_hosts:
        return  # pyinfra has reported a fact that cannot be read
    found = findings(checks, rig, box)
    skipped = {check.id: _why_skipped(check, options) for check in CHECKS if check not in checks}
    this = run_of(state)
    this.found[host.name] = found
    this.records[host.name] = host_record(host.name, checks, skipped, found).model_copy(
        update={"measured": box.measured}
    )
    for check, value in box.measured.items():
        say(host, f"measured for {check}: {value}")
    for finding in found:
        _print(host, finding)
    if (problem := this.write(state, options.json, options.prometheus)) is not None:
        yield from refuse(problem)
    elif this.records[host.name].status != "clean":
        yield FunctionCommand(_not_clean, [this.records[host.name].why], {})


def _why_skipped(check: Check, options: AuditOptions) -> str:
    named = [name for name in options.skip if is_selected_by(check, name)]
    return f"skip={named[0]}" if named else f"only={','.join(options.only)}"


def _not_clean(state: State, host: Host, why: str) -> bool:
    say(host, f"not as declared: {why}", fg="red", log_func=logger.error)
    # With --no-wait pyinfra 3.10 does not record that a host has failed, and exits with 0.
    state.failed_hosts.add(host)
    return False


def _print(host: Host, finding: Finding) -> None:
    first, *rest = lines(finding)
    colour = "green" if finding.accepted else COLOURS[finding.severity]
    failing = finding.fails or finding.severity in (Severity.ERROR, Severity.WARNING)
    say(host, first, fg=colour, log_func=logger.warning if failing else logger.info)
    for line in rest:
        say(host, line)


def _box(rig: Rig, options: AuditOptions, checks: Sequence[Check]) -> Box:
    """Read everything that the checks need: one SSH command, and one for each requested measurement."""
    here = read_here(rig)
    if here.deep:
        say(host, "reading every byte of the model files")
    paths = declared_toolkits(rig.builds)
    toolkits = read_fact(ToolkitVersions, paths=paths) if paths else {}
    units = read_fact(Units, health=health_addresses(rig)) if here.locked is not None else {}
    box = Box(
        ram=read_fact(MemoryModules),
        machine=read_fact(MachineState),
        gpus=read_fact(Gpus),
        kernel=read_fact(KernelMessages),
        toolkits=toolkits,
        strays=read_fact(StraySettings),
        packet_filter=read_fact(PacketFilter),
        systemd=read_fact(SystemdVersion),
        ram_users=read_fact(RamHeld),
        locked=tuple(here.locked or ()),
        differences=compare(ITEMS, rig),
        plans=here.plans if planned_models(rig) else {},
        plan_problem=here.plan_problem if planned_models(rig) else "",
        selected=frozenset(check.id for check in checks),
        pinned_mib=_pinned(rig, here),
        unproved=unproved_units(rig, units),
        vram_held_mib=read_fact(HeldByServers).freed_vram_mib() if planned_models(rig) and here.plans else {},
    )
    if options.disk:
        box = replace(box, requested=box.requested | {DiskSpeed.id}, read_mb_s=ask(ReadSpeedMeasured))
    if options.bandwidth:
        box = replace(box, requested=box.requested | {MemoryBandwidth.id}, copy_gb_s=ask(MemoryBandwidthMeasured))
    return box


def _pinned(rig: Rig, here: ControlMachine) -> Mapping[str, int]:
    """Unit -> MiB of weights that it should hold in pinned memory, as far as known.

    Left out are servers that are loading, and those that may be asleep, which have freed their weights.
    """
    if here.locked is None or not any(needs_measurement(rig, model) for model in rig.models):
        return {}
    seen = read_seen(ServedModels().queries, rig)
    units = seen.get(Units, health=health_addresses(rig))
    try:
        modes, memory = chosen_load_modes(rig, seen, releases_of(rig, seen), here.locked, units)
    except PlanError:
        return {}  # reported as llama.plans
    found = {}
    for model in rig.models:
        served = with_load_mode(rig, model, modes[model.name].mode)
        name, mib = layout.unit_name(model.name), expected_pinned_mib(rig, served, memory)
        is_loaded = name in units and units[name].health == 200 and model.serve.sleep_idle_s is None
        if mib is not None and is_loaded:
            found[name] = mib
    return found
