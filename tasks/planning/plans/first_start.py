"""What a switch is told of a plan: what its start should take, and what to fall back to when that was not there."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Any

from tasks.planning.plans.ladder import MOST_BACK_OFFS, in_force, ladder, whole_layers
from tasks.planning.plans.server_log import TOLERANCE_MIB
from tasks.planning.plans.weights import Weights
from tasks.planning.serving import Wanted
from tasks.spec.placement import Layers
from tasks.spec.plan_file import Plan, Proposal


def start_plan(plan: Plan, weights: Weights, rendered: Callable[[Layers], Wanted]) -> dict[str, Any]:
    """For tasks/files/first_start.py. MiB by device; steps down ready to be put in place, the smallest first.

    :param rendered: the model's unit with another placement
    """
    names = [gpu.name for gpu in plan.gpus]
    others = plan.belongs.others_mib or (0,) * len(names)
    kept_free = [margin + other for margin, other in zip(plan.belongs.margins_mib, others, strict=True)]
    return {
        # A step that was taken before was measured by no dry run.
        "predicted_mib": None if plan.proposals else {gpu.name: gpu.total_mib for gpu in plan.gpus},
        # Loaded after the model, or appearing with the first prompts.
        "margins_mib": dict(zip(names, kept_free, strict=True)),
        "tolerance_mib": TOLERANCE_MIB,
        "most_back_offs": MOST_BACK_OFFS,
        "rungs": [
            {
                "what": rung.what,
                "placement": rung.placement.model_dump(mode="json"),
                "frees_mib": dict(zip(names, rung.frees_mib, strict=True)),
                "text": wanted.text,
                "check": list(wanted.check),
            }
            for rung in ladder(in_force(plan), weights)
            for wanted in [rendered(rung.placement)]
        ],
    }


def with_back_off(plan: Plan, backed_off: Mapping[str, Any] | None, text: str) -> Plan:
    """The plan with the step down that a start of it had to take; the plan itself where it had to take none.

    :param backed_off: what the box's proof says of the unit's last start
    :param text: the unit's text by this plan: a step down from another one proposes nothing for it
    """
    if not backed_off or backed_off.get("of") != hashlib.sha256(text.encode()).hexdigest():
        return plan
    proposal = Proposal(
        placement=Layers.model_validate(backed_off["placement"]),
        reason=str(backed_off["reason"]),
        missing_mib=tuple(int(backed_off["missing_mib"].get(gpu.name, 0)) for gpu in plan.gpus),
    )
    return plan.model_copy(update={"proposals": (*plan.proposals, proposal)})


def proposal_line(plan: Plan) -> str | None:
    """What its owner has to know of a plan that is not served as it is; None where it is."""
    if not plan.proposals:
        return None
    last = plan.proposals[-1]
    return (
        f"served with {whole_layers(last.placement)} in place of {whole_layers(plan.placement)}, because "
        f"{last.reason}; so it stays until you plan anew (raise auto(margin_mib=...) by what was missing, or free it)"
    )
