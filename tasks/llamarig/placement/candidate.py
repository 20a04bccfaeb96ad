"""A placement to be measured by a dry run, and the result of the measurement."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from llamarig.declare.kv_cache import CacheType
from llamarig.declare.placement import Layers
from llamarig.records.plan_file import DeviceMemory


@dataclass(frozen=True)
class Candidate:
    """A placement and the other settings that decide its memory."""

    placement: Layers
    context: int
    ubatch: int
    cache_type_k: CacheType
    cache_type_v: CacheType


@dataclass(frozen=True)
class Prediction:
    """Memory a server would take according to a dry run: GPUs in device order, then RAM.

    ``splits``: graph splits of a prompt batch and of one token. ``layer_context``: MiB of KV cache and recurrent state
    by layer; ``layer_state``: MiB of recurrent state alone by layer; both empty if the release does not print them.
    ``checkpoint_mib``: RAM of one context checkpoint. ``layer_devices``: device of each layer, the output as the last.
    """

    gpus: tuple[DeviceMemory, ...]
    host: DeviceMemory
    splits: tuple[int, int] | None = None
    layer_context: Mapping[int, float] = field(default_factory=dict)
    layer_state: Mapping[int, float] = field(default_factory=dict)
    checkpoint_mib: float = 0.0
    layer_devices: Mapping[int, str] = field(default_factory=dict)
    speculation_mib: tuple[int, ...] = ()
    """Of ``gpus``, the part that no dry run showed (placement/speculation_memory.py)."""

    @property
    def totals(self) -> tuple[int, ...]:
        """MiB per GPU, in device order."""
        return tuple(gpu.total_mib for gpu in self.gpus)

    def with_compute_of(self, short: Prediction) -> Prediction:
        """This prediction with the compute buffers of the header whose vocabulary is shortened.

        llama-server reserves logits for a few tokens, llama-fit-params for a whole batch.
        """
        pairs = zip(self.gpus, short.gpus, strict=True)
        gpus = tuple(row.model_copy(update={"compute_mib": small.compute_mib}) for row, small in pairs)
        return replace(self, gpus=gpus)
