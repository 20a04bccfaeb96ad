"""The systemd units of a box's models. Each difference is fixed by a switch on the box that ends in an answer."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from pyinfra.api.command import FunctionCommand, StringCommand
from pyinfra.context import host

from llamarig.declare.model import Model
from llamarig.declare.rig import Rig
from llamarig.declare.serve.weights import LoadMode
from llamarig.engine.comparison_inputs import read_seen
from llamarig.engine.control_machine import ControlMachine
from llamarig.engine.item import Commands, Difference, Item, Query, Seen, Severity, query
from llamarig.engine.jobs import SWITCH
from llamarig.engine.refuse import refuse
from llamarig.engine.run import of_host
from llamarig.engine.screen import say
from llamarig.facts.jobs import RunningJobs
from llamarig.facts.model_store import ModelStore, Store
from llamarig.facts.releases import Release
from llamarig.facts.start_records import BackOffs
from llamarig.facts.units import Unit, Units
from llamarig.items.declarations import WorkableDeclarations, WorkableDeclarationsFetched
from llamarig.items.first_starts import first_start, not_recorded, record_back_off
from llamarig.items.model_files import FetchedModels
from llamarig.items.model_headers import header_queries, served_files
from llamarig.items.placements import (
    PlanError,
    as_planned,
    chosen_load_modes,
    placement_queries,
    planned_models,
    release_of,
    valid_plan,
)
from llamarig.items.plans import ValidPlans
from llamarig.items.releases import WholeReleases, release_queries, releases_of
from llamarig.items.speed_gates import gate_of_switch
from llamarig.items.start_plan import with_back_off
from llamarig.items.switches import run_switch, switch_refusals, switches_awaited
from llamarig.items.unit_differences import (
    boot_differences,
    retired_units,
    running_models,
    switch_job,
    unit_differences,
)
from llamarig.items.unit_overrides import NoUnitOverrides
from llamarig.items.unit_words import model_of, release_change, started, was_started
from llamarig.items.wanted_unit import Wanted, health_addresses, wanted_unit
from llamarig.placement.pinned_weights import expected_pinned_mib, with_load_mode
from llamarig.records.model_lock import LockedModel
from llamarig.records.plan_file import Plan
from llamarig.render import layout
from llamarig.render.build_flags import FlagRefusedError
from llamarig.render.model_paths import target


class NotReadyError(Exception):
    """A model cannot be served yet; the message names what is missing."""


class ServedModels(Item):
    """Each declared model has its unit, which runs the declared release with the declared flags and answers."""

    name = "Models served"
    check = "llama.units"
    severity = Severity.ERROR
    names_each_change = True
    needs = (
        *(NoUnitOverrides, WholeReleases, FetchedModels),
        *(ValidPlans, WorkableDeclarations, WorkableDeclarationsFetched),
    )

    def queries(self, rig: Rig, here: ControlMachine) -> Iterable[Query[Any]]:
        """Units, running switches, releases, the model store with headers, and what plans depend on."""
        if here.locked is not None:
            yield unit_query(rig)
            yield query(RunningJobs)
            yield from release_queries(rig)
            yield query(ModelStore)
            yield from header_queries(rig, here)
            yield from placement_queries(rig)
            if planned_models(rig):
                yield query(BackOffs)

    def differences(self, rig: Rig, seen: Seen) -> list[Difference]:
        """One at most for each unit and its start at boot, and one for each unit of no declared model.

        Before them, the reason for which a deploy would refuse to change any of them.
        """
        if seen.here.locked is None:
            return []
        units = seen.get(Units, health=health_addresses(rig))
        found = [_retired(name) for name in retired_units(rig, units)]
        try:
            wanted = wanted_units(rig, seen)
        except NotReadyError as error:
            refusal = Difference.refusal_of("units", "models that can be served", str(error))
            return [refusal, *(_retired_by_hand(one) for one in found)]
        for item in wanted:
            unit = units.get(item.unit)
            found += [*unit_differences(item, unit, _stops(item, units)), *boot_differences(item, unit)][:1]
            if not_recorded(seen, item):
                found.append(
                    Difference(rig.plan_file, "a proposal for it", f"lacks the step down of {item.model.name}")
                )
        running = seen.get(RunningJobs)
        refusals = switch_refusals(running, {item.unit: item.text for item in wanted})
        if not found or not refusals or seen.here.takeover:
            return found
        refusal = Difference.refusal_of("switches", "none but to a declared unit", "; ".join(refusals))
        return [refusal, *(replace(one, remedy="let the running switch end, then run deploy.py") for one in found)]

    def foresee(self, rig: Rig, seen: Seen) -> Iterable[str]:
        """What becomes of each model while its release is not built yet, or its files are not there."""
        if seen.here.locked is None:
            return
        units = seen.get(Units, health=health_addresses(rig))
        yield from (_retired(name).plan for name in retired_units(rig, units))
        running = running_models(rig, units)
        for model in sorted(rig.models, key=lambda model: model.name not in running):
            unit, release = units.get(layout.unit_name(model.name)), release_of(rig, model)
            then = f"; {started(unit)}" if model.name in running else "; it does not run, and is not started"
            if unit is None or not unit.text:
                yield f"{model.name}: installs its unit{then}"
            elif (change := release_change(unit.text, release)) is not None:
                yield f"{model.name}: {change}{then}"

    def done(self, rig: Rig, differences: list[Difference]) -> Iterable[str]:
        """With how long each model was away, as its switch has reported."""
        ended = of_host().ended
        for one in differences:
            message = ended.get(f"{SWITCH}{model_of(one.what)}", "")
            yield was_started(one.plan, message) if one.will else one.past

    def fix(self, rig: Rig, seen: Seen, differences: list[Difference]) -> Commands:
        """Switch each unit that differs, after waiting for a switch that is already running.

        Those that should run come first. If one of them does not answer, this ends: until then nothing of the other
        models has changed, of which one may serve, and which would otherwise be units of a release that has failed.
        """
        texts = {item.unit: item.text for item in wanted_units(rig, seen)}
        waited = yield from switches_awaited(texts, takeover=seen.here.takeover)
        if waited is None:
            return
        if waited:
            seen = read_seen(self.queries, rig, fresh=True)
        try:
            wanted = wanted_units(rig, seen)
        except NotReadyError as error:
            yield from refuse(str(error))
            return
        units = seen.get(Units, health=health_addresses(rig))
        retired = retired_units(rig, units)
        for item in wanted:
            yield from self._unit(rig, seen, item, units, retired)
        # Last: until the declared default has answered, what was started at boot still is. Then that one alone.
        boot = [item for item in wanted if boot_differences(item, units.get(item.unit))]
        yield from _set_what_starts_at_boot(boot)
        for name in retired:
            say(host, f"{name} belongs to no declared model: stopped and disabled; its file is kept")
            yield StringCommand("systemctl", "--quiet", "disable", "--now", name)

    def _unit(self, rig: Rig, seen: Seen, item: Wanted, units: Mapping[str, Unit], retired: list[str]) -> Commands:
        differences = unit_differences(item, units.get(item.unit))
        is_switched = bool(differences) and not differences[0].is_only_text
        if is_switched:
            build = rig.build_of(item.model)
            lock = dict(zip((model.name for model in rig.models), seen.here.locked or (), strict=True))[item.model.name]
            rendered = partial(render, rig, seen=seen, lock=lock, running={item.model.name})
            plan = first_start(item, lock, rendered)
            job = switch_job(item, build, retired, sum(file.size for file in lock.files), plan)
            job = replace(job, gate=gate_of_switch(rig, item, units))
            yield from run_switch(item.model.name, job, takeover=seen.here.takeover)
        elif differences:
            yield from _text_replaced(item)
        if item.plan is not None and (is_switched or not_recorded(seen, item)):
            yield FunctionCommand(record_back_off, [rig, item], {})


def _retired(unit: str) -> Difference:
    expected, found = "stopped, since no declared model has this unit", "running or started at boot"
    will = f"{model_of(unit)}: stopped, no longer declared; its unit and its files stay"
    return Difference(unit, expected, found, will=will)


def _stops(item: Wanted, units: Mapping[str, Unit]) -> list[str]:
    """Models that stop where this one is started."""
    return [model_of(peer) for peer in item.peers if peer in units and units[peer].is_active]


def _set_what_starts_at_boot(items: list[Wanted]) -> Commands:
    """One command, so that a lost connection leaves neither two models nor none to start at boot."""
    commands = {f"systemctl --quiet {'enable' if item.enabled else 'disable'} {item.unit}" for item in items}
    if commands:
        yield StringCommand(" && ".join(sorted(commands, reverse=True)))  # the new default first


def _retired_by_hand(retired: Difference) -> Difference:
    """A unit of no declared model, on a box whose declared models a deploy refuses to serve."""
    remedy = f"stop it: systemctl disable --now {retired.what}; or fix what stops deploy.py, which then stops it"
    return replace(retired, remedy=remedy)


def _text_replaced(item: Wanted) -> Commands:
    """Replace the comments and helper paths of a unit while its server keeps running."""
    program = f"{layout.PYTHON} -B -m llamarig.remote.serve.replace_unit_text"
    yield StringCommand(
        f"cd {layout.PROGRAMS} && {program} {item.unit} {layout.PROOFS}/{item.unit}.json", _stdin=item.text
    )


def unit_query(rig: Rig) -> Query[dict[str, Unit]]:
    """The box's model units, with the health of the declared ones."""
    return query(Units, health=health_addresses(rig))


