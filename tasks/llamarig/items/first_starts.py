"""The first start of a planned model: the steps down that a switch may take, and the record of the one it took."""

from __future__ import annotations

from collections.abc import Callable

from pyinfra import logger
from pyinfra.api.host import Host
from pyinfra.api.state import State
from pyinfra.context import host

from llamarig.declare.model import Model
from llamarig.declare.rig import Rig
from llamarig.engine.item import Seen
from llamarig.engine.refuse import false_if_unanswered, report
from llamarig.engine.run import ask
from llamarig.engine.screen import say
from llamarig.facts.model_headers import ModelHeaders
from llamarig.facts.start_records import BackOffs
from llamarig.items.placements import replan
from llamarig.items.start_plan import proposal_line, start_plan, with_back_off
from llamarig.items.wanted_unit import Wanted
from llamarig.placement.model_layers import layer_weights
from llamarig.placement.steps_down import effective_placement, fits_model
from llamarig.records.model_lock import LockedModel
from llamarig.records.plan_file import record_proposals
from llamarig.records.store import RecordError
from llamarig.remote.shared.gguf_header import combined_header
from llamarig.remote.shared.jobs import StartPlan
from llamarig.render.model_paths import target


def first_start(item: Wanted, lock: LockedModel, rendered: Callable[[Model], Wanted]) -> StartPlan | None:
    """The start plan of a switch; None for a model without a plan, or one that is not started.

    :param rendered: renders the unit of a model
    """
    if item.plan is None or not item.running:
        return None
    shards = [target(lock, shard) for shard in lock.shards]
    headers = ask(ModelHeaders, paths=shards).of(shards)
    if headers is None:
        return None  # the server reports what is wrong with its files
    model, weights = item.model, layer_weights(combined_header(headers))
    if not fits_model(effective_placement(item.plan), weights):
        warning = (
            f"{model.name}: the plan splits another number of layers than the model has ({weights.positions} with the "
            f"output), so a start that lacks memory cannot fall back to less; {replan(model)}"
        )
        say(host, warning, fg="yellow", log_func=logger.warning)
    return start_plan(
        item.plan,
        weights,
        lambda placement: rendered(
            model.model_copy(update={"serve": model.serve.model_copy(update={"placement": placement})})
        ),
    )


def not_recorded(seen: Seen, item: Wanted) -> bool:
    """Whether the plan file lacks a step down that the model is served with."""
    recorded = seen.here.plans.get(item.model.name)
    return recorded is not None and item.plan is not None and recorded.proposals != item.plan.proposals


@false_if_unanswered
def record_back_off(state: State, host: Host, rig: Rig, item: Wanted) -> bool:
    """Write the step down that the last start had to take into the plan file, as a proposal to the owner."""
    if item.plan is None:
        return True
    plan = with_back_off(item.plan, ask(BackOffs).get(item.unit), item.text)
    try:
        if not record_proposals(rig.plan_file, host.name, item.model.name, plan.proposals):
            return True
    except RecordError as error:
        report(host, str(error))
        return False
    line = f"{item.model.name}: {proposal_line(plan)}; written into {rig.plan_file} as a proposal: commit it"
    say(host, line, fg="yellow", log_func=logger.warning)
    return True
