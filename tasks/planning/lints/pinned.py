"""Lints of pinned weights: why they are not pinned, and a margin that is too small for them."""

from __future__ import annotations

from collections.abc import Iterator

from tasks.planning.lints.lint import Lint
from tasks.planning.pinned_pages import PRICE
from tasks.planning.pinned_weights import PINNED_MARGIN_MIB, Choice, ServerMemory, pins, raises_fit, with_load_mode
from tasks.spec.model import Model
from tasks.spec.placement import Fit
from tasks.spec.rig import Rig


def pinned_lints(rig: Rig, model: Model, choice: Choice, memory: ServerMemory | None = None) -> Iterator[Lint]:
    """What follows from how a model's weights in RAM are loaded.

    :param choice: how they are
    :param memory: what the model takes, where a plan or a dry run says it
    """
    if choice.lacks:
        yield Lint(
            "weights-not-pinned", "warning", f"weights in RAM are not pinned: {choice.lacks}; {PRICE}", choice.remedy
        )
    served = model.model_copy(update={"serve": model.serve.model_copy(update={"load_mode": choice.mode})})
    if pins(rig, served) and memory is not None and memory.left and min(memory.left) < PINNED_MARGIN_MIB:
        left = "/".join(str(mib) for mib in memory.left)
        yield Lint(
            "pinned-margin",
            "warning",
            f"{left} MiB stay free on the GPUs, and pinned weights (load_mode {choice.mode}) take 40 to 98 MiB more of "
            "a card than a dry run shows: a long prompt may run out of memory",
            f"leave {PINNED_MARGIN_MIB} MiB free: fewer layers there, a smaller ubatch or context, or a new plan",
        )
    if raises_fit(rig, served):
        placement, raised = model.serve.placement, with_load_mode(rig, model, choice.mode).serve.placement
        assert isinstance(placement, Fit)
        assert isinstance(raised, Fit)
        yield Lint(
            "pinned-margin",
            "warning",
            f"fit(target_mib={placement.target_mib}) is served as {raised.target_mib}: pinned weights take 40 to 98 "
            "MiB more of a card than llama.cpp counts, and prompts some hundred more",
            f"declare {PINNED_MARGIN_MIB} or more",
        )


def memory_max_lints(rig: Rig, model: Model, weights: int | None) -> Iterator[Lint]:
    """A declared MemoryMax that the weights alone exceed. Pinned pages are charged to the unit.

    :param weights: bytes in RAM, at least; None where that is not known
    """
    serve, limit = model.serve, model.serve.memory_max_mib
    if limit is None or weights is None or serve.load_mode not in ("none", "mlock", "mmap+mlock"):
        return
    mib = weights >> 20
    if mib > limit:
        how = "pinned" if pins(rig, model) else "loaded"
        yield Lint(
            "memory-max",
            "refusal",
            f"load_mode {serve.load_mode} has {mib} MiB of weights {how} in RAM, and memory_max_mib is {limit}: the "
            "kernel would end the server while it loads",
            f"raise memory_max_mib beyond {mib}, leave it out, or take load_mode mmap",
        )
