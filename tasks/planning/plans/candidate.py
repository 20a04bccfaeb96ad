"""One placement to be measured, and what measuring it said."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from tasks.spec.kv_cache import CacheType
from tasks.spec.placement import Layers
from tasks.spec.plan_file import DeviceMemory


@dataclass(frozen=True)
class Candidate:
    """A placement with what else decides its memory."""

    placement: Layers
    context: int
    ubatch: int
    cache_type_k: CacheType
    cache_type_v: CacheType


@dataclass(frozen=True)
class Prediction:
    """What a dry run says a server would take: GPUs in device order, then RAM.

    ``splits``: graph splits of a prompt batch and of one token. ``layer_context``: layer -> MiB of its KV cache and
    state, ``layer_state``: of its state alone; both empty where the release does not tell. ``checkpoint_mib``: what one
    context checkpoint keeps in RAM.
    """

    gpus: tuple[DeviceMemory, ...]
    host: DeviceMemory
    splits: tuple[int, int] | None = None
    layer_context: Mapping[int, float] = field(default_factory=dict)
    layer_state: Mapping[int, float] = field(default_factory=dict)
    checkpoint_mib: float = 0.0

    @property
    def totals(self) -> tuple[int, ...]:
        """MiB on each GPU."""
        return tuple(gpu.total_mib for gpu in self.gpus)
