"""Makes the plan of one model. Sans-I/O generator: the caller performs the dry runs."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace

from llamarig.declare.model import Model
from llamarig.declare.placement import Auto, Layers
from llamarig.placement.candidate import Candidate, Prediction
from llamarig.placement.dry_run import (
    DryRunError,
    dry_run_arguments,
    fit_arguments,
    parse_prediction,
    server_outputs,
    with_candidate,
)
from llamarig.placement.fallbacks import NothingFitsError, search_with_fallbacks
from llamarig.placement.llama_cpp_fit import fit_answer, fit_layers
from llamarig.placement.model_layers import layer_weights
from llamarig.placement.pinned_weights import pinnable_mib, raised_margins
from llamarig.placement.ram_budget import RESERVE_MIB, prompt_cache_mib, ram_budget, ram_shortages
from llamarig.placement.speculation_memory import has_second_context, with_speculation
from llamarig.placement.unified_memory import is_shared, memory_in_ram, system_reserve_mib
from llamarig.records.plan_file import DeviceMemory, FitResult, Plan, PlanInputs, PlannedDevice
from llamarig.remote.shared.gguf_header import Header
from llamarig.render.placement_arguments import device_of_layers

PlanningSteps = Generator[Sequence[str], str, Plan]
"""Yields arguments for llama-fit-params; the caller sends back the output."""


@dataclass(frozen=True)
class PlanRequest:
    """Everything a plan is made from.

    ``header_path`` and ``short_header_path`` are on the box: the model's header, and a copy with a shortened vocabulary
    whose logits are as large as llama-server's (None if the whole header's are already).
    """

    model: Model
    flags: frozenset[str]
    header: Header
    header_path: str
    short_header_path: str | None
    simulated: bool
    inputs: PlanInputs
    ram_available_mib: int
    pinned_ram_mib: int | None = None
    """RAM the server may take with pinned weights, in MiB; None if they will not be pinned."""
    box_ram_mib: int = 0
    """MemTotal of the box, 0 if unknown."""

    @property
    def others_mib(self) -> tuple[int, ...]:
        """MiB per GPU for the vision projector and the draft model."""
        return self.inputs.others_mib or (0,) * len(self.inputs.devices)

    @property
    def budgets(self) -> tuple[int, ...]:
        """MiB per GPU for the model itself: free memory less the margin, the projector and the draft model.

        Of a GPU that shares the RAM, what the prompt cache and the system leave of it.
        """
        each = zip(self.inputs.devices, self.inputs.margins_mib, self.others_mib, strict=True)
        return tuple(max(0, self._free(device) - margin - other) for device, margin, other in each)

    def _free(self, device: PlannedDevice) -> int:
        if self.simulated or not self.ram_available_mib or not is_shared(device):
            return device.free_mib
        room = self.ram_available_mib - self.reserve_mib - prompt_cache_mib(self.model.serve) + device.set_aside_mib
        return min(device.free_mib, room)

    @property
    def reserve_mib(self) -> int:
        """MiB of RAM that stay free for the system."""
        shared = any(is_shared(device) for device in self.inputs.devices)
        return system_reserve_mib(self.box_ram_mib, RESERVE_MIB) if shared else RESERVE_MIB

    @property
    def simulated_names(self) -> tuple[str, ...]:
        """Names of the simulated devices; empty for the box's own GPUs."""
        return tuple(device.name for device in self.inputs.devices) if self.simulated else ()

    def prediction(self, output: str) -> Prediction:
        """Parse the output of a dry run of the model, and add what speculation takes.

        :raises DryRunError: if it failed, or used other devices
        """
        found = parse_prediction(output, f"llama-fit-params with model {self.model.name!r}")
        if len(found.gpus) != len(self.inputs.devices):
            raise DryRunError(f"a dry run names {len(found.gpus)} GPUs, the box lists {len(self.inputs.devices)}")
        return with_speculation(found, self.model, self.header)


MOST_DRY_RUNS = 40


class TooManyDryRunsError(Exception):
    """The search did not end, which is a bug in llamarig."""


def make_plan(request: PlanRequest) -> PlanningSteps:
    """Plan one model, with larger margins if its weights in RAM will be pinned.

    :raises NothingFitsError: if nothing fits; lists what could be given up
    :raises DryRunError: if llama-fit-params does not print a prediction
    """
    runs = DryRuns(request)
    plan = yield from _plan_with_margins(request, runs)
    margins = raised_margins(request.inputs.margins_mib)
    if not _will_be_pinned(plan, request) or margins == request.inputs.margins_mib:
        return plan
    with_wider_margins = replace(request, inputs=request.inputs.model_copy(update={"margins_mib": margins}))
    try:
        wider_plan = yield from _plan_with_margins(with_wider_margins, runs)
    except (NothingFitsError, DryRunError, TooManyDryRunsError):
        return plan
    if not _will_be_pinned(wider_plan, request) or wider_plan.given_up != plan.given_up:
        return plan
    before, after = ("/".join(map(str, each)) for each in (request.inputs.margins_mib, margins))
    note = f"margins are {after} MiB instead of {before}: pinned weights take more of a card than a dry run shows"
    return wider_plan.model_copy(update={"notes": (*wider_plan.notes, note)})


def _will_be_pinned(plan: Plan, request: PlanRequest) -> bool:
    if request.pinned_ram_mib is None or not plan.pinnable_mib:
        return False
    return plan.ram.total_mib - plan.ram.reserve_mib <= request.pinned_ram_mib


