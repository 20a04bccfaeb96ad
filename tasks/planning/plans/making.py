"""From a model, its header and its devices to a plan: asks for dry runs one by one; who runs them is not said."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace

from tasks.planning.gguf_header import Header
from tasks.planning.pinned_weights import pinnable_mib, raised_margins
from tasks.planning.plans.candidate import Candidate, Prediction
from tasks.planning.plans.conceding import NothingFitsError, decide
from tasks.planning.plans.device import Device
from tasks.planning.plans.dry_run import (
    DryRunError,
    dry_run_arguments,
    fit_arguments,
    peer_arguments,
    prediction,
    server_outputs,
)
from tasks.planning.plans.fit_peer import fit_answer, fit_layers
from tasks.planning.plans.ram import ram_budget, ram_findings
from tasks.planning.plans.weights import weights_of
from tasks.spec.model import Model
from tasks.spec.placement import Auto, Layers
from tasks.spec.plan_file import Belongs, DeviceMemory, FitPeer, Plan

Asking = Generator[Sequence[str], str, Plan]
"""Yields the arguments of llama-fit-params, is sent what it printed."""


@dataclass(frozen=True)
class Case:
    """All that a plan is made from. ``path`` and ``short`` are on the box: the header, and the same with the vocabulary
    that makes logits as large as the server's (None where they are that already)."""

    model: Model
    flags: frozenset[str]
    header: Header
    path: str
    short: str | None
    devices: tuple[Device, ...]
    simulated: bool
    belongs: Belongs
    ram_available_mib: int
    pinned_ram_mib: int | None = None
    """MiB of RAM that the server may take with pinned weights; None where they are not pinned."""
    box_ram_mib: int = 0
    """MemTotal of the box, 0 where unknown."""

    @property
    def budgets(self) -> tuple[int, ...]:
        """MiB the model itself may take on each GPU."""
        others = self.belongs.others_mib or (0,) * len(self.devices)
        return tuple(
            device.free_mib - margin - other
            for device, margin, other in zip(self.devices, self.belongs.margins_mib, others, strict=True)
        )


MOST_DRY_RUNS = 40


class TooManyDryRunsError(Exception):
    """The search did not end; that is a mistake of ours."""


def make_plan(case: Case) -> Asking:
    """The plan of one model; with larger margins where its weights in RAM will be pinned.

    :raises NothingFitsError: with what could be given up
    :raises DryRunError: when llama-fit-params does not say what it would take
    """
    runs = _Runs(case)
    plan = yield from _planned(case, runs)
    margins = raised_margins(case.belongs.margins_mib)
    if not _to_be_pinned(plan, case) or margins == case.belongs.margins_mib:
        return plan
    wider = replace(case, belongs=case.belongs.model_copy(update={"margins_mib": margins}))
    try:
        raised = yield from _planned(wider, runs)
    except (NothingFitsError, DryRunError, TooManyDryRunsError):
        return plan
    if not _to_be_pinned(raised, case) or raised.given_up != plan.given_up:
        return plan
    before, after = ("/".join(map(str, each)) for each in (case.belongs.margins_mib, margins))
    note = f"margins are {after} MiB instead of {before}: pinned weights take more of a card than a dry run shows"
    return raised.model_copy(update={"notes": (*raised.notes, note)})


def _to_be_pinned(plan: Plan, case: Case) -> bool:
    if case.pinned_ram_mib is None or not plan.pinnable_mib:
        return False
    return plan.ram.total_mib - plan.ram.reserve_mib <= case.pinned_ram_mib


def _planned(case: Case, runs: _Runs) -> Asking:
    serve, auto = case.model.serve, case.model.serve.placement
    assert isinstance(auto, Auto)
    weights = weights_of(case.header)
    nowhere = Layers(gpu=(0,), split=(1,))
    settings = Candidate(nowhere, serve.context, serve.ubatch, serve.cache_type_k, serve.cache_type_v)
    budgets = case.budgets
    while True:
        deciding = decide(weights, budgets, settings, auto.give_up)
        try:
            candidate = next(deciding)
            while True:
                candidate = deciding.send((yield from runs.measure(candidate)))
        except StopIteration as end:
            decided = end.value
        final, as_printed = yield from runs.prove(decided.found.candidate)
        # The short header's sizes are rounded to MiB another way: one more or less is possible.
        over = [max(0, need - budget) for need, budget in zip(final.totals, case.budgets, strict=True)]
        if not any(over):
            break
        budgets = tuple(budget - more for budget, more in zip(budgets, over, strict=True))
    chosen = decided.found.candidate
    fit = yield from runs.fit(chosen, case.belongs.margins_mib)
    ram = ram_budget(serve, final.host, final.checkpoint_mib, case.ram_available_mib)
    refused, known = ram_findings(serve, ram)
    if case.simulated:
        # The RAM is of the box the dry runs are made on, perhaps of another than will serve.
        refused, known = [], [*refused, *known]
    if refused:
        raise NothingFitsError(refused[0])
    return Plan(
        belongs=case.belongs,
        placement=chosen.placement,
        context=chosen.context,
        ubatch=chosen.ubatch,
        cache_type_k=chosen.cache_type_k,
        cache_type_v=chosen.cache_type_v,
        memory=(*_with_state(final, chosen.placement), final.host),
        output_compute_mib=as_printed,
        ram=ram,
        box_ram_mib=case.box_ram_mib,
        pinnable_mib=pinnable_mib(final.host.model_mib, case.header.tensors),
        splits=final.splits,
        next_layer=decided.found.next_layer,
        given_up=decided.given_up,
        fit=fit,
        dry_runs=runs.count,
        notes=(*known, *_guesses(case)),
    )


