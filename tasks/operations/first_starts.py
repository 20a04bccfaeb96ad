"""Around the first start of a planned model: what the switch is told of its plan, and what comes back of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pyinfra import logger
from pyinfra.api.host import Host
from pyinfra.api.state import State
from pyinfra.context import host

from tasks.facts.model_headers import ModelHeaders
from tasks.facts.proofs import BackOffs
from tasks.operations.lock_file import ONE_WRITER
from tasks.operations.plan_file import PlanError, read_plans, replan, write_plan
from tasks.operations.refuse import report
from tasks.planning.gguf_header import Header
from tasks.planning.plans.first_start import proposal_line, start_plan, with_back_off
from tasks.planning.plans.ladder import fits_model, in_force
from tasks.planning.plans.weights import weights_of
from tasks.planning.serving import Wanted
from tasks.planning.shards import target
from tasks.spec.model import Model
from tasks.spec.model_lock import LockedModel
from tasks.spec.rig import Rig


def first_start(item: Wanted, lock: LockedModel, rendered: Callable[[Model], Wanted]) -> dict[str, Any] | None:
    """What a switch is told of the plan; None for a model that no plan placed, or that is not started.

    :param rendered: the unit of the model as it is given
    """
    if item.plan is None or not item.running:
        return None
    shards = [target(lock, shard) for shard in lock.shards]
    headers = host.get_fact(ModelHeaders, paths=shards)
    if any(shard not in headers for shard in shards):
        return None  # the server will say what is wrong with its files
    tensors = tuple(tensor for shard in shards for tensor in headers[shard].tensors)
    model, weights = item.model, weights_of(Header(tensors, headers[shards[0]].metadata))
    if not fits_model(in_force(item.plan), weights):
        warning = (
            f"{model.name}: its plan splits another number of layers than the model has, {weights.positions} with the "
            f"output, so a start that lacks memory takes no step down; {replan(model)}"
        )
        host.log_styled(warning, fg="yellow", log_func=logger.warning)
    return start_plan(
        item.plan,
        weights,
        lambda placement: rendered(
            model.model_copy(update={"serve": model.serve.model_copy(update={"placement": placement})})
        ),
    )


def not_recorded(rig: Rig, item: Wanted) -> bool:
    """Whether the plan file lacks a step down that serves already."""
    try:
        recorded = read_plans(rig.plan_file).boxes.get(host.name, {}).get(item.model.name)
    except PlanError:
        return False  # said in full where the plan is read
    return recorded is not None and item.plan is not None and recorded.proposals != item.plan.proposals


def record_back_off(state: State, host: Host, rig: Rig, item: Wanted) -> bool:
    """Write into the plan file what the last start had to take a step down to, as a proposal to its owner."""
    if item.plan is None:
        return True
    plan = with_back_off(item.plan, host.get_fact(BackOffs).get(item.unit), item.text)
    try:
        with ONE_WRITER:  # several boxes share a plan file
            recorded = read_plans(rig.plan_file).boxes.get(host.name, {}).get(item.model.name)
            if recorded is None or recorded.proposals == plan.proposals:
                return True
            write_plan(
                rig.plan_file, host.name, item.model.name, recorded.model_copy(update={"proposals": plan.proposals})
            )
    except PlanError as error:
        report(host, str(error))
        return False
    said = f"{item.model.name}: {proposal_line(plan)}; written into {rig.plan_file} as a proposal: commit it"
    host.log_styled(said, fg="yellow", log_func=logger.warning)
    return True
