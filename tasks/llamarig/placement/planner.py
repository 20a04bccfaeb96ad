"""Makes the plan of one model. Sans-I/O generator: the caller performs the dry runs."""

from __future__ import annotations

from llamarig.declare.placement import Auto, Layers
from llamarig.placement.best_assignment import best_assignment
from llamarig.placement.candidate import Candidate, Prediction
from llamarig.placement.dry_run import (
    DryRunError,
    server_outputs,
)
from llamarig.placement.fallbacks import NothingFitsError, search_with_fallbacks
from llamarig.placement.measured_margins import Margins, margins_of
from llamarig.placement.model_layers import layer_weights
from llamarig.placement.pinned_weights import pinnable_mib
from llamarig.placement.plan_request import PlanRequest
from llamarig.placement.plan_runs import DryRuns, DryRunSteps, TooManyDryRunsError
from llamarig.placement.planned_loading import Pinning, loading, mapped_for_lack_of_vram
from llamarig.placement.ram_budget import prompt_cache_mib, ram_budget, ram_shortages
from llamarig.placement.search import Found
from llamarig.placement.speculation_memory import has_second_context
from llamarig.placement.unified_memory import memory_in_ram
from llamarig.records.plan_file import (
    DeviceMemory,
    MarginGain,
    Plan,
)
from llamarig.render.placement_arguments import device_of_layers


def make_plan(request: PlanRequest) -> DryRunSteps[Plan]:
    """Plan one model, with larger margins if its weights in RAM will be pinned.

    Mostly they will, so the larger margins are tried first: a second search would double the dry runs.

    :raises NothingFitsError: if nothing fits; lists what could be given up
    :raises DryRunError: if llama-fit-params does not print a prediction
    """
    runs, pinning = DryRuns(request), request.pinning
    mapped, pinned = (
        margins_of(request.inputs, request.measured, pinned=each, raised=pinning.raises_margins)
        for each in (False, True)
    )
    if pinning.ram_mib is None:
        plan, _ = yield from _plan_with_margins(request, runs, mapped)
        return _loaded(plan, pinning)
    first: Plan | None = None
    try:
        if pinned.mib != mapped.mib and _is_too_large(request, pinned):
            raise NothingFitsError  # the search with the margins of pinned weights would be for nothing
        first, found = yield from _plan_with_margins(request, runs, pinned)
        if pinned.mib == mapped.mib or (_may_be_pinned(first, pinning) and not _all_fits(found, request, mapped)):
            return _loaded(first, pinning)
    except (NothingFitsError, DryRunError, TooManyDryRunsError):
        if pinned.mib == mapped.mib:
            raise
    plan, _ = yield from _plan_with_margins(request, runs, mapped)
    if pinning.declared != "auto" or not plan.pinnable_mib:
        chosen = first if first is not None and _is_as_good(first, plan, pinning) else plan
        return _loaded(chosen, pinning).model_copy(update={"dry_runs": runs.count})
    # What pinned weights lack is counted with the margins that they need, and so with more experts in RAM.
    as_pinned = loading(plan if first is None else first, pinning)
    if as_pinned.ram_lacks_mib:
        return plan.model_copy(update={"loading": as_pinned})
    if first is not None and _is_as_good(first, plan, pinning):
        return _loaded(first, pinning).model_copy(update={"dry_runs": runs.count})
    return plan.model_copy(update={"loading": mapped_for_lack_of_vram(plan, pinned.mib)})


def _is_too_large(request: PlanRequest, margins: Margins) -> bool:
    """Whether even with full GPUs more weights stay in RAM than may be pinned there."""
    weights = sum(tensor.size for tensor in request.header.tensors) >> 20
    left = weights - sum(request.budgets(margins.mib)) + prompt_cache_mib(request.model.serve)
    return request.pinning.ram_mib is not None and left > request.pinning.ram_mib


def _is_as_good(first: Plan, plan: Plan, pinning: Pinning) -> bool:
    """Whether a plan with the margins of pinned weights gives up nothing more, and leaves something to pin."""
    return bool(plan.pinnable_mib) and _will_be_pinned(first, pinning) and first.given_up == plan.given_up


def _loaded(plan: Plan, pinning: Pinning) -> Plan:
    """The plan with the way in which its weights in RAM are loaded."""
    return plan.model_copy(update={"loading": loading(plan, pinning)})


def _will_be_pinned(plan: Plan, pinning: Pinning) -> bool:
    return bool(plan.pinnable_mib) and (pinning.declared != "auto" or loading(plan, pinning).mode == "none")


def _may_be_pinned(plan: Plan, pinning: Pinning) -> bool:
    """Whether a plan with the margins of pinned weights is certainly the one that is wanted."""
    return not plan.given_up and _will_be_pinned(plan, pinning)


def _all_fits(found: Found, request: PlanRequest, margins: Margins) -> bool:
    """Whether with these margins every layer would be on a GPU, so that nothing were left to pin."""
    if found.estimate is None:
        return False
    best = best_assignment(found.estimate, request.budgets(margins.mib))
    return best is not None and best.is_everything


