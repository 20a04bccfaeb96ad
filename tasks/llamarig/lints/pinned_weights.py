"""Lints of pinned weights: why they are not pinned, margins and memory limits that are too small for them."""

from __future__ import annotations

from collections.abc import Iterator

from llamarig.declare.model import Model
from llamarig.declare.placement import Fit
from llamarig.declare.rig import Rig
from llamarig.declare.serve.weights import HELD_IN_RAM
from llamarig.lints.lint import Lint
from llamarig.placement.pinned_weights import (
    PINNED_MARGIN_MIB,
    LoadModeChoice,
    ServerMemory,
    copies_from_map,
    pins,
    raises_fit_margin,
    with_load_mode,
)
from llamarig.remote.shared.pinned_pages import PRICE


def pinned_lints(rig: Rig, model: Model, choice: LoadModeChoice, memory: ServerMemory | None = None) -> Iterator[Lint]:
    """Consequences of the way in which a model's weights are loaded.

    :param choice: the decision about the load mode
    :param memory: memory of the model, if a plan or a dry run has recorded it
    """
    if choice.missing:
        yield Lint("weights-not-pinned", f"weights in RAM are not pinned: {choice.missing}; {PRICE}", choice.remedy)
    served = model.model_copy(update={"serve": model.serve.model_copy(update={"load_mode": choice.mode})})
    if copies_from_map(rig, model, memory):
        yield Lint(
            "experts-mapped",
            f"load_mode {model.serve.load_mode} leaves the experts in RAM in the mapped file, {PRICE}",
            'leave load_mode out: "auto" pins them where RAM and VRAM have room, and says what lacks otherwise',
        )
    is_judged = memory is not None and bool(memory.left) and not memory.margin_is_measured
    if memory is not None and is_judged and pins(rig, served) and min(memory.left) < PINNED_MARGIN_MIB:
        left = "/".join(str(mib) for mib in memory.left)
        yield Lint(
            "pinned-margin",
            f"{left} MiB stay free on the GPUs, and pinned weights (load_mode {choice.mode}) take 40 to 98 MiB more of "
            "a card than a dry run shows: a long prompt may run out of memory",
            f"leave {PINNED_MARGIN_MIB} MiB free: fewer layers there, a smaller ubatch or context, or a new plan",
        )
    if raises_fit_margin(rig, served):
        placement, raised = model.serve.placement, with_load_mode(rig, model, choice.mode).serve.placement
        assert isinstance(placement, Fit)
        assert isinstance(raised, Fit)
        yield Lint(
            "pinned-margin",
            f"fit(target_mib={placement.target_mib}) is served as {raised.target_mib}: pinned weights take 40 to 98 "
            "MiB more of a card than llama.cpp counts, and prompts some hundred more",
            f"declare {PINNED_MARGIN_MIB} or more",
        )


def memory_max_lints(rig: Rig, model: Model, weights: int | None) -> Iterator[Lint]:
    """A declared MemoryMax that the weights alone exceed. Pinned pages are charged to the unit.

    :param weights: bytes in RAM, or a lower bound; None if unknown
    """
    serve, limit = model.serve, model.serve.memory_max_mib
    if limit is None or weights is None or serve.load_mode not in HELD_IN_RAM:
        return
    mib = weights >> 20
    if mib > limit:
        how = "pinned" if pins(rig, model) else "loaded"
        yield Lint(
            "memory-max",
            f"load_mode {serve.load_mode} has {mib} MiB of weights {how} in RAM, and memory_max_mib is {limit}: the "
            "kernel would end the server while it loads",
            f"raise memory_max_mib above {mib}, remove it, or declare load_mode mmap",
            severity="refusal",
        )
