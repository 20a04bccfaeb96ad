"""Lints of the declaration alone, and of it beside the box's CPUs and GPUs."""

from __future__ import annotations

from collections.abc import Iterator

from tasks.planning.box import Box, cpu_list
from tasks.planning.coverage import ranges
from tasks.planning.lints.lint import Lint
from tasks.spec.build import Build
from tasks.spec.model import Model
from tasks.spec.placement import AllOnGpu, CpuMoe, CpuOnly, Fit, Override
from tasks.spec.serve import Serve

_KERNEL_TYPES = ("f32", "f16", "bf16", "q4_0", "q4_1", "q5_0", "q5_1", "q8_0")
"""Types CUDA's flash attention reads (ggml-cuda/fattn.cu, pinned commit)."""

_TENSOR_SPLIT_TYPES = ("f32", "f16", "bf16", "q8_0", "q4_0")
"""KV cache types that work with split_mode tensor.

q8_0 was measured on two cards with the pinned commit (qwen3, 8 layers: 544 tokens/s, f16 599). Its source refuses no
type, only models without flash attention and some architectures (src/llama-context.cpp:3821, src/llama-arch.cpp:1142);
docs/multi-gpu.md:87 is older than llama.cpp #23792 (b9455), which brought it. That q4_0 works too, and q4_1, q5_0, q5_1
and iq4_nl abort, says github.com/stew675/llama-cpp-rdna-boosts/issues/21 (September 2026).
"""

_UNREAD = {
    "LLAMA_SET_ROWS": "was read for a few weeks of 2025 and by no build since, March 2026 included",
    "LLAMA_CURL": "is an option of the build, and of an old one",
    "GGML_CUDA_FA_ALL_QUANTS": "is an option of the build; llamarig compiles the kernels your models need",
    "GGML_CUDA_FORCE_MMQ": "is an option of the build: say it in build(cmake=...)",
    "N_GPU_LAYERS": "belongs to a wrapper script; say it as serve.placement",
    "CTX_SIZE": "belongs to a wrapper script; say it as serve.context",
    "EXTRA_ARGS": "belongs to a wrapper script; say it as serve.extra",
}


def cache_lints(model: Model, build: Build) -> Iterator[Lint]:
    """The KV cache: precision, and whether a kernel reads it."""
    serve = model.serve
    types = {serve.cache_type_k, serve.cache_type_v}
    if types & {"q4_0", "q4_1"}:
        yield Lint(
            "kv-4-bit",
            "warning",
            f"the KV cache is {serve.cache_type_k}/{serve.cache_type_v}; owners called 4 bits unusable before "
            "llama.cpp rotated quantized caches (#21038, April 2026), and nobody has measured it anew for this model",
            "compare answers over a long context with q8_0",
        )
    unread = sorted(kind for kind in types if kind not in _KERNEL_TYPES)
    if unread and build.backend in ("cuda", "hip") and not isinstance(serve.placement, CpuOnly):
        yield Lint(
            "kv-without-kernel",
            "warning",
            f"no flash-attention kernel reads {', '.join(unread)} on this backend, so attention is computed on the CPU",
            "choose q8_0, or q5_1, q5_0, q4_1, q4_0, which have kernels",
        )
    unsplit = sorted(kind for kind in types if kind not in _TENSOR_SPLIT_TYPES)
    if serve.split_mode == "tensor" and unsplit:
        yield Lint(
            "kv-under-tensor-split",
            "warning",
            f"a KV cache of {', '.join(unsplit)} under split_mode tensor is reported to abort while the model loads; "
            "q8_0 was measured to work (two cards, 544 tokens/s where f16 has 599)",
            "set both cache types to q8_0 or f16, or split_mode to layer",
        )


