"""Plans beside their plan file: made where there is none, refused where they no longer hold, shown on request."""

from __future__ import annotations

from pyinfra import logger
from pyinfra.api.command import FunctionCommand
from pyinfra.api.host import Host
from pyinfra.api.operation import operation
from pyinfra.api.state import State
from pyinfra.context import host, state

from tasks.facts.gpus import Gpus
from tasks.facts.plannable import HeldByOurs
from tasks.operations import Commands, closes
from tasks.operations.load_modes import as_measured, can_be_measured, measured_models, measurement_that_holds
from tasks.operations.lock_file import ONE_WRITER
from tasks.operations.once import read_once
from tasks.operations.plan_file import (
    PlanError,
    planned_by_us,
    present,
    read_plans,
    replan,
    write_measured,
    write_plan,
)
from tasks.operations.plan_maker import ground_of, measured, planned
from tasks.operations.plan_speed import speed_said
from tasks.operations.refuse import refuse, report
from tasks.planning.checks.llama_cpp import UnitsAsDeclared
from tasks.planning.plans import report as in_words
from tasks.planning.plans.first_start import proposal_line
from tasks.planning.plans.staleness import plan_changes, staleness
from tasks.spec.model import Model
from tasks.spec.placement import Fit
from tasks.spec.plan_file import Plan
from tasks.spec.rig import Rig

CUDA_CONTEXT_MIB = 1024
"""What must be free on each GPU for a dry run beside what runs there: a CUDA context takes 600 to 730 MiB
(H200, tests/gpu/RESULTS.md)."""
SMALL_CARD_MIB = 4 * CUDA_CONTEXT_MIB
"""Below this a card is not waited for: it holds no model worth planning."""


@operation()
@closes(UnitsAsDeclared)
def models_planned(rig: Rig) -> Commands:
    """Every model with auto() has a plan that holds; the first one is made here, a stale one is refused.

    A declared placement that may leave weights in RAM is measured once, to know whether they may be pinned.
    """
    models, declared = planned_by_us(rig), measured_models(rig)
    if not models and not declared:
        host.noop("no model is placed by a plan")
        return
    try:
        plans = read_plans(rig.plan_file).boxes.get(host.name, {})
        ground = ground_of(rig, [*models, *declared])
        stale: list[str] = []
        unmeasured = [
            model
            for model in declared
            if (found := ground.get(model.name)) is not None
            and can_be_measured(rig, model, found.release)
            and measurement_that_holds(rig, model, found.release, found.locked) is None
        ]
        for model in models:
            if model.name in plans and model.name in ground:
                now = present(rig, model, ground[model.name].release, ground[model.name].locked)
                if changes := staleness(plans[model.name], now):
                    stale.append(f"model {model.name!r}: {'; '.join(changes)}; {replan(model)}")
    except PlanError as error:
        yield from refuse(str(error))
        return
    if stale:
        yield from refuse("a plan no longer holds; no unit was changed", stale)
        return
    for model in models if state.is_executing else ():
        if model.name in plans and (proposal := proposal_line(plans[model.name])) is not None:
            host.log_styled(f"{model.name}: {proposal}", fg="yellow", log_func=logger.warning)
    missing = [model for model in models if model.name not in plans]
    # Declared placements first: what they take of RAM decides what is left for pinned weights of a plan.
    if unmeasured and (unmeasured := measurable_now(rig, unmeasured)):
        yield FunctionCommand(_measure, [rig, unmeasured], {})
    if missing:
        yield FunctionCommand(_plan_missing, [rig, missing], {})
    if not missing and not unmeasured:
        host.noop("every plan holds")


def measurable_now(rig: Rig, models: list[Model]) -> list[Model]:
    """Those whose dry run takes no memory from what runs on the GPUs; the others wait until that has ended.

    A dry run opens a CUDA context on each GPU, and llama.cpp's own fit goes by what is free.
    """
    if rig.simulated_gpus:
        return models
    # A card this small only drives a display, and one that tells no memory (0) cannot be judged.
    serving = [gpu for gpu in read_once(Gpus).gpus if gpu.total_mib >= SMALL_CARD_MIB]
    if any(gpu.free_mib < CUDA_CONTEXT_MIB for gpu in serving):
        return []
    if not host.get_fact(HeldByOurs).vram_mib:
        return models
    return [model for model in models if not isinstance(model.serve.placement, Fit)]


