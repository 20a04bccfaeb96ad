"""Names of the lints, as `accept` takes them: declarations that are valid but probably a mistake."""

from __future__ import annotations

LINT_RULES = {
    "kv-4-bit": "a KV cache of 4 bits an element",
    "kv-without-kernel": "a pair of KV cache types that no flash-attention kernel is compiled for",
    "kv-under-tensor-split": 'split_mode = "tensor" with a KV cache type that is reported to abort',
    "fit-under-tensor-split": 'fit() with split_mode = "tensor"',
    "fit-with-cpu-ffn": "fit() with --n-cpu-ffn as extra",
    "cpu-moe-on-several-gpus": "cpu_moe() on more than one GPU",
    "split-by-free-memory": "several GPUs without a declared split",
    "path-unseen": "a path in extra or environment that the unit does not see",
    "environment-unread": "an environment variable that llama.cpp does not read",
    "cuda-order-unneeded": "CUDA_DEVICE_ORDER beside gpus",
    "threads-over-cpus": "more threads than CPUs they may run on",
    "real-time-on-every-cpu": "real-time threads on every CPU of the box",
    "affinity-beyond-cpus": "cpu_affinity names CPUs the box does not have",
    "memory-lock": "a model locked into RAM that is larger than the RAM",
    "memory-budget": "weights in RAM, prompt cache and checkpoints together over the RAM",
    "memory-max": "memory_max_mib below the weights that are loaded into RAM at once",
    "weights-not-pinned": "weights in RAM that stay mapped, since pinning them lacks something",
    "pinned-margin": "fit() or auto() with less than 512 MiB of margin for pinned weights",
    "gpu-missing": "gpus names a GPU the box does not have",
    "mtp-missing": "draft-mtp for a model without the layer for it",
    "layers-of-another-model": "a placement for another number of layers than the model has",
    "override-not-a-regex": "an override rule that is no regular expression",
    "override-matches-nothing": "an override rule that matches no tensor, or only tensors of earlier rules",
    "override-misses-numbers": "an override rule whose digit classes leave layers out",
    "override-splits-experts": "an override rule that moves some of a layer's expert tensors and not the others",
    "override-weights-away-from-kv": "layers whose weights and KV cache lie on different GPUs",
}