def placement_lints(model: Model) -> Iterator[Lint]:
    """Placements that do less than they say."""
    serve = model.serve
    if isinstance(serve.placement, Fit):
        if serve.split_mode == "tensor":
            yield Lint(
                "fit-under-tensor-split",
                "warning",
                "llama.cpp does not fit under split_mode tensor: it puts everything on the GPUs and runs out of memory "
                "if that is too much",
                "declare all_on_gpu(), or split_mode layer",
            )
        if any(word.split("=")[0] in ("-ncffn", "--n-cpu-ffn") for word in serve.extra):
            yield Lint(
                "fit-with-cpu-ffn",
                "warning",
                "llama.cpp stops fitting once tensors are placed by hand, so a model that is too large does not load",
                "leave one of the two out",
            )
    if len(serve.gpus) < 2 or serve.split_mode == "none":
        return
    if isinstance(serve.placement, CpuMoe):
        yield Lint(
            "cpu-moe-on-several-gpus",
            "warning",
            "the first layers lose their experts, all of them the first GPU's, which stays nearly empty while the last "
            "one overflows",
            "declare layers(gpu=..., split=...)",
        )
    elif isinstance(serve.placement, AllOnGpu) or (
        isinstance(serve.placement, Override) and serve.placement.split is None
    ):
        yield Lint(
            "split-by-free-memory",
            "warning",
            "llama.cpp splits the layers by the memory that happens to be free, so each start may place them anew",
            "declare layers(...), or a split with the override",
        )


def environment_lints(serve: Serve) -> Iterator[Lint]:
    """Variables that do nothing."""
    for name in sorted(serve.environment.keys() & _UNREAD.keys()):
        yield Lint("environment-unread", "warning", f"{name} {_UNREAD[name]}", "remove it")
    if serve.gpus and "CUDA_DEVICE_ORDER" in serve.environment:
        yield Lint(
            "cuda-order-unneeded",
            "warning",
            "gpus names the cards by UUID and in order, so CUDA_DEVICE_ORDER decides nothing",
            "remove it",
        )


def processor_lints(serve: Serve, box: Box) -> Iterator[Lint]:
    """Threads, priorities and affinity beside the CPUs the box has."""
    if not box.cpus:
        return
    allowed = cpu_list(serve.cpu_affinity) if serve.cpu_affinity else box.cpus
    if absent := allowed - box.cpus:
        yield Lint(
            "affinity-beyond-cpus",
            "warning",
            f"cpu_affinity {serve.cpu_affinity} names {ranges(sorted(absent))}, but this box has "
            f"{ranges(sorted(box.cpus))}",
            "name CPUs that are there (`lscpu -e`)",
        )
    usable = allowed & box.cpus or box.cpus
    most = max(serve.threads or 0, serve.threads_batch or 0)
    if most > len(usable):
        yield Lint(
            "threads-over-cpus",
            "warning",
            f"{most} threads on {len(usable)} CPUs wait for one another at every layer, which costs most of the speed",
            "set threads to the number of physical cores",
        )
    if serve.priority >= 2 and most >= len(box.cpus):
        yield Lint(
            "real-time-on-every-cpu",
            "warning",
            f"priority {serve.priority} runs {most} real-time threads (SCHED_FIFO) on {len(box.cpus)} CPUs: sshd and "
            "the driver's own threads come to a stop while a prompt is computed",
            "leave one CPU free with threads and cpu_affinity, or lower priority to 0",
        )


def gpu_lints(serve: Serve, box: Box) -> Iterator[Lint]:
    """GPUs named that are not there: CUDA would see none of them, nor any after it."""
    if box.gpus is None:
        return
    for uuid in serve.gpus:
        if uuid.startswith("GPU-") and uuid not in box.gpus:
            yield Lint(
                "gpu-missing",
                "refusal",
                f"gpus names {uuid}, but this box has {', '.join(sorted(box.gpus)) or 'no NVIDIA GPU'}; CUDA would see "
                "neither it nor any named after it",
                "take the UUIDs from `nvidia-smi -L` on the box",
            )
