"""Lowers settings when no placement fits: in the owner's order, with the memory that each step frees by dry runs."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import replace

from llamarig.declare.kv_cache import CacheType
from llamarig.declare.placement import GiveUp
from llamarig.placement.best_assignment import best_assignment
from llamarig.placement.candidate import Candidate, Prediction
from llamarig.placement.estimate import Estimate
from llamarig.placement.model_layers import LayerWeights
from llamarig.placement.search import DoesNotFit, Found, search
from llamarig.records.plan_file import GivenUp, NextLayer

MIN_UBATCH = 512
_CONTEXT_STEPS = (0.75, 0.5)
_WIDER_THAN_Q8: tuple[CacheType, ...] = ("f32", "f16", "bf16")
_RECHECKED_LAYERS = 3
"""How many layers fewer in RAM are tried after an estimated number fitted."""


class NothingFitsError(Exception):
    """No placement fits; the message says by how much, and what each setting that could be lowered would free."""


def search_with_fallbacks(
    weights: LayerWeights, budgets: Sequence[int], settings: Candidate, give_up: Sequence[GiveUp]
) -> Generator[Candidate, Prediction, Found]:
    """Find the best placement as declared, or else with as few settings lowered as necessary.

    A model without experts can keep nothing but whole layers in RAM, so for it ``layers`` is always allowed.

    :raises NothingFitsError: if lowering all of ``give_up`` is not enough
    """
    outcome = yield from search(weights, budgets, settings)
    given_up: list[GivenUp] = []
    order = list(give_up)
    if not weights.has_experts and "layers" not in order:
        order.append("layers")
    for what in order:
        if isinstance(outcome, Found):
            break
        if what == "layers":
            found = yield from _layers_in_ram(weights, budgets, settings)
            if found is not None:
                count = found.candidate.placement.in_ram
                given_up.append(GivenUp(what=what, declared="0", planned=str(count), frees_mib=()))
                outcome = found
            continue
        declared, frees = settings, (0,) * len(budgets)
        for lower in _lowered(settings, what):
            freed = yield from _freed_mib(outcome, lower)
            frees = tuple(sum(pair) for pair in zip(frees, freed, strict=True))
            settings = lower
            outcome = yield from search(weights, budgets, settings)
            if isinstance(outcome, Found):
                break
        if settings != declared:
            given_up.append(
                GivenUp(
                    what=what,
                    declared=_setting_text(declared, what),
                    planned=_setting_text(settings, what),
                    frees_mib=frees,
                )
            )
    if isinstance(outcome, Found):
        return replace(outcome, given_up=tuple(given_up))
    raise NothingFitsError((yield from _explain_shortage(outcome, budgets, settings, order, given_up)))


def search_as_declared(
    weights: LayerWeights, budgets: Sequence[int], settings: Candidate
) -> Generator[Candidate, Prediction, Found | DoesNotFit]:
    """Find the best placement with no setting lowered, as ``search_with_fallbacks`` does without a ``give_up``."""
    outcome = yield from search(weights, budgets, settings)
    if isinstance(outcome, DoesNotFit) and not weights.has_experts:
        found = yield from _layers_in_ram(weights, budgets, settings)
        return outcome if found is None else found
    return outcome


def _lowered(settings: Candidate, what: GiveUp) -> Iterator[Candidate]:
    """Lower values of one setting, the smallest step first."""
    if what == "ubatch":
        ubatch = settings.ubatch
        while ubatch // 2 >= MIN_UBATCH:
            ubatch //= 2
            yield replace(settings, ubatch=ubatch)
    elif what == "context":
        for part in _CONTEXT_STEPS:
            yield replace(settings, context=max(256, int(settings.context * part) // 256 * 256))
    elif what == "cache_type":
        k = "q8_0" if settings.cache_type_k in _WIDER_THAN_Q8 else settings.cache_type_k
        v = "q8_0" if settings.cache_type_v in _WIDER_THAN_Q8 else settings.cache_type_v
        if (k, v) != (settings.cache_type_k, settings.cache_type_v):
            yield replace(settings, cache_type_k=k, cache_type_v=v)


def _freed_mib(outcome: DoesNotFit, lower: Candidate) -> Generator[Candidate, Prediction, tuple[int, ...]]:
    """MiB per GPU that the lower setting frees for the same placement."""
    prediction = yield replace(lower, placement=outcome.candidate.placement)
    return tuple(before - after for before, after in zip(outcome.prediction.totals, prediction.totals, strict=True))


def _setting_text(settings: Candidate, what: GiveUp) -> str:
    if what == "cache_type":
        return f"{settings.cache_type_k}/{settings.cache_type_v}"
    return str(settings.context if what == "context" else settings.ubatch)


def _layers_in_ram(
    weights: LayerWeights, budgets: Sequence[int], settings: Candidate
) -> Generator[Candidate, Prediction, Found | None]:
    """Keep as few of the first layers in RAM as necessary; None if not even the output layer fits."""
    estimate = Estimate(weights)
    first = 1
    found: Found | None = None
    while first <= weights.layers:
        outcome = yield from search(weights, budgets, settings, first, estimate)
        if isinstance(outcome, Found):
            found = outcome
            break
        candidates = (
            more
            for more in range(first + 1, weights.layers + 1)
            if best_assignment(estimate, budgets, more) is not None
        )
        following = next(candidates, None)
        if following is None:
            return None
        first = following
    # The number was estimated: a few fewer may fit as well.
    for fewer in range(first - 1, max(0, first - 1 - _RECHECKED_LAYERS), -1):
        outcome = yield from search(weights, budgets, settings, fewer, estimate)
        if isinstance(outcome, DoesNotFit):
            if found is not None:
                found = replace(found, next_layer=_missing_memory(outcome, budgets))
            break
        found = outcome
    return found


def _missing_memory(outcome: DoesNotFit, budgets: Sequence[int]) -> tuple[NextLayer, ...]:
    """The GPUs on which one layer fewer in RAM did not fit."""
    return tuple(
        NextLayer(name=row.name, needs_mib=row.total_mib, has_mib=budget, measured=True)
        for row, budget in zip(outcome.prediction.gpus, budgets, strict=True)
        if row.total_mib > budget
    )


def _explain_shortage(
    outcome: DoesNotFit,
    budgets: Sequence[int],
    settings: Candidate,
    order: Sequence[GiveUp],
    given_up: Sequence[GivenUp],
) -> Generator[Candidate, Prediction, str]:
    rows = zip(outcome.prediction.gpus, budgets, strict=True)
    over = [f"{row.name} would need {row.total_mib} of {budget} MiB" for row, budget in rows]
    lines = [f"nothing fits, even with all experts in RAM: {', '.join(over)}"]
    if given_up:
        lines.append(
            "given up already: " + ", ".join(f"{each.what} {each.declared} to {each.planned}" for each in given_up)
        )
    options = []
    for what in ("ubatch", "context", "cache_type"):
        if what in order:
            continue
        for lower in _lowered(settings, what):
            freed = yield from _freed_mib(outcome, lower)
            options.append(f"{what} {_setting_text(lower, what)} frees {'/'.join(map(str, freed))} MiB")
    if "layers" not in order:
        options.append("layers puts whole layers into RAM")
    if options:
        lines.append(f"auto(give_up=...) may name: {'; '.join(options)}")
    return "; ".join(lines)
