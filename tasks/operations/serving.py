"""The units of a box's models: each difference is one health-gated switch on the box."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from functools import partial

from pyinfra.api.command import FunctionCommand, StringCommand
from pyinfra.api.operation import operation
from pyinfra.context import host

from tasks.facts.model_store import ModelStore, Store
from tasks.facts.proofs import BackOffs
from tasks.facts.releases import Release
from tasks.facts.units import Units
from tasks.operations import Commands, closes
from tasks.operations.first_starts import first_start, not_recorded, record_back_off
from tasks.operations.load_modes import read_load_modes
from tasks.operations.long_work import read_releases
from tasks.operations.model_lock import locked_or_refused
from tasks.operations.once import read_once
from tasks.operations.plan_file import PlanError, as_planned, plan_that_holds, planned_by_us
from tasks.operations.refuse import refuse
from tasks.operations.switches import run_switch, switches_awaited
from tasks.planning import layout
from tasks.planning.build_flags import FlagRefusedError
from tasks.planning.checks.llama_cpp import ModelFiles, ModelLock, ReleasesWhole, UnitsAsDeclared
from tasks.planning.pinned_weights import expected_pinned_mib, with_load_mode
from tasks.planning.plans.first_start import with_back_off
from tasks.planning.release import release_differences, release_path
from tasks.planning.serving import (
    Unit,
    Wanted,
    boot_differences,
    retired_units,
    running_models,
    switch_job,
    unit_differences,
    wanted_unit,
)
from tasks.planning.shards import model_files, shard_differences, target
from tasks.spec.model import Model
from tasks.spec.model_lock import LockedModel
from tasks.spec.rig import Rig


class NotReadyError(Exception):
    """A model cannot be served yet; the message says what is missing."""


def health_addresses(rig: Rig) -> dict[str, str]:
    """Unit -> where its health is asked for, from the box itself."""
    health = {}
    for model in rig.models:
        address = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(model.serve.host, model.serve.host)
        shown = f"[{address}]" if ":" in address else address
        health[layout.unit_name(model.name)] = f"http://{shown}:{model.serve.port}/health"
    return health


def read_units(rig: Rig, *, fresh: bool = False) -> dict[str, Unit]:
    """The box's model units, with the health of the declared ones."""
    return read_once(Units, fresh=fresh, health=health_addresses(rig))


def wanted_units(
    rig: Rig,
    releases: dict[str, Release],
    locked: list[LockedModel],
    store: Store,
    units: dict[str, Unit],
    *,
    fresh: bool = False,
) -> list[Wanted]:
    """Every model's unit as it should be on this box, the running ones last: they are started when all is in place.

    :param fresh: a switch has ended since the box was last asked
    :raises NotReadyError: when a release or a model file is not whole, or a build refuses a flag
    """
    running = running_models(rig, units)
    back_offs = read_once(BackOffs, fresh=fresh) if planned_by_us(rig) else {}
    wanted = []
    try:
        modes, memory = read_load_modes(rig, releases, locked, units)
    except PlanError as error:
        raise NotReadyError(f"{error}; nothing was changed") from None
    for model, lock in zip(rig.models, locked, strict=True):
        path = release_path(rig.build_of(model), rig.models)
        release = releases.get(path, Release())
        lacking = [
            *release_differences(path, release.manifest, release.files),
            *(difference for _, _, difference in shard_differences([lock], store.files)),
        ]
        if lacking:
            raise NotReadyError(f"model {model.name!r} is not ready to be served: {lacking[0]}")
        try:
            plan = plan_that_holds(rig, model, release, lock)
            served = with_load_mode(rig, as_planned(model, plan), modes[model.name].mode)
            render = partial(_unit_of, rig, release=release, lock=lock, store=store, running=running)
            item = render(served)
            if plan is not None:
                # A step down that nobody wrote into the plan file yet: the deploy that took it may have died.
                plan = with_back_off(plan, back_offs.get(item.unit), item.text)
                served = with_load_mode(rig, as_planned(model, plan), modes[model.name].mode)
                item = replace(render(served), plan=plan)
            wanted.append(replace(item, pinned_mib=expected_pinned_mib(rig, served, memory)))
        except FlagRefusedError as error:
            raise NotReadyError(f"model {model.name!r}: {error}; nothing was changed") from None
        except PlanError as error:
            raise NotReadyError(f"{error}; nothing was changed") from None
    return sorted(wanted, key=lambda item: item.running)


def _unit_of(
    rig: Rig, model: Model, release: Release, lock: LockedModel, store: Store, running: Collection[str]
) -> Wanted:
    return wanted_unit(
        rig,
        model,
        release=release_path(rig.build_of(model), rig.models),
        flags=release.flags,
        files=model_files(lock),
        inputs_written=max(store.files[target(lock, file)].mtime_ns for file in lock.files) // 10**9,
        model_bytes=sum(file.size for file in lock.files),
        running=model.name in running,
    )


def _differs(item: Wanted, unit: Unit | None) -> bool:
    return bool(unit_differences(item, unit) or boot_differences(item, unit))


@operation()
@closes(UnitsAsDeclared, ModelFiles, ReleasesWhole, ModelLock)
def models_served(rig: Rig) -> Commands:
    """Every model has its unit, and those that should run do, proved by an answer."""
    locked = yield from locked_or_refused(rig)
    if locked is None:
        return
    store, releases, changed = read_once(ModelStore), read_releases(rig), False
    while True:
        units = read_units(rig, fresh=changed)
        try:
            wanted = wanted_units(rig, releases, locked, store, units, fresh=changed)
        except NotReadyError as error:
            yield from refuse(str(error))
            return
        retired = retired_units(rig, units)
        if changed or not (retired or any(_differs(item, units.get(item.unit)) for item in wanted)):
            break
        waited = yield from switches_awaited({item.unit: item.text for item in wanted})
        if waited is None:
            return
        if not waited:
            break
        changed = True  # by the switch that was waited for: all of it is looked at again
    locks = {model.name: entry for model, entry in zip(rig.models, locked, strict=True)}
    for item in wanted:
        unit, lock, build = units.get(item.unit), locks[item.model.name], rig.build_of(item.model)
        differences = unit_differences(item, unit)
        if differences:
            changed = True
            host.log(differences[0].finding)
            release = releases.get(release_path(build, rig.models), Release())
            rendered = partial(_unit_of, rig, release=release, lock=lock, store=store, running={item.model.name})
            told = first_start(item, lock, rendered)
            job = switch_job(item, build, retired, sum(file.size for file in lock.files), told)
            yield from run_switch(item.model.name, job)
        if item.plan is not None and (differences or not_recorded(rig, item)):
            changed = True
            yield FunctionCommand(record_back_off, [rig, item], {})
        if not (differences and item.running) and boot_differences(item, unit):
            changed = True
            yield StringCommand("systemctl", "--quiet", "enable" if item.enabled else "disable", item.unit)
    for name in retired:
        changed = True
        host.log(f"{name} belongs to no declared model: stopped and not started at boot; its file stays")
        yield StringCommand("systemctl", "--quiet", "disable", "--now", name)
    if not changed:
        host.noop("every model is served as declared")