def _guesses(case: Case) -> list[str]:
    """What of the numbers no dry run has told."""
    found = []
    if case.model.mmproj is not None and any(case.belongs.others_mib):
        found.append(
            "the vision projector is counted with its file's size and a guess for its buffers, which no dry run tells"
        )
    if case.short is None and server_outputs(case.model) < min(case.model.serve.ubatch, case.model.serve.batch):
        found.append("more logits are counted than llama-server reserves, so the output's GPU has more room than shown")
    return found


class _Runs:
    """Dry runs of one model, each counted; every candidate is run once."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.count = 0
        self._names = tuple(device.name for device in case.devices) if case.simulated else ()
        self._output_mib: int | None = None
        self._seen: dict[tuple[str, Candidate], Prediction] = {}

    def _ask(self, arguments: Sequence[str]) -> Generator[Sequence[str], str, str]:
        if self.count >= MOST_DRY_RUNS:
            raise TooManyDryRunsError(f"{self.count} dry runs came to no end")
        self.count += 1
        return (yield arguments)

    def _run(self, path: str, candidate: Candidate) -> Generator[Sequence[str], str, Prediction]:
        if (path, candidate) not in self._seen:
            case = self.case
            output = yield from self._ask(dry_run_arguments(case.model, path, case.flags, candidate, self._names))
            said = prediction(output, f"llama-fit-params with model {case.model.name!r}")
            if len(said.gpus) != len(case.devices):
                raise DryRunError(f"a dry run speaks of {len(said.gpus)} GPUs, the box lists {len(case.devices)}")
            self._seen[path, candidate] = said
        return self._seen[path, candidate]

    def measure(self, candidate: Candidate) -> Generator[Sequence[str], str, Prediction]:
        """What a server would take, to a MiB."""
        case = self.case
        if case.short is None:
            return (yield from self._run(case.path, candidate))
        short = yield from self._run(case.short, candidate)
        output = _output_gpu(candidate.placement)
        if self._output_mib is None:
            # The output's weights, which the short header has less of: a difference of two dry runs, once.
            whole = yield from self._run(case.path, candidate)
            self._output_mib = whole.gpus[output].model_mib - short.gpus[output].model_mib
        row = short.gpus[output]
        row = row.model_copy(update={"model_mib": row.model_mib + self._output_mib})
        return replace(short, gpus=(*short.gpus[:output], row, *short.gpus[output + 1 :]))

    def prove(self, candidate: Candidate) -> Generator[Sequence[str], str, tuple[Prediction, int | None]]:
        """What a server would take, from the whole header; and the output's compute as llama-fit-params prints it."""
        case = self.case
        whole = yield from self._run(case.path, candidate)
        if case.short is None:
            return whole, None
        short = yield from self._run(case.short, candidate)
        output = _output_gpu(candidate.placement)
        row = whole.gpus[output].model_copy(update={"compute_mib": short.gpus[output].compute_mib})
        gpus = (*whole.gpus[:output], row, *whole.gpus[output + 1 :])
        return replace(whole, gpus=gpus), whole.gpus[output].compute_mib

    def fit(self, candidate: Candidate, margins_mib: Sequence[int]) -> Generator[Sequence[str], str, FitPeer | None]:
        """What llama.cpp's own fit makes of the same; None where it gives up."""
        case = self.case
        others = case.belongs.others_mib or (0,) * len(case.devices)
        margins = [margin + other for margin, other in zip(margins_mib, others, strict=True)]
        arguments = fit_arguments(case.model, case.path, case.flags, candidate, margins, self._names)
        try:
            answer = fit_answer((yield from self._ask(arguments)))
            again = peer_arguments(case.model, case.path, case.flags, candidate, answer, self._names)
            said = prediction((yield from self._ask(again)), "llama-fit-params with fit's own answer")
        except DryRunError:
            return None
        layers = fit_layers(answer, weights_of(case.header), case.header.tensors, case.devices)
        return FitPeer(
            arguments=" ".join(answer),
            whole=layers.whole,
            spread=layers.spread,
            memory=(*said.gpus, said.host),
            splits=said.splits,
        )


def _with_state(final: Prediction, placement: Layers) -> list[DeviceMemory]:
    """The GPUs' memory, with what of it is recurrent state."""
    rows, start = [], placement.in_ram
    for row, count in zip(final.gpus, placement.room, strict=True):
        state = sum(final.layer_state.get(layer, 0.0) for layer in range(start, start + count))
        rows.append(row.model_copy(update={"state_mib": min(round(state), row.context_mib)}))
        start += count
    return rows


def _output_gpu(placement: Layers) -> int:
    return max(gpu for gpu, share in enumerate(placement.split) if share)