def _measure(state: State, host: Host, rig: Rig, models: list[Model]) -> bool:
    for model in models:
        try:
            ground = ground_of(rig, [model]).get(model.name)
            if ground is None or not can_be_measured(rig, model, ground.release):
                raise PlanError(
                    f"model {model.name!r} cannot be measured: its release or lock entry is missing, or the release "
                    "lacks llama-fit-params or a declared flag; run deploy.py, which says which"
                )
            found = measured(rig, as_measured(rig, model), ground)
            with ONE_WRITER:  # several boxes share a plan file
                write_measured(rig.plan_file, host.name, model.name, found)
        except PlanError as error:
            # No reason to serve nothing: its weights are loaded as they are now.
            host.log_styled(str(error), fg="yellow", log_func=logger.warning)
            continue
        left = "/".join(str(mib) for mib in found.left_mib)
        shown = f"a dry run leaves {left} MiB free on the GPUs" if left else found.failed
        host.log(f"{model.name}: {shown}; commit {rig.plan_file}")
    return True


def _plan_missing(state: State, host: Host, rig: Rig, models: list[Model]) -> bool:
    for model in models:
        try:
            plan = planned(rig, model)
            with ONE_WRITER:  # several boxes share a plan file
                write_plan(rig.plan_file, host.name, model.name, plan)
        except PlanError as error:
            report(host, str(error))
            return False
        for line in in_words.report(plan, model.name, speed_said(rig, model, plan)):
            host.log(line)
        host.log(f"{model.name}: planned with {plan.dry_runs} dry runs; commit {rig.plan_file}")
    return True


@operation()
def plans_shown(rig: Rig, only: tuple[str, ...] = (), update: tuple[str, ...] = ()) -> Commands:
    """Each model's plan as it would be made now, beside the one in the plan file; ``update`` writes it there.

    Of a model that its owner placed, ``update`` measures anew whether its weights in RAM may be pinned.
    """
    models = planned_by_us(rig)
    anew = [model for model in measured_models(rig) if model.name in update or "all" in update]
    names = [model.name for model in (*models, *anew)]
    if unknown := [name for name in (*only, *update) if name not in (*names, "all")]:
        yield from refuse(
            f"{', '.join(unknown)} is no model of this box that can be planned or measured: name "
            f"{', '.join(names) or 'none, there is none'}"
        )
        return
    if not models and not anew:
        host.noop("no model of this box has auto() as its placement, so there is nothing to plan")
        return
    chosen = [model for model in models if not only or model.name in only]
    if state.is_executing:
        measurable = measurable_now(rig, anew) if anew else []
        for model in anew:
            if model not in measurable:
                host.log(f"{model.name}: not measured while the GPUs are in use; stop what uses them first")
        yield FunctionCommand(_measure, [rig, measurable], {})
        yield FunctionCommand(_show, [rig, chosen, update], {})
    else:
        yield FunctionCommand(lambda state, host: True, [], {})


def _show(state: State, host: Host, rig: Rig, models: list[Model], update: tuple[str, ...]) -> bool:
    well = True
    for model in models:
        try:
            plan = planned(rig, model)
            before = read_plans(rig.plan_file).boxes.get(host.name, {}).get(model.name)
            for line in in_words.report(plan, model.name, speed_said(rig, model, plan, before)):
                host.log(line)
            _compare(host, rig, model, before, plan)
            if model.name in update or "all" in update:
                with ONE_WRITER:  # several boxes share a plan file
                    write_plan(rig.plan_file, host.name, model.name, plan)
                host.log(f"{model.name}: written; commit {rig.plan_file}, then run deploy.py")
        except PlanError as error:
            report(host, str(error))
            well = False
    return well


def _compare(host: Host, rig: Rig, model: Model, before: Plan | None, plan: Plan) -> None:
    if before is None:
        host.log(f"{model.name}: not in {rig.plan_file} yet: deploy.py writes it there, or --data update={model.name}")
        return
    found = ground_of(rig, [model])[model.name]
    if (proposal := proposal_line(before)) is not None:
        host.log_styled(f"{model.name}: {proposal}", fg="yellow", log_func=logger.warning)
    why = staleness(before, present(rig, model, found.release, found.locked))
    what = plan_changes(before, plan)
    if not why and not what:
        host.log(f"{model.name}: as in {rig.plan_file}")
        return
    host.log(f"{model.name}: otherwise than in {rig.plan_file}")
    for line in (*why, *what):
        host.log_styled(f"    {line}", fg="yellow", log_func=logger.warning)
