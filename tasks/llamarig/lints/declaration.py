"""Lints of the declaration, and of the declaration together with the box's CPUs and GPUs."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise

from llamarig.declare.build import Build
from llamarig.declare.model import Model
from llamarig.declare.placement import AllOnGpu, CpuMoe, CpuOnly, Fit, Override
from llamarig.declare.risky_flags import flag_of
from llamarig.declare.serve import Serve
from llamarig.declare.serve.context import YARN_ONLY
from llamarig.lints.lint import Lint
from llamarig.placement.box_capacity import BoxCapacity, parse_cpu_list
from llamarig.placement.model_layers import ranges
from llamarig.remote.shared.gguf_header import Header
from llamarig.render.sandbox import unseen

_KERNEL_TYPES = ("f32", "f16", "bf16", "q4_0", "q4_1", "q5_0", "q5_1", "q8_0")
"""KV cache types that CUDA's flash attention reads (ggml-cuda/fattn.cu, pinned commit)."""

_TENSOR_SPLIT_TYPES = ("f32", "f16", "bf16", "q8_0", "q4_0")
"""KV cache types that work with split_mode tensor.

q8_0 was measured on two cards with the pinned commit (qwen3, 8 layers: 544 tokens/s, f16 599). The source refuses no
type, only models without flash attention and some architectures (src/llama-context.cpp:3821, src/llama-arch.cpp:1142);
docs/multi-gpu.md:87 predates llama.cpp #23792 (b9455), which added it.
github.com/stew675/llama-cpp-rdna-boosts/issues/21 (September 2026) reports that q4_0 works, too, and that q4_1, q5_0,
q5_1 and iq4_nl abort.
"""

IGNORED_VARIABLES = {
    "LLAMA_SET_ROWS": "was read for a few weeks of 2025 and by no build since (checked in March 2026)",
    "LLAMA_CURL": "is an option of the build, and of an old one",
    "GGML_CUDA_FA_ALL_QUANTS": "is an option of the build; llamarig compiles the kernels your models need",
    "GGML_CUDA_FORCE_MMQ": "is an option of the build: declare it in build(cmake=...)",
    "N_GPU_LAYERS": "belongs to a wrapper script; declare serve.placement instead",
    "CTX_SIZE": "belongs to a wrapper script; declare serve.context instead",
    "EXTRA_ARGS": "belongs to a wrapper script; declare serve.extra instead",
}


def cache_lints(model: Model, build: Build) -> Iterator[Lint]:
    """The KV cache: precision, and kernels that read it."""
    serve = model.serve
    types = {serve.cache_type_k, serve.cache_type_v}
    if types & {"q4_0", "q4_1"}:
        yield Lint(
            "kv-4-bit",
            f"the KV cache is {serve.cache_type_k}/{serve.cache_type_v}; users called 4 bits unusable before llama.cpp "
            "rotated quantized caches (#21038, April 2026), and there is no newer measurement for this model",
            "compare answers over a long context with q8_0",
        )
    without_kernel = sorted(kind for kind in types if kind not in _KERNEL_TYPES)
    if without_kernel and build.backend in ("cuda", "hip") and not isinstance(serve.placement, CpuOnly):
        yield Lint(
            "kv-without-kernel",
            f"no flash-attention kernel of this backend reads {', '.join(without_kernel)}: the CPU computes attention",
            "choose q8_0, or q5_1, q5_0, q4_1, q4_0, which have kernels",
        )
    aborting = sorted(kind for kind in types if kind not in _TENSOR_SPLIT_TYPES)
    if serve.split_mode == "tensor" and aborting:
        yield Lint(
            "kv-under-tensor-split",
            f"a KV cache of {', '.join(aborting)} under split_mode tensor is reported to abort while the model loads; "
            "q8_0 was measured to work (two cards, 544 tokens/s where f16 has 599)",
            "set both cache types to q8_0 or f16, or split_mode to layer",
        )


def placement_lints(model: Model) -> Iterator[Lint]:
    """Placements that do not do what they seem to."""
    serve = model.serve
    if isinstance(serve.placement, Fit):
        if serve.split_mode == "tensor":
            yield Lint(
                "fit-under-tensor-split",
                "llama.cpp does not fit under split_mode tensor: it puts everything on the GPUs and runs out of memory "
                "if that is too much",
                "declare all_on_gpu(), or split_mode layer",
            )
        if any(word.split("=")[0] in ("-ncffn", "--n-cpu-ffn") for word in serve.extra):
            yield Lint(
                "fit-with-cpu-ffn",
                "llama.cpp does not fit once tensors are placed by hand, so a model that is too large does not load",
                "remove one of the two",
            )
    if len(serve.gpus) < 2 or serve.split_mode == "none":
        return
    if isinstance(serve.placement, CpuMoe):
        if serve.placement.split is None:
            yield Lint(
                "cpu-moe-on-several-gpus",
                "the experts of the first layers stay in RAM, and those are the layers of the first GPU: it stays "
                "nearly empty while the last one overflows",
                "declare a split with it, which gives the first GPU more layers, or layers(gpu=..., split=...)",
            )
    elif isinstance(serve.placement, AllOnGpu) or (
        isinstance(serve.placement, Override) and serve.placement.split is None
    ):
        yield Lint(
            "split-by-free-memory",
            "llama.cpp splits the layers by the memory free at the moment, so each start may place them differently",
            "declare layers(...), or a split with the override",
        )


