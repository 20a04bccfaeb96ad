"""Which quant of a model, and which context, for one box: the rule in words, and the rows that it chooses from."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from llamarig.declare.placement import Layers
from llamarig.placement.model_layers import layer_counts
from llamarig.placement.quant_memory import AtContext
from llamarig.remote.shared.gguf_header import Header

LEAST_BITS = 4.0
MOST_BITS = 9.0
"""Bits a weight between which quants are preferred; Q8_0 has 8.5. Chosen, not measured: how good a quant is, its makers
and owners measure, and they differ (group_data/README.md)."""
_KEPT_LAYERS = 0.9
RULE = (
    f"the largest quant with every layer whole on the GPUs, if it has {LEAST_BITS:g} bits a weight or more; else the "
    f"largest up to {MOST_BITS:g} bits that GPUs and RAM hold together (without experts: that with most layers on the "
    "GPUs); of it the largest context that costs at most a tenth of the whole layers"
)
RULE_WITHOUT_GPU = (
    f"the largest quant from {LEAST_BITS:g} to {MOST_BITS:g} bits a weight that the RAM holds with full caches, and "
    "the largest context of it"
)


@dataclass(frozen=True)
class QuantShape:
    """What a header tells of a quant. ``bits``: a weight, over the whole file."""

    layers: int
    has_experts: bool
    bits: float

    @classmethod
    def of(cls, header: Header, size: int) -> QuantShape:
        """The shape of a quant of that many bytes."""
        weights = sum(math.prod(tensor.shape) for tensor in header.tensors)
        experts = any("_exps." in tensor.name for tensor in header.tensors)
        trunk = layer_counts(header.tensors, header.metadata).trunk
        return cls(trunk, experts, 8 * size / weights if weights else 0.0)


@dataclass(frozen=True)
class QuantRow:
    """One quant on one box. ``size``: bytes. ``at``: its contexts, the smallest first; none where ``problem`` says why.

    ``speed``: tokens/s in words, empty where nothing tells; ``download_s``: None where its files are on the box.
    """

    label: str
    size: int
    shape: QuantShape | None = None
    at: tuple[AtContext, ...] = ()
    speed: str = ""
    download_s: float | None = None
    problem: str = ""

    @property
    def fits(self) -> bool:
        """Whether it fits with the smallest context."""
        return bool(self.at) and self.at[0].fits

    def is_whole(self, at: AtContext) -> bool:
        """Whether every layer is on a GPU with all of its weights."""
        return at.fits and isinstance(at.placement, Layers) and self.shape is not None and at.whole == self.shape.layers

    @property
    def best(self) -> AtContext | None:
        """The context to serve it with: where every layer can be whole, the largest with that; else the largest that
        costs at most a tenth of the whole layers."""
        if not self.fits:
            return None
        wholly = [at for at in self.at if self.is_whole(at)]
        least = math.ceil(self.at[0].whole * _KEPT_LAYERS)
        return (wholly or [at for at in self.at if at.fits and at.whole >= least])[-1]


def chosen(rows: Sequence[QuantRow]) -> QuantRow | None:
    """The row that the rule chooses; None where nothing fits.

    :param rows: of one model, in any order
    """
    fitting = [row for row in rows if row.fits and row.shape is not None]
    large_enough = [row for row in fitting if row.shape is not None and row.shape.bits >= LEAST_BITS]
    wholly = [row for row in large_enough if row.is_whole(row.at[0])]
    if wholly:
        return max(wholly, key=lambda row: row.size)
    usual = [row for row in large_enough if row.shape is not None and row.shape.bits <= MOST_BITS]
    return max(usual or large_enough or fitting, key=_worth, default=None)


def _worth(row: QuantRow) -> tuple[float, int]:
    """A model with experts is still quick with some of them in RAM; of any other a layer in RAM decides the speed."""
    assert row.shape is not None
    in_layers = isinstance(row.at[0].placement, Layers) and not row.shape.has_experts
    return (row.at[0].whole / max(1, row.shape.layers) if in_layers else 0.0, row.size)
