"""Adds the memory of speculation to a dry run: llama-fit-params has no flags for it, and skips what only it loads.

Sources are of the pinned commit. The built-in layers of multi-token prediction are loaded with the model
(common/common.cpp:1625), and run in a second context of the same size on the same weights, with a cache and compute
buffers of its own (common/speculative.cpp:2557, common_base_params_to_speculative). To go back to an earlier token,
recurrent layers keep a state for each drafted token (need_n_rs_seq in common/common.h, src/llama-memory-recurrent.cpp).
"""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass, replace

from llamarig.declare.kv_cache import CacheType
from llamarig.declare.model import Model
from llamarig.placement.candidate import Prediction
from llamarig.placement.model_layers import INPUT_TENSORS, MIB, layer_counts, layer_of, loaded_tensors, runs_mtp
from llamarig.records.plan_file import DeviceMemory
from llamarig.remote.shared.gguf_header import TYPES, Header

DRAFT_TOKENS = 3
"""llama.cpp's default number of drafted tokens (common/common.h)."""
_WITH_STATES = ("draft-mtp", "draft-eagle3", "draft-dflash", "draft-dspark")
_BESIDE_A_MODEL = ("gemma4-assistant", "eagle3", "dflash")
"""Architectures whose context needs that of another model (ctx_other in src/llama-context.cpp:147)."""
_WITHOUT_ROLLBACK = ("qwen3next",)
"""Recurrent architectures that keep one state (llm_arch_supports_rs_rollback in src/llama-arch.cpp). Of one that is not
known here, the states are counted."""


@dataclass
class _Added:
    """MiB on one device."""

    model: float = 0.0
    context: float = 0.0
    compute: float = 0.0

    def to(self, row: DeviceMemory) -> DeviceMemory:
        parts = {"model_mib": self.model, "context_mib": self.context, "compute_mib": self.compute}
        return row.model_copy(update={name: getattr(row, name) + math.ceil(mib) for name, mib in parts.items()})


def speculation_settings(model: Model) -> tuple[str, ...]:
    """The declared settings of speculation that decide memory, for a plan to be compared with them."""
    speculation = model.serve.speculation
    types = [kind for kind in speculation.types if kind in _WITH_STATES] if speculation is not None else []
    if speculation is None or not types:
        return ()
    names = ("draft_max", "draft_cache_type_k", "draft_cache_type_v")
    settings = [(name, getattr(speculation, name)) for name in names]
    return (
        *(f"speculation={kind}" for kind in types),
        *(f"{name}={value}" for name, value in settings if value is not None),
    )


def has_second_context(model: Model, header: Header) -> bool:
    """Whether the model speculates with layers of its own file."""
    return model.serve.loads_mtp and model.draft is None and runs_mtp(header)


def with_speculation(found: Prediction, model: Model, header: Header) -> Prediction:
    """The prediction of a dry run with the memory that speculation adds on each device.

    Cache and compute buffers of a second context are estimated: a cache as of the largest of the other layers, and
    buffers as large as the first context's.
    """
    added: dict[str, _Added] = defaultdict(_Added)
    used = [row.name for row in found.gpus if row.model_mib] or [found.host.name]

    def home(layer: int) -> str:
        device = found.layer_devices.get(layer, used[-1])
        return found.host.name if device == "CPU" else device

    states = _further_states(model, header)
    for layer, mib in found.layer_state.items() if states else ():
        added[home(layer)].context += states * mib
    if model.serve.loads_mtp:
        without = {tensor.name for tensor in loaded_tensors(header, mtp=False)}
        for tensor in loaded_tensors(header, mtp=True):
            number = layer_of(tensor.name)
            if tensor.name not in without and number is not None:
                added[home(number)].model += tensor.size / MIB
    if has_second_context(model, header):
        counts = layer_counts(header.tensors, header.metadata)
        device = home(counts.all - 1)
        rows = {row.name: row for row in (*found.gpus, found.host)}
        added[device].context += counts.nextn * _largest_cache(found) * _wider_cache(model)
        for name in {device, found.host.name}:
            added[name].compute += rows[name].compute_mib
    if not added:
        return found
    gpus = tuple(added[row.name].to(row) for row in found.gpus)
    return replace(
        found,
        gpus=gpus,
        speculation_mib=tuple(
            after.total_mib - before.total_mib for after, before in zip(gpus, found.gpus, strict=True)
        ),
        host=added[found.host.name].to(found.host),
        layer_context={
            layer: mib + states * found.layer_state.get(layer, 0.0) for layer, mib in found.layer_context.items()
        },
        layer_state={layer: (1 + states) * mib for layer, mib in found.layer_state.items()},
    )