def input_lints(serve: Serve) -> Iterator[Lint]:
    """Inputs that an embeddings or reranking server refuses although its context would hold them.

    (can_split in tools/server/server-context.cpp, pinned commit: only the last token's embedding is computed in parts.)
    """
    slot = serve.context // serve.parallel
    if serve.task != "completion" and serve.pooling != "last" and slot > serve.ubatch:
        yield Lint(
            "input-over-ubatch",
            f"an input of more than ubatch = {serve.ubatch} tokens is refused unless the model pools by its last token,"
            f" and a slot's context has {slot}",
            f"set ubatch and batch to {slot}, or lower the context",
        )


def yarn_lints(serve: Serve, header: Header | None) -> Iterator[Lint]:
    """Numbers of YaRN that nothing reads: no YaRN is declared, and the model was trained without any scaling.

    Without YaRN, and with a scale of 1, they change nothing (src/llama-context.cpp:165-214 and ggml_rope of the pinned
    commit). yarn_attn_factor is not among them: it is read in any case.
    """
    unread = [field for field in YARN_ONLY if getattr(serve, field) is not None]
    if header is None or not unread or serve.yarn_scale is not None or serve.rope_freq_scale is not None:
        return
    scaling = f"{header.metadata.get('general.architecture')}.rope.scaling."
    if not any(key.startswith(scaling) for key in header.metadata):
        yield Lint(
            "yarn-unread",
            f"{', '.join(unread)} has no effect: the model was trained without YaRN, and no yarn_scale is declared",
            "declare yarn_scale, or leave it out",
        )


def environment_lints(serve: Serve) -> Iterator[Lint]:
    """Environment variables without an effect."""
    for name in sorted(serve.environment.keys() & IGNORED_VARIABLES.keys()):
        yield Lint("environment-unread", f"{name} {IGNORED_VARIABLES[name]}", "remove it")
    if serve.gpus and "CUDA_DEVICE_ORDER" in serve.environment:
        yield Lint(
            "cuda-order-unneeded",
            "gpus names the cards by UUID and in order, so CUDA_DEVICE_ORDER has no effect",
            "remove it",
        )


_FILE_FLAGS = frozenset(
    {
        *("--lora", "--lora-scaled", "--control-vector", "--control-vector-scaled", "--grammar-file"),
        *("--json-schema-file", "-jf", "--chat-template-file", "--ui-config-file", "--webui-config-file"),
        *("--lookup-cache-static", "-lcs", "--lookup-cache-dynamic", "-lcd"),
        *("--path", "--media-path", "--mcp-servers-config", "--video-ffmpeg-dir"),
    }
)
"""Flags of the pinned commit whose value is a path, or a list of paths, each perhaps with a scale behind a colon."""


def path_lints(serve: Serve, build: Build) -> Iterator[Lint]:
    """Paths that llama-server would not find, since its unit sees only what it needs, from the root directory."""
    given = ((flag_of(flag), value) for flag, value in pairwise(serve.extra))
    relative = sorted(
        {
            path
            for flag, value in given
            if flag in _FILE_FLAGS
            for part in value.split(",")
            if not (path := part.partition(":")[0]).startswith("/")
        }
    )
    if relative:
        yield Lint(
            "path-unseen",
            f"a unit starts in /, so llama-server would look there for {', '.join(relative)}",
            "write the whole path, and declare readable_paths with it in serve",
            severity="refusal",
        )
    # Values may be lists, and a path may have a scale behind it: --lora-scaled FILE:SCALE,FILE:SCALE.
    words = [part for text in (*serve.extra, *serve.environment.values()) for part in re.split("[,:;]", text)]
    if paths := sorted(set(unseen(build, serve.readable_paths, words))):
        declared = ", ".join(f'"{path}"' for path in paths)
        yield Lint(
            "path-unseen",
            f"the unit does not see {', '.join(paths)}, only its model's files, its release, /usr and its own /tmp",
            f"declare readable_paths=({declared},) in serve",
            severity="refusal",
        )


def processor_lints(serve: Serve, box: BoxCapacity) -> Iterator[Lint]:
    """Threads, priority and affinity compared with the box's CPUs."""
    if not box.cpus:
        return
    allowed = parse_cpu_list(serve.cpu_affinity) if serve.cpu_affinity else box.cpus
    if missing := allowed - box.cpus:
        yield Lint(
            "affinity-beyond-cpus",
            f"cpu_affinity {serve.cpu_affinity} names {ranges(sorted(missing))}, but this box has "
            f"{ranges(sorted(box.cpus))}",
            "name CPUs that the box has (`lscpu -e`)",
        )
    usable = allowed & box.cpus or box.cpus
    most = max(serve.threads or 0, serve.threads_batch or 0)
    if most > len(usable):
        yield Lint(
            "threads-over-cpus",
            f"{most} threads on {len(usable)} CPUs wait for one another at every layer, which costs most of the speed",
            "set threads to the number of physical cores",
        )
    if serve.priority >= 2 and most >= len(box.cpus):
        yield Lint(
            "real-time-on-every-cpu",
            f"priority {serve.priority} runs {most} real-time threads (SCHED_FIFO) on {len(box.cpus)} CPUs: sshd and "
            "the driver's own threads stop while a prompt is computed",
            "leave one CPU free with threads and cpu_affinity, or lower priority to 0",
        )


def gpu_lints(serve: Serve, box: BoxCapacity) -> Iterator[Lint]:
    """Missing GPUs: CUDA would see neither them nor any named after them."""
    if box.gpus is None:
        return
    for uuid in serve.gpus:
        if uuid.startswith("GPU-") and uuid not in box.gpus:
            yield Lint(
                "gpu-missing",
                f"gpus names {uuid}, but this box has {', '.join(sorted(box.gpus)) or 'no NVIDIA GPU'}; CUDA would see "
                "neither it nor any named after it",
                "take the UUIDs from `nvidia-smi -L` on the box",
                severity="refusal",
            )
