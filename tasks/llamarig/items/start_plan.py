"""What a start of a planned model should take, and the smaller placements to fall back to if memory is missing."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

from pydantic import ValidationError

from llamarig.declare.placement import Layers
from llamarig.facts.start_records import RecordedBackOff
from llamarig.items.wanted_unit import Wanted
from llamarig.placement.model_layers import LayerWeights
from llamarig.placement.steps_down import MAX_BACK_OFFS, effective_placement, is_step_down, steps_down, whole_layers
from llamarig.records.plan_file import Plan, Proposal
from llamarig.remote.shared.jobs import BackOff, StartPlan, StepDown
from llamarig.remote.shared.server_log import TOLERANCE_MIB
from llamarig.remote.shared.unit_directives import directives_sha256


def start_plan(plan: Plan, weights: LayerWeights, rendered: Callable[[Layers], Wanted]) -> StartPlan:
    """Describe a planned start for remote/serve/first_start.py, with the unit text of each step down.

    :param rendered: renders the model's unit with another placement
    """
    names = [gpu.name for gpu in plan.gpus]
    others = plan.belongs.others_mib or (0,) * len(names)
    kept_free = [margin + other for margin, other in zip(plan.belongs.margins_mib, others, strict=True)]
    return StartPlan(
        # No dry run has measured a step down that an earlier start took.
        predicted_mib=None if plan.proposals else {gpu.name: gpu.total_mib for gpu in plan.gpus},
        # Memory that is loaded after the model, or needed by the first prompts.
        margins_mib=dict(zip(names, kept_free, strict=True)),
        tolerance_mib=TOLERANCE_MIB,
        most_back_offs=MAX_BACK_OFFS,
        rungs=tuple(
            StepDown(
                what=step.what,
                placement=step.placement.model_dump(mode="json"),
                frees_mib=dict(zip(names, step.frees_mib, strict=True)),
                text=wanted.text,
                check=tuple(wanted.check),
            )
            for step in steps_down(effective_placement(plan), weights)
            for wanted in [rendered(step.placement)]
        ),
    )


def with_back_off(
    plan: Plan, recorded: RecordedBackOff | None, text: str, by_plan: Callable[[Plan], Wanted] | None = None
) -> Plan:
    """The plan with the step down that its last start had to take as a proposal; unchanged if it took none.

    :param recorded: from the box's record of the unit's last start
    :param text: the unit's text by this plan: a step down from a unit that runs anything else is not for this plan
    :param by_plan: renders the unit by another plan. With it, a record of an earlier version is recognised by the unit
        that serves: it names only the whole text that did not fit, comments included
    """
    proposed = _proposed(plan, recorded.taken) if recorded is not None else None
    if recorded is None or proposed is None:
        return plan
    taken = recorded.taken
    if taken.of_directives:
        return proposed if taken.of_directives == directives_sha256(text) else plan
    if taken.of == hashlib.sha256(text.encode()).hexdigest():
        return proposed
    # The same unit may have been reached from another plan, of which it was a step down and of this one it is not.
    if by_plan is None or not is_step_down(effective_placement(proposed), effective_placement(plan)):
        return plan
    return proposed if recorded.served_directives == directives_sha256(by_plan(proposed).text) else plan


def _proposed(plan: Plan, taken: BackOff) -> Plan | None:
    """The plan with this step down as a proposal; None for a record that cannot be read."""
    try:
        placement = Layers.model_validate(taken.placement)
    except ValidationError:
        return None
    missing = tuple(taken.missing_mib.get(gpu.name, 0) for gpu in plan.gpus)
    proposal = Proposal(placement=placement, reason=taken.reason, missing_mib=missing)
    return plan.model_copy(update={"proposals": (*plan.proposals, proposal)})


def proposal_line(plan: Plan) -> str | None:
    """A message for the owner of a plan that is not served as planned; None if it is."""
    if not plan.proposals:
        return None
    last = plan.proposals[-1]
    return (
        f"served with {whole_layers(last.placement)} in place of {whole_layers(plan.placement)}, because "
        f"{last.reason}; this remains until you plan again (raise auto(margin_mib=...) by the missing memory, or "
        "free it)"
    )
