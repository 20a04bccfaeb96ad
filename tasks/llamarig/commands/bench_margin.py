"""Measure what is left on the GPUs after two long prompts, for the margin of the next plan."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from pyinfra.api.host import Host

from llamarig.declare.model import Model
from llamarig.declare.rig import Rig
from llamarig.engine.comparison_inputs import read_here
from llamarig.engine.refuse import report
from llamarig.engine.run import ask
from llamarig.engine.screen import say
from llamarig.facts.gpus import Gpus
from llamarig.facts.measurements import RequestTimed
from llamarig.facts.plannable_devices import HeldByServers
from llamarig.facts.units import Unit
from llamarig.items.placements import replan
from llamarig.placement.measured_margins import SAFETY_MIB, CannotMeasureError, measured_margin, served_otherwise
from llamarig.records.plan_file import Plan, record_margin
from llamarig.remote.shared.jobs import Timing
from llamarig.render import layout

PROMPTS = 2
PROMPT_TOKENS = 32768
"""Of each of the two prompts, where the owner names no other number and the context is not smaller."""
_GENERATED = 16
_BESIDE = 512
"""Tokens of the context left free: for the answer, and for the second turn that is timed as well."""


@dataclass(frozen=True)
class MarginOutcome:
    """A line for the closing block, empty where there is nothing to say; ``failed``: it was asked for and not done."""

    line: str = ""
    failed: bool = False


def measure_margin(host: Host, rig: Rig, name: str, unit: Unit, tokens: int) -> MarginOutcome:
    """Measure and record the margin of one running model.

    :param tokens: of each prompt; 0 to only say where a margin could be measured
    :raises RecordError: where the plan file cannot be written
    """
    here = read_here(rig)
    plan = here.plans.get(name)
    model = next(model for model in rig.models if model.name == name)
    if plan is None:
        if tokens:
            say(host, f"{name}: its placement is declared, so there is no margin of a plan to measure")
        return MarginOutcome()
    if not tokens:
        is_known = any(one.release == plan.belongs.release for one in here.margins.get(name, ()))
        if not is_known and not rig.simulated_gpus:
            say(host, f"{name}: what it takes beyond its plan was not measured with this build: --data margin=1 does")
        return MarginOutcome()
    try:
        if rig.simulated_gpus:
            raise CannotMeasureError("its plan is for simulated GPUs: measure on a box that has them")
        if why := served_otherwise(plan, unit.arguments):
            raise CannotMeasureError(f"{why}: run deploy.py, or plan again, then measure")
        return _measured(host, rig, model, plan, unit, min(tokens, plan.context // model.serve.parallel - _BESIDE))
    except CannotMeasureError as error:
        report(host, f"{name}: its margin was not measured: {error}")
        return MarginOutcome(failed=True)


def _measured(host: Host, rig: Rig, model: Model, plan: Plan, unit: Unit, tokens: int) -> MarginOutcome:
    name = model.name
    for number in range(PROMPTS):
        say(host, f"{name}: prompt {number + 1} of {PROMPTS} with {tokens} tokens, for the margin")
        timing: Timing = ask(
            RequestTimed,
            unit=layout.unit_name(name),
            prompt_tokens=max(1, tokens),
            generated_tokens=_GENERATED,
        )
        if timing.problem:
            raise CannotMeasureError(timing.problem)
    held = ask(HeldByServers).vram_mib.get(layout.unit_name(name), {})
    found = measured_margin(
        plan,
        unit.arguments,
        ask(Gpus).gpus,
        held,
        prompt_tokens=tokens,
        date=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
    )
    record_margin(rig.plan_file, host.name, name, found)
    each = "/".join(str(mib) for mib in found.beyond_mib)
    kept = "/".join(str(mib + SAFETY_MIB) for mib in found.beyond_mib)
    before = "/".join(str(mib) for mib in plan.belongs.margins_mib)
    left = "/".join(str(mib) for mib in found.left_mib)
    say(host, f"{name}: after {PROMPTS} prompts of {tokens} tokens {left} MiB are left on the GPUs", fg="cyan")
    if min(found.left_mib) < SAFETY_MIB:
        short = f"{name}: less than {SAFETY_MIB} MiB are left: a longer prompt may run out of memory; {replan(model)}"
        say(host, short, fg="yellow")
    return MarginOutcome(
        f"{name}: took {each} MiB beyond its plan, {left} are left; the next plan keeps {kept} free in place of "
        f"{before}: commit {rig.plan_file}, then tasks/plan.py --data update={name}"
    )