def needs_its_model(draft: Header) -> bool:
    """Whether a draft file cannot be loaded without the model that it drafts for, and so not be measured alone.

    That is one of these architectures, or one that has only a model's layers of multi-token prediction.
    """
    return draft.metadata.get("general.architecture") in _BESIDE_A_MODEL or _is_mtp_head(draft)


def dependent_draft_mib(found: Prediction, model: Model, draft: Header) -> tuple[int, ...]:
    """MiB of such a draft on each GPU: weights, cache and compute buffers.

    It is split over the GPUs as its model is. Layers of multi-token prediction keep their high numbers and so are on
    the last GPU; the few layers of other drafts may be on any, and are counted on each.

    :param found: of the model, with every layer on the last GPU
    """
    speculation, others = model.serve.speculation, (0,) * (len(found.gpus) - 1)
    if speculation is not None and speculation.draft_gpu_layers == 0:
        return (*others, 0)
    counts, is_head = layer_counts(draft.tensors, draft.metadata), _is_mtp_head(draft)
    shares_cache = draft.metadata.get("general.architecture") == "gemma4-assistant"
    caches = 0 if shares_cache else counts.nextn if is_head else counts.all
    weights = sum(tensor.size for tensor in draft.tensors if not tensor.name.startswith(INPUT_TENSORS))
    if not any(tensor.name == "output.weight" for tensor in draft.tensors):
        weights += sum(tensor.size for tensor in draft.tensors if tensor.name == "token_embd.weight")
    cache = caches * _largest_cache(found) * _wider_cache(model)
    mib = math.ceil(weights / MIB + cache + found.gpus[-1].compute_mib)
    return (*others, mib) if is_head else (mib,) * len(found.gpus)


def _is_mtp_head(draft: Header) -> bool:
    """Whether a file has no layers but those of multi-token prediction (``mtp_only`` in src/models/)."""
    counts = layer_counts(draft.tensors, draft.metadata)
    numbers = [number for one in draft.tensors if (number := layer_of(one.name)) is not None]
    return counts.nextn > 0 < counts.trunk and all(number >= counts.trunk for number in numbers)


def _further_states(model: Model, header: Header) -> int:
    speculation = model.serve.speculation
    if speculation is None or header.metadata.get("general.architecture") in _WITHOUT_ROLLBACK:
        return 0
    uses = any(kind in _WITH_STATES for kind in speculation.types)
    return (speculation.draft_max or DRAFT_TOKENS) if uses else 0


def _largest_cache(found: Prediction) -> float:
    """MiB of the attention cache of one layer."""
    return max((mib - found.layer_state.get(layer, 0.0) for layer, mib in found.layer_context.items()), default=0.0)


def _wider_cache(model: Model) -> float:
    """How many times as large the cache of the second context is, whose types are declared apart."""
    serve, speculation = model.serve, model.serve.speculation
    k, v = (speculation.draft_cache_type_k, speculation.draft_cache_type_v) if speculation is not None else (None, None)
    return max(
        _bytes_per_element(k or "f16") / _bytes_per_element(serve.cache_type_k),
        _bytes_per_element(v or "f16") / _bytes_per_element(serve.cache_type_v),
    )


def _bytes_per_element(kind: CacheType) -> float:
    return next(size / block for name, block, size in TYPES.values() if name == kind.upper())
