"""The memory of one quant on one box at several contexts: what fits, with how many layers on GPUs, or what is missing.

Sans-I/O generators, as the planner: the caller performs the dry runs. Each context is searched as ``auto()`` is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from llamarig.declare.model import Model
from llamarig.declare.placement import CpuOnly, Layers
from llamarig.placement.candidate import Candidate, Prediction
from llamarig.placement.dry_run import DryRunError, dry_run_arguments, parse_prediction, with_candidate
from llamarig.placement.fallbacks import search_as_declared
from llamarig.placement.model_layers import layer_weights
from llamarig.placement.planner import DryRuns, PlanRequest, TooManyDryRunsError
from llamarig.placement.ram_budget import RESERVE_MIB, prompt_cache_mib, ram_budget
from llamarig.placement.search import DoesNotFit
from llamarig.placement.side_by_side import Steps, one_by_one, side_by_side
from llamarig.placement.unified_memory import memory_in_ram
from llamarig.records.plan_file import DeviceMemory, RamBudget
from llamarig.remote.shared.gguf_header import Header, Value

LEAST_CONTEXT = 32768
"""Tokens, the smallest context of the table: chosen, not measured."""
_CACHE_STEP_MIB = 256
DryRunSteps = Steps[Sequence[str], str, "AtContext"]


@dataclass(frozen=True)
class AtContext:
    """A quant with one context on one box. MiB.

    ``placement``: None where not even attention, KV cache and buffers fit the GPUs; ``vram_mib``: what it takes on each
    GPU, of the closest placement where none fits; ``over_mib``: by how much that is too much; ``cache_ram_mib``: the
    prompt cache that the RAM has room for, None for llama.cpp's own size; ``problem``: why there are no numbers.
    """

    context: int
    placement: Layers | CpuOnly | None = None
    vram_mib: tuple[int, ...] = ()
    over_mib: tuple[int, ...] = ()
    ram: RamBudget | None = None
    gpu_in_ram_mib: int = 0
    cache_ram_mib: int | None = None
    problem: str = ""

    @property
    def ram_mib(self) -> int:
        """RAM that it needs, with full caches and the reserve of the system."""
        return self.ram.total_mib + self.gpu_in_ram_mib if self.ram is not None else 0

    @property
    def ram_over_mib(self) -> int:
        """By how much that is more than the box has available; 0 where that is unknown."""
        if self.ram is None or not self.ram.available_mib:
            return 0
        return max(0, self.ram_mib - self.ram.available_mib)

    @property
    def fits(self) -> bool:
        """Whether GPUs and RAM hold it."""
        return self.placement is not None and not self.ram_over_mib and not self.problem

    @property
    def whole(self) -> int:
        """Layers that are whole on GPUs."""
        return sum(self.placement.gpu) if isinstance(self.placement, Layers) else 0


@dataclass(frozen=True)
class QuantRequest:
    """One quant on one box.

    ``plan``: with the box's devices, at any context; None where the model is served by the processor alone. ``model``,
    ``flags`` and the paths of its headers as in ``PlanRequest``.
    """

    model: Model
    header: Header
    flags: frozenset[str]
    header_path: str
    short_header_path: str
    ram_available_mib: int
    plan: PlanRequest | None = None


def contexts_up_to(metadata: Mapping[str, Value], least: int = LEAST_CONTEXT) -> tuple[int, ...]:
    """The contexts of the table: from ``least`` on, doubled, up to that of the model's training, which is the last.

    Only ``least`` where the header tells no such context.
    """
    trained = metadata.get(f"{metadata.get('general.architecture')}.context_length")
    if not isinstance(trained, int) or trained <= 0:
        return (least,)
    found, context = [], least
    while context < trained:
        found.append(context)
        context *= 2
    return (*found, trained)


def at_contexts(request: QuantRequest, contexts: Sequence[int]) -> Steps[Sequence[str], str, list[AtContext]]:
    """Measure the contexts, and leave out those between two with the same answer, which have it, too.

    What fits never grows with the context. Of a context that was left out, the memory is shown as that of the larger
    one, or where nothing fits, what is missing as that of the smaller one: each is a bound.
    """
    found: dict[int, AtContext] = {}
    wanted = sorted({contexts[0], contexts[-1]})
    while wanted:
        measured = yield from side_by_side([at_context(request, context) for context in wanted])
        found.update(zip(wanted, measured, strict=True))
        known = [context for context in contexts if context in found]
        wanted = []
        for low, high in pairwise(known):
            between = [context for context in contexts if low < context < high]
            if between and not found[low].fits:
                found |= {context: replace(found[low], context=context) for context in between}
            elif between and found[high].fits and found[low].whole == found[high].whole:
                found |= {context: replace(found[high], context=context) for context in between}
            elif between:
                wanted.append(between[len(between) // 2])
    return [found[context] for context in contexts]


def at_context(request: QuantRequest, context: int) -> DryRunSteps:
    """Measure one context."""
    steps = _on_processor(request, context) if request.plan is None else _on_gpus(request, request.plan, context)
    try:
        return (yield from steps)
    except (DryRunError, TooManyDryRunsError) as error:
        return AtContext(context, problem=str(error))


def _on_gpus(request: QuantRequest, plan: PlanRequest, context: int) -> DryRunSteps:
    serve = request.model.serve.model_copy(update={"context": context})
    weights = layer_weights(request.header)
    settings = Candidate(Layers(gpu=(0,), split=(1,)), context, serve.ubatch, serve.cache_type_k, serve.cache_type_v)
    runs, budgets = DryRuns(plan), plan.budgets
    steps = search_as_declared(weights, budgets, settings)
    try:
        candidate = next(steps)
        while True:
            candidate = steps.send((yield from one_by_one(runs.measure(candidate))))
    except StopIteration as end:
        outcome = end.value
    final, _ = yield from one_by_one(runs.verify(outcome.candidate))
    over = tuple(max(0, need - budget) for need, budget in zip(final.totals, budgets, strict=True))
    placement = None if isinstance(outcome, DoesNotFit) else outcome.candidate.placement
    in_ram = memory_in_ram(plan.inputs.devices, final.totals)
    found = AtContext(context, placement, final.totals, over if placement is None else (), gpu_in_ram_mib=in_ram)
    return _with_ram(found, request, final, plan.reserve_mib)


def _on_processor(request: QuantRequest, context: int) -> DryRunSteps:
    serve = request.model.serve
    candidate = Candidate(Layers(gpu=(0,), split=(1,)), context, serve.ubatch, serve.cache_type_k, serve.cache_type_v)
    tried = with_candidate(request.model, candidate)
    tried = tried.model_copy(update={"serve": tried.serve.model_copy(update={"placement": CpuOnly()})})
    paths = (request.header_path, request.short_header_path)
    # Without this, a release that was built for GPUs would compute prompts on one.
    outputs = yield [dry_run_arguments(tried, path, request.flags, ("none",)) for path in paths]
    whole, short = (parse_prediction(output, "llama-fit-params") for output in outputs)
    host = whole.host.model_copy(update={"compute_mib": short.host.compute_mib})
    found = AtContext(context, CpuOnly())
    return _with_ram(found, request, replace(whole, host=host), RESERVE_MIB)


def _with_ram(found: AtContext, request: QuantRequest, final: Prediction, reserve_mib: int) -> AtContext:
    """With the RAM it needs, and a smaller prompt cache where that alone is too large."""
    serve = request.model.serve
    host: DeviceMemory = final.host
    budget = ram_budget(serve, host, final.checkpoint_mib, request.ram_available_mib, reserve_mib)
    found = replace(found, ram=budget)
    if not found.ram_over_mib:
        return found
    room = prompt_cache_mib(serve) - found.ram_over_mib
    if room < 0:
        return found
    smaller = room // _CACHE_STEP_MIB * _CACHE_STEP_MIB
    return replace(found, ram=budget.model_copy(update={"cache_mib": smaller}), cache_ram_mib=smaller)