def _plan_with_margins(request: PlanRequest, runs: DryRuns) -> PlanningSteps:
    serve, auto = request.model.serve, request.model.serve.placement
    assert isinstance(auto, Auto)
    weights = layer_weights(request.header, mtp=serve.loads_mtp)
    any_placement = Layers(gpu=(0,), split=(1,))
    settings = Candidate(any_placement, serve.context, serve.ubatch, serve.cache_type_k, serve.cache_type_v)
    budgets = request.budgets
    while True:
        steps = search_with_fallbacks(weights, budgets, settings, auto.give_up)
        try:
            candidate = next(steps)
            while True:
                candidate = steps.send((yield from runs.measure(candidate)))
        except StopIteration as end:
            found = end.value
        final, printed_output_mib = yield from runs.verify(found.candidate)
        # Sizes from the short header are rounded differently, so the total may be off by one MiB.
        over = [max(0, need - budget) for need, budget in zip(final.totals, request.budgets, strict=True)]
        if not any(over):
            break
        budgets = tuple(budget - more for budget, more in zip(budgets, over, strict=True))
    chosen = found.candidate
    speculation = final.speculation_mib or (0,) * len(final.gpus)
    margins = [sum(pair) for pair in zip(request.inputs.margins_mib, speculation, strict=True)]
    fit = yield from runs.fit(chosen, margins)
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
    return Plan(
        belongs=request.inputs,
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
    )


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


class DryRuns:
    """Counts the dry runs of one model and makes each one only once."""

    def __init__(self, request: PlanRequest) -> None:
        self.request = request
        self.count = 0
        self._output_mib: int | None = None
        self._results: dict[tuple[str, Candidate], Prediction] = {}

    def _dry_run(self, arguments: Sequence[str]) -> Generator[Sequence[str], str, str]:
        if self.count >= MOST_DRY_RUNS:
            raise TooManyDryRunsError(f"no plan after {self.count} dry runs: please report this as a bug")
        self.count += 1
        return (yield arguments)

    def _run(self, path: str, candidate: Candidate) -> Generator[Sequence[str], str, Prediction]:
        if (path, candidate) not in self._results:
            request = self.request
            tried = with_candidate(request.model, candidate)
            output = yield from self._dry_run(dry_run_arguments(tried, path, request.flags, request.simulated_names))
            result = request.prediction(output)
            self._results[path, candidate] = result
        return self._results[path, candidate]

    def measure(self, candidate: Candidate) -> Generator[Sequence[str], str, Prediction]:
        """Memory of a candidate, accurate to one MiB on the GPUs; in RAM a short header has a smaller embedding."""
        request = self.request
        if request.short_header_path is None:
            return (yield from self._run(request.header_path, candidate))
        short = yield from self._run(request.short_header_path, candidate)
        output = _output_gpu(candidate.placement)
        if self._output_mib is None:
            # The short header has a smaller output tensor. Two dry runs, made once, give the size it lacks.
            whole = yield from self._run(request.header_path, candidate)
            self._output_mib = whole.gpus[output].model_mib - short.gpus[output].model_mib
        row = short.gpus[output]
        row = row.model_copy(update={"model_mib": row.model_mib + self._output_mib})
        return replace(short, gpus=(*short.gpus[:output], row, *short.gpus[output + 1 :]))

    def verify(self, candidate: Candidate) -> Generator[Sequence[str], str, tuple[Prediction, int | None]]:
        """Measure with the whole header; also return the output's compute buffers as llama-fit-params prints them."""
        request = self.request
        whole = yield from self._run(request.header_path, candidate)
        if request.short_header_path is None:
            return whole, None
        short = yield from self._run(request.short_header_path, candidate)
        printed = whole.gpus[_output_gpu(candidate.placement)].compute_mib
        return whole.with_compute_of(short), printed

    def fit(self, candidate: Candidate, margins_mib: Sequence[int]) -> Generator[Sequence[str], str, FitResult | None]:
        """What llama.cpp's own fit finds for the same margins; None if it gives up."""
        request = self.request
        margins = [margin + other for margin, other in zip(margins_mib, request.others_mib, strict=True)]
        model, path, flags = with_candidate(request.model, candidate), request.header_path, request.flags
        names = request.simulated_names
        try:
            answer = fit_answer((yield from self._dry_run(fit_arguments(model, path, flags, margins, names))))
            measurement = dry_run_arguments(model, path, flags, names, placement=[*answer, "--fit", "off"])
            result = parse_prediction((yield from self._dry_run(measurement)), "llama-fit-params with fit's own answer")
        except DryRunError:
            return None
        header, devices = request.header, request.inputs.devices
        whole, spread = fit_layers(answer, layer_weights(header), header.tensors, devices)
        return FitResult(
            arguments=" ".join(answer),
            whole=whole,
            spread=spread,
            memory=(*result.gpus, result.host),
            splits=result.splits,
        )


def _with_state(final: Prediction, placement: Layers) -> list[DeviceMemory]:
    """Memory of the GPUs, with the part that is recurrent state filled in."""
    rows, start = [], placement.in_ram
    for row, count in zip(final.gpus, placement.room, strict=True):
        state = sum(final.layer_state.get(layer, 0.0) for layer in range(start, start + count))
        rows.append(row.model_copy(update={"state_mib": min(round(state), row.context_mib)}))
        start += count
    return rows


def _output_gpu(placement: Layers) -> int:
    return max(gpu for gpu, share in enumerate(placement.split) if share)