def _plan_with_margins(request: PlanRequest, runs: DryRuns, margins: Margins) -> DryRunSteps[tuple[Plan, Found]]:
    serve, auto = request.model.serve, request.model.serve.placement
    assert isinstance(auto, Auto)
    weights = layer_weights(request.header, mtp=serve.loads_mtp)
    any_placement = Layers(gpu=(0,), split=(1,))
    settings = Candidate(any_placement, serve.context, serve.ubatch, serve.cache_type_k, serve.cache_type_v)
    budgets = allowed = request.budgets(margins.mib)
    while True:
        steps = search_with_fallbacks(weights, budgets, settings, auto.give_up)
        try:
            candidates = next(steps)
            while True:
                candidates = steps.send((yield from runs.measure(candidates)))
        except StopIteration as end:
            found: Found = end.value
        chosen = found.candidate
        speculation = found.prediction.speculation_mib or (0,) * len(margins.mib)
        answer = yield from runs.fit(chosen, [sum(pair) for pair in zip(margins.mib, speculation, strict=True)])
        final, printed_output_mib = yield from runs.verify(chosen, answer)
        # Sizes from the short header are rounded differently, so the total may be off by one MiB.
        over = [max(0, need - budget) for need, budget in zip(final.totals, allowed, strict=True)]
        if not any(over):
            break
        budgets = tuple(budget - more for budget, more in zip(budgets, over, strict=True))
    fit = yield from runs.fit_result(chosen, answer)
    ram = ram_budget(serve, final.host, final.checkpoint_mib, request.ram_available_mib, request.reserve_mib)
    used = (total + other for total, other in zip(final.totals, request.others_mib, strict=True))
    in_ram = memory_in_ram(request.inputs.devices, used)
    refusals, notes = ram_shortages(serve, ram, in_ram)
    if in_ram:
        notes.append(
            f"the GPU's memory is the RAM of the box: {in_ram} MiB of it beside the {ram.total_mib} of the server and "
            f"the system, of {ram.available_mib or 'an unknown number of'} MiB available"
        )
    if request.simulated:
        # The available RAM is that of the box that makes the dry runs, which need not be the box that will serve.
        refusals, notes = [], [*refusals, *notes]
    if refusals:
        raise NothingFitsError(refusals[0])
    if margins.measured is None and margins.mib != request.inputs.margins_mib:
        before, after = ("/".join(map(str, each)) for each in (request.inputs.margins_mib, margins.mib))
        notes.append(f"margins are {after} MiB instead of {before}: pinned weights take more than a dry run shows")
    plan = Plan(
        belongs=request.inputs.model_copy(update={"margins_mib": margins.mib}),
        placement=chosen.placement,
        context=chosen.context,
        ubatch=chosen.ubatch,
        cache_type_k=chosen.cache_type_k,
        cache_type_v=chosen.cache_type_v,
        memory=(*_with_state(final, chosen.placement), final.host),
        output_compute_mib=printed_output_mib,
        ram=ram,
        box_ram_mib=request.box_ram_mib,
        pinnable_mib=pinnable_mib(final.host.model_mib, request.header.tensors),
        splits=final.splits,
        next_layer=found.next_layer,
        given_up=found.given_up,
        fit=fit,
        dry_runs=runs.count,
        notes=(*notes, *_estimate_notes(request), *_misplaced(request, chosen.placement, final)),
        margin=_gain(request, found, margins),
    )
    return plan, found


def _gain(request: PlanRequest, found: Found, margins: Margins) -> MarginGain | None:
    """How many layers there would be without the measured margins."""
    if margins.measured is None:
        return None
    placement, estimate = found.candidate.placement, found.estimate
    budgets = request.budgets(margins.default_mib)
    best = best_assignment(estimate, budgets, placement.in_ram) if estimate is not None else None
    whole = sum(best.whole) if best is not None else 0
    return MarginGain(measured=margins.measured, instead_mib=margins.default_mib, whole_instead=whole)


def _misplaced(request: PlanRequest, placement: Layers, final: Prediction) -> list[str]:
    """A note where llama.cpp's log has a layer on another device than the plan counts it on."""
    counted = device_of_layers(placement, [device.name for device in request.inputs.devices])
    if not final.layer_devices or final.layer_devices == counted:
        return []
    layer = min(each for each in {*counted, *final.layer_devices} if counted.get(each) != final.layer_devices.get(each))
    return [
        f"llama.cpp puts layer {layer} on {final.layer_devices.get(layer, 'no device')}, this plan counts it on "
        f"{counted.get(layer, 'no device')}: the memory is as measured, the layers named above are not; please report "
        "it with the model's name"
    ]


def _estimate_notes(request: PlanRequest) -> list[str]:
    """Notes on the numbers that are estimates, because no dry run measures them."""
    found = []
    if request.model.mmproj is not None and any(request.inputs.others_mib):
        found.append(
            "the vision projector is counted as its file's size and an estimate of its buffers: no dry run measures it"
        )
    if has_second_context(request.model, request.header):
        found.append(
            "multi-token prediction is counted with its weights, and with an estimate of its cache and of its compute "
            "buffers, as large as the model's own: no dry run measures it"
        )
    if request.short_header_path is None and server_outputs(request.model) < min(
        request.model.serve.ubatch, request.model.serve.batch
    ):
        found.append("more logits are counted than llama-server reserves, so the output's GPU has more room than shown")
    return found


def _with_state(final: Prediction, placement: Layers) -> list[DeviceMemory]:
    """Memory of the GPUs, with the part that is recurrent state filled in."""
    rows, start = [], placement.in_ram
    for row, count in zip(final.gpus, placement.room, strict=True):
        state = sum(final.layer_state.get(layer, 0.0) for layer in range(start, start + count))
        rows.append(row.model_copy(update={"state_mib": min(round(state), row.context_mib)}))
        start += count
    return rows