def wanted_units(rig: Rig, seen: Seen) -> list[Wanted]:
    """Every model's unit as it should be on this box; those that should run come first.

    :raises NotReadyError: when a model has no valid plan, or its build refuses a flag
    """
    locked, releases = seen.here.locked or (), releases_of(rig, seen)
    units = seen.get(Units, health=health_addresses(rig))
    running = running_models(rig, units)
    back_offs = seen.get(BackOffs) if planned_models(rig) else {}
    wanted = []
    try:
        modes, memory = chosen_load_modes(rig, seen, releases, locked, units)
        for model, lock in zip(rig.models, locked, strict=True):
            plan = valid_plan(rig, seen, model, releases.get(release_of(rig, model), Release()), lock)
            mode = modes[model.name].mode
            by_plan = partial(_by_plan, rig, model, mode, seen=seen, lock=lock, running=running)
            item = by_plan(plan)
            if plan is not None:
                # The plan file may lack a step down, if the deploy that started the model was interrupted.
                item = by_plan(with_back_off(plan, back_offs.get(item.unit), item.text, by_plan))
            wanted.append(replace(item, pinned_mib=expected_pinned_mib(rig, item.model, memory)))
    except FlagRefusedError as error:
        raise NotReadyError(f"model {model.name!r}: {error}; nothing was changed") from None
    except PlanError as error:
        raise NotReadyError(f"{error}; nothing was changed") from None
    return sorted(wanted, key=lambda item: not item.running)


