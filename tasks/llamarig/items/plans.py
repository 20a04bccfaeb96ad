"""Plans of models with ``auto()``: made if missing, refused if out of date. Measurements of declared placements."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from pyinfra import logger
from pyinfra.api.host import Host
from pyinfra.api.state import State

from llamarig.declare.model import Model
from llamarig.declare.placement import Fit
from llamarig.declare.rig import Rig
from llamarig.engine.comparison_inputs import read_seen
from llamarig.engine.control_machine import ControlMachine
from llamarig.engine.item import Commands, Difference, Item, Query, Seen, Severity, query
from llamarig.engine.refuse import report
from llamarig.engine.screen import say
from llamarig.facts.gpus import Gpus
from llamarig.facts.plannable_devices import HeldByServers
from llamarig.items.box_reservation import on_reserved_box
from llamarig.items.model_lock import LockedModels
from llamarig.items.placements import (
    PlanError,
    as_measured,
    can_be_measured,
    current_inputs,
    measured_models,
    planned_models,
    replan,
    valid_measurement,
)
from llamarig.items.plan_maker import (
    Prerequisites,
    check_release,
    measured,
    planned,
    prerequisite_queries,
    prerequisites,
)
from llamarig.items.plan_speed import predicted_speed
from llamarig.items.releases import WholeReleases
from llamarig.items.simulated_gpus import SimulatedGpus
from llamarig.items.start_plan import proposal_line
from llamarig.placement.plan_report import plan_report
from llamarig.placement.staleness import staleness
from llamarig.records.plan_file import record_measurement, record_plan
from llamarig.records.store import RecordError

CUDA_CONTEXT_MIB = 1024
"""MiB that must be free on each GPU for a dry run beside running servers: a CUDA context takes 600 to 730 MiB (H200,
tests/gpu/RESULTS.md)."""
SMALL_CARD_MIB = 4 * CUDA_CONTEXT_MIB
"""MiB. A smaller card need not have room for a dry run: it only drives a display."""


class ReadablePlanFile(Item):
    """rig.plan_file can be read: it has plans, and the tuned settings that the owner has accepted."""

    name = "Plan file"
    check = "llama.plans"
    severity = Severity.ERROR

    def differences(self, rig: Rig, seen: Seen) -> list[Difference]:
        """One, if the file cannot be read; the owner has to mend it. No fact of the box is needed."""
        problem = seen.here.plan_problem
        if not problem:
            return []
        expected, remedy = "a readable plan file", "restore it from git"
        return [Difference(rig.plan_file, expected, problem, remedy, by_deploy=False, message=problem)]


class ValidPlans(Item):
    """Every model with auto() has a plan in rig.plan_file, made for these files, this release and these GPUs."""

    name = "Plans"
    check = "llama.plans"
    severity = Severity.ERROR
    needs = (ReadablePlanFile, LockedModels, WholeReleases, SimulatedGpus)

    def queries(self, rig: Rig, here: ControlMachine) -> Iterable[Query[Any]]:
        """Nothing where no model is placed by a plan."""
        if planned_models(rig):
            yield from prerequisite_queries(rig, here)

    def differences(self, rig: Rig, seen: Seen) -> list[Difference]:
        """A deploy makes a missing plan; only the owner may replace one that is out of date."""
        if seen.here.plan_problem:
            return []  # reported by ReadablePlanFile
        models = planned_models(rig)
        try:
            available = prerequisites(rig, seen, models) if models else {}
        except PlanError as error:
            return [Difference.refusal_of("plans", "valid plans", str(error))]
        found = []
        for model in models:
            try:
                found += self._of_model(rig, seen, model, available.get(model.name))
            except PlanError as error:
                found.append(Difference.refusal_of(f"plan of {model.name}", "a valid plan", str(error)))
        return found

    @staticmethod
    def _of_model(rig: Rig, seen: Seen, model: Model, given: Prerequisites | None) -> list[Difference]:
        """At most one difference.

        :param given: None if the model's release or lock entry is missing
        :raises PlanError: if a missing plan cannot be made, or the build refuses a declared flag
        """
        plan, what = seen.here.plans.get(model.name), f"plan of {model.name}"
        if plan is None:
            if given is not None:
                check_release(rig, model, given.release)
            return [Difference(what, f"a plan in {rig.plan_file}", "not made yet")]
        if given is None or not (
            changes := staleness(plan, current_inputs(rig, seen, model, given.release, given.locked))
        ):
            return []
        why = "; ".join(changes)
        message = f"model {model.name!r}: {why}; {replan(model)}; no unit was changed"
        expected = "a plan for this box as it is"
        return [Difference(what, expected, why, replan(model), by_deploy=False, message=message)]

    def notes(self, rig: Rig, seen: Seen) -> Iterable[str]:
        """Plans that are served with a step down."""
        for model in planned_models(rig):
            plan = seen.here.plans.get(model.name)
            if plan is not None and (proposal := proposal_line(plan)) is not None:
                yield f"{model.name}: {proposal}"

    def fix(self, rig: Rig, seen: Seen, differences: list[Difference]) -> Commands:
        """Make the missing plans by dry runs."""
        missing = [model for model in planned_models(rig) if model.name not in seen.here.plans]
        yield from on_reserved_box(seen.here.takeover, _plan_missing, rig, missing)


class Measurements(Item):
    """Every declared placement that may leave weights in RAM has a recorded dry run, which decides on pinning them."""

    name = "Memory of declared placements"
    needs = (ReadablePlanFile, LockedModels, WholeReleases, SimulatedGpus)

    def queries(self, rig: Rig, here: ControlMachine) -> Iterable[Query[Any]]:
        """Nothing where no declared placement is measured."""
        if measured_models(rig):
            yield from prerequisite_queries(rig, here)
            if not rig.simulated_gpus:
                yield query(Gpus)
                yield query(HeldByServers)

    def differences(self, rig: Rig, seen: Seen) -> list[Difference]:
        """One for each model that has no valid measurement and can be measured now."""
        if seen.here.plan_problem or seen.here.lock_problem:
            return []  # reported by ReadablePlanFile and LockedModels
        return [
            Difference(f"memory of {model.name}", f"a measurement in {rig.plan_file}", "not measured yet")
            for model in self._unmeasured(rig, seen)
        ]

    def fix(self, rig: Rig, seen: Seen, differences: list[Difference]) -> Commands:
        """Perform the dry runs."""
        yield from on_reserved_box(seen.here.takeover, measure, rig, self._unmeasured(rig, seen))

    @staticmethod
    def _unmeasured(rig: Rig, seen: Seen) -> list[Model]:
        models = measured_models(rig)
        available = prerequisites(rig, seen, models) if models else {}
        unmeasured = [
            model
            for model in models
            if (found := available.get(model.name)) is not None
            and can_be_measured(rig, model, found.release)
            and valid_measurement(rig, seen, model, found.release, found.locked) is None
        ]
        return measurable_now(rig, seen, unmeasured) if unmeasured else []


def measurable_now(rig: Rig, seen: Seen, models: list[Model]) -> list[Model]:
    """The models that can be measured beside what runs on the GPUs now.

    A dry run opens a CUDA context on each GPU, and the result of llama.cpp's own fit depends on the free memory.
    """
    if rig.simulated_gpus:
        return models
    # A card this small only drives a display, and one that reports no memory (0) cannot be judged.
    serving = [gpu for gpu in seen.get(Gpus).gpus if gpu.total_mib >= SMALL_CARD_MIB]
    if any(gpu.free_mib < CUDA_CONTEXT_MIB for gpu in serving):
        return []
    if not seen.get(HeldByServers).vram_mib:
        return models
    return [model for model in models if not isinstance(model.serve.placement, Fit)]


def measure(state: State, host: Host, rig: Rig, models: Sequence[Model]) -> bool:
    """Measure declared placements, and record what they take."""
    for model in models:
        try:
            seen = read_seen(prerequisite_queries, rig, fresh=True)
            found = prerequisites(rig, seen, [model]).get(model.name)
            if found is None or not can_be_measured(rig, model, found.release):
                raise PlanError(
                    f"model {model.name!r} cannot be measured: its release or lock entry is missing, or the release "
                    "lacks llama-fit-params or a declared flag; run deploy.py, which names what is missing"
                )
            result = measured(rig, as_measured(rig, model), found)
            record_measurement(rig.plan_file, host.name, model.name, result)
        except (PlanError, RecordError) as error:
            # Not fatal: the model is served with the load mode that it has now.
            say(host, str(error), fg="yellow", log_func=logger.warning)
            continue
        left = "/".join(str(mib) for mib in result.left_mib)
        shown = f"a dry run leaves {left} MiB free on the GPUs" if left else result.failed
        say(host, f"{model.name}: {shown}; commit {rig.plan_file}")
    return True


def _plan_missing(state: State, host: Host, rig: Rig, models: Sequence[Model]) -> bool:
    for model in models:
        try:
            seen = read_seen(prerequisite_queries, rig, fresh=True)
            plan = planned(rig, seen, model)
            record_plan(rig.plan_file, host.name, model.name, plan)
        except (PlanError, RecordError) as error:
            report(host, str(error))
            return False
        for line in plan_report(plan, model.name, predicted_speed(rig, seen, model, plan)):
            say(host, line)
        say(host, f"{model.name}: planned with {plan.dry_runs} dry runs; commit {rig.plan_file}")
    return True
