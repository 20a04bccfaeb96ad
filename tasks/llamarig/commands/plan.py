"""Plan each model now, compare the result with the plan file, and write the plans of the named models."""

from __future__ import annotations

from pyinfra import logger
from pyinfra.api.command import FunctionCommand
from pyinfra.api.host import Host
from pyinfra.api.operation import operation
from pyinfra.api.state import State
from pyinfra.context import host, state

from llamarig.declare.model import Model
from llamarig.declare.rig import Rig
from llamarig.engine.comparison_inputs import read_seen
from llamarig.engine.hub_token import HubError
from llamarig.engine.item import Commands, Seen
from llamarig.engine.refuse import refuse, report, while_answered
from llamarig.engine.run import conclude
from llamarig.engine.screen import say
from llamarig.items.box_reservation import on_reserved_box
from llamarig.items.header_files import header_files
from llamarig.items.placements import PlanError, check_plan_file, current_inputs, measured_models, planned_models
from llamarig.items.plan_maker import planned, prerequisite_queries, prerequisites
from llamarig.items.plan_speed import predicted_speed
from llamarig.items.plans import Measurements, measurable_now, measure
from llamarig.items.start_plan import proposal_line
from llamarig.placement.plan_report import plan_report
from llamarig.placement.staleness import plan_changes, staleness
from llamarig.placement.steps_down import whole_layers
from llamarig.records.model_lock import locked_models
from llamarig.records.plan_file import Plan, record_plan
from llamarig.records.store import RecordError


@operation()
@while_answered
def plans_shown(rig: Rig, only: tuple[str, ...] = (), update: tuple[str, ...] = (), takeover: bool = False) -> Commands:
    """Show each model's plan as it would be made now, and how it differs from the plan file.

    :param only: names of the models to plan; all if empty
    :param update: names of the models whose plans are written, or ``all``. A declared placement is measured again
    :param takeover: whether jobs of other runs that are in the way are stopped
    """
    models = planned_models(rig)
    measured_again = [model for model in measured_models(rig) if model.name in update or "all" in update]
    names = [model.name for model in (*models, *measured_again)]
    if unknown := [name for name in (*only, *update) if name not in (*names, "all")]:
        yield from refuse(
            f"{', '.join(unknown)} cannot be planned or measured on this box: "
            + (f"name {', '.join(names)}" if names else "it has none")
        )
        return
    if not models and not measured_again:
        nothing = "no model of this box has auto() as its placement, so there is nothing to plan"
        conclude(state.inventory.get_host(host.name), nothing)
        host.noop(nothing)
        return
    chosen = [model for model in models if not only or model.name in only]
    if state.is_executing:
        measurable = (
            measurable_now(rig, read_seen(Measurements().queries, rig), measured_again) if measured_again else []
        )
        for model in measured_again:
            if model not in measurable:
                say(host, f"{model.name}: not measured while the GPUs are in use; stop what uses them first")
        yield from on_reserved_box(takeover, _measure_and_show, rig, measurable, chosen, update)
    else:
        yield FunctionCommand(lambda state, host: True, [], {})


def _measure_and_show(
    state: State, host: Host, rig: Rig, measurable: list[Model], models: list[Model], update: tuple[str, ...]
) -> bool:
    return measure(state, host, rig, measurable) and _show(state, host, rig, models, update)


def _show(state: State, host: Host, rig: Rig, models: list[Model], update: tuple[str, ...]) -> bool:
    succeeded = True
    results: list[str] = []
    for model in models:
        try:
            seen = read_seen(prerequisite_queries, rig, fresh=True)
            plan = planned(rig, seen, model)
            check_plan_file(seen)
            before = seen.here.plans.get(model.name)
            for line in plan_report(plan, model.name, predicted_speed(rig, seen, model, plan, before)):
                say(host, line)
            result = _compare(host, rig, seen, model, before, plan)
            if model.name in update or "all" in update:
                record_plan(rig.plan_file, host.name, model.name, plan)
                result = f"written; commit {rig.plan_file}, then run deploy.py"
            results.append(f"{model.name}: {whole_layers(plan.placement)}; {result}")
        except (PlanError, RecordError) as error:
            report(host, str(error))
            succeeded = False
    if results:
        conclude(host, f"planned {len(results)} of {len(models)}", *results)
    return succeeded


def _compare(host: Host, rig: Rig, seen: Seen, model: Model, before: Plan | None, plan: Plan) -> str:
    """Show how the plan differs from the plan file; return what is the case, for the closing block."""
    if before is None:
        return f"not in {rig.plan_file} yet: deploy.py writes it there, or --data update={model.name}"
    found = prerequisites(rig, seen, [model])[model.name]
    if (proposal := proposal_line(before)) is not None:
        say(host, f"{model.name}: {proposal}", fg="yellow", log_func=logger.warning)
    why = staleness(before, current_inputs(rig, seen, model, found.release, found.locked))
    what = plan_changes(before, plan)
    if not why and not what:
        return f"the same plan as in {rig.plan_file}"
    say(host, f"{model.name}: differs from the plan in {rig.plan_file}")
    for line in (*why, *what):
        say(host, f"    {line}", fg="yellow", log_func=logger.warning)
    return f"differs from the plan in {rig.plan_file}: --data update={model.name} writes it"


@operation()
@while_answered
def headers_present(rig: Rig) -> Commands:
    """Put the header of every model on the box, in its own files or as a sparse copy."""
    try:
        locked = locked_models(rig)
        if locked is None:
            yield from refuse(f"a model has no entry in {rig.model_lock}: run deploy.py first, which adds it")
            return
        for model, lock in zip(rig.models, locked, strict=True):
            yield from header_files(rig, model, lock)
    except (HubError, RecordError) as error:
        yield from refuse(str(error))
        return
    host.noop("the headers of all models are on the box")
