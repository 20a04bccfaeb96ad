"""What to give up when nothing fits: in the owner's order, each with its price, measured."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, replace

from tasks.planning.plans.candidate import Candidate, Prediction
from tasks.planning.plans.estimate import Estimate
from tasks.planning.plans.fill import fill
from tasks.planning.plans.search import Found, TooMuch, search
from tasks.planning.plans.weights import Weights
from tasks.spec.kv_cache import CacheType
from tasks.spec.placement import GiveUp
from tasks.spec.plan_file import GivenUp, NextLayer

LEAST_UBATCH = 512
_CONTEXT_STEPS = (0.75, 0.5)
_WIDER: tuple[CacheType, ...] = ("f32", "f16", "bf16")
_PROVING = 3
"""Layers fewer in RAM that are tried after a guess fitted."""


class NothingFitsError(Exception):
    """No placement fits; the message says by how much, and what each thing that could be given up would free."""


@dataclass(frozen=True)
class Decided:
    """What was found, and what was given up for it."""

    found: Found
    given_up: tuple[GivenUp, ...] = ()


Deciding = Generator[Candidate, Prediction, Decided]


def decide(weights: Weights, budgets: Sequence[int], settings: Candidate, give_up: Sequence[GiveUp]) -> Deciding:
    """The best placement as declared; where none fits, with as little given up as that takes.

    A model without experts has nothing else to leave in RAM than layers, so it may do that unasked.

    :raises NothingFitsError: when all of ``give_up`` is not enough
    """
    outcome = yield from search(weights, budgets, settings)
    given: list[GivenUp] = []
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
                given.append(GivenUp(what=what, declared="0", planned=str(count), frees_mib=()))
                outcome = found
            continue
        declared, frees = settings, (0,) * len(budgets)
        for lower in _lowered(settings, what):
            price = yield from _price(outcome, lower)
            frees = tuple(sum(pair) for pair in zip(frees, price, strict=True))
            settings = lower
            outcome = yield from search(weights, budgets, settings)
            if isinstance(outcome, Found):
                break
        if settings != declared:
            given.append(
                GivenUp(what=what, declared=_said(declared, what), planned=_said(settings, what), frees_mib=frees)
            )
    if isinstance(outcome, Found):
        return Decided(outcome, tuple(given))
    raise NothingFitsError((yield from _too_much(outcome, budgets, settings, order, given)))


def _lowered(settings: Candidate, what: GiveUp) -> Iterator[Candidate]:
    """Each step down, the first one the smallest."""
    if what == "ubatch":
        ubatch = settings.ubatch
        while ubatch // 2 >= LEAST_UBATCH:
            ubatch //= 2
            yield replace(settings, ubatch=ubatch)
    elif what == "context":
        for part in _CONTEXT_STEPS:
            yield replace(settings, context=max(256, int(settings.context * part) // 256 * 256))
    elif what == "cache_type":
        k = "q8_0" if settings.cache_type_k in _WIDER else settings.cache_type_k
        v = "q8_0" if settings.cache_type_v in _WIDER else settings.cache_type_v
        if (k, v) != (settings.cache_type_k, settings.cache_type_v):
            yield replace(settings, cache_type_k=k, cache_type_v=v)


def _price(outcome: TooMuch, lower: Candidate) -> Generator[Candidate, Prediction, tuple[int, ...]]:
    """MiB that the same placement takes less on each GPU."""
    prediction = yield replace(lower, placement=outcome.candidate.placement)
    return tuple(before - after for before, after in zip(outcome.prediction.totals, prediction.totals, strict=True))


def _said(settings: Candidate, what: GiveUp) -> str:
    if what == "cache_type":
        return f"{settings.cache_type_k}/{settings.cache_type_v}"
    return str(settings.context if what == "context" else settings.ubatch)


def _layers_in_ram(
    weights: Weights, budgets: Sequence[int], settings: Candidate
) -> Generator[Candidate, Prediction, Found | None]:
    """As few of the first layers wholly in RAM as that takes; None where not even the output layer fits."""
    estimate = Estimate(weights)
    first = 1
    found: Found | None = None
    while first <= weights.layers:
        outcome = yield from search(weights, budgets, settings, first, estimate)
        if isinstance(outcome, Found):
            found = outcome
            break
        guesses = (more for more in range(first + 1, weights.layers + 1) if fill(estimate, budgets, more) is not None)
        following = next(guesses, None)
        if following is None:
            return None
        first = following
    for fewer in range(first - 1, max(0, first - 1 - _PROVING), -1):
        outcome = yield from search(weights, budgets, settings, fewer, estimate)
        if isinstance(outcome, TooMuch):
            if found is not None:
                found = replace(found, next_layer=_too_large(outcome, budgets))
            break
        found = outcome
    return found


def _too_large(outcome: TooMuch, budgets: Sequence[int]) -> tuple[NextLayer, ...]:
    """The GPUs on which one layer fewer in RAM did not fit."""
    return tuple(
        NextLayer(name=row.name, needs_mib=row.total_mib, has_mib=budget, measured=True)
        for row, budget in zip(outcome.prediction.gpus, budgets, strict=True)
        if row.total_mib > budget
    )


def _too_much(
    outcome: TooMuch, budgets: Sequence[int], settings: Candidate, order: Sequence[GiveUp], given: Sequence[GivenUp]
) -> Generator[Candidate, Prediction, str]:
    rows = zip(outcome.prediction.gpus, budgets, strict=True)
    over = [f"{row.name} would need {row.total_mib} of {budget} MiB" for row, budget in rows]
    lines = [f"nothing fits, even with all experts in RAM: {', '.join(over)}"]
    if given:
        lines.append(
            "given up already: " + ", ".join(f"{each.what} {each.declared} to {each.planned}" for each in given)
        )
    prices = []
    for what in ("ubatch", "context", "cache_type"):
        if what in order:
            continue
        for lower in _lowered(settings, what):
            price = yield from _price(outcome, lower)
            prices.append(f"{what} {_said(lower, what)} frees {'/'.join(map(str, price))} MiB")
    if "layers" not in order:
        prices.append("layers puts whole layers into RAM")
    if prices:
        lines.append(f"auto(give_up=...) may name: {'; '.join(prices)}")
    return "; ".join(lines)