def _by_plan(
    rig: Rig,
    model: Model,
    mode: LoadMode,
    plan: Plan | None,
    *,
    seen: Seen,
    lock: LockedModel,
    running: Collection[str],
) -> Wanted:
    """One model's unit with the placement of a plan, or as declared without one."""
    served = with_load_mode(rig, as_planned(model, plan), mode)
    return replace(render(rig, served, seen=seen, lock=lock, running=running), plan=plan)


def render(rig: Rig, model: Model, *, seen: Seen, lock: LockedModel, running: Collection[str]) -> Wanted:
    """One model's unit for the release that will read it.

    :raises FlagRefusedError: when that release cannot do what is declared
    """
    store: Store = seen.get(ModelStore)
    path = release_of(rig, model)
    return wanted_unit(
        rig,
        model,
        release=path,
        flags=releases_of(rig, seen).get(path, Release()).flags,
        files=served_files(rig, seen, model, lock),
        inputs=_identities(store, [target(lock, file) for file in lock.files]),
        model_bytes=sum(file.size for file in lock.files),
        running=model.name in running,
    )


def _identities(store: Store, paths: list[str]) -> str:
    """A digest of the files' inodes and times; the content of each is the lock's."""
    found = [(path, store.files.get(path)) for path in sorted(paths)]
    lines = [f"{path} {file.inode} {file.mtime_ns}" for path, file in found if file is not None]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:32]
