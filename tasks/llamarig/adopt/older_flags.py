"""Flags of llama-server that the pinned build does not have, or means otherwise, and what they were."""

from __future__ import annotations

from collections.abc import Mapping

_SELF_EXTEND = "self-extend is not in llama.cpp any more; a longer context is serve.yarn_scale"
_LOGS = "the log goes to the journal; serve.log_verbosity is how much"
_OF_MAIN = "a flag of the command-line program, which the server does not have"
_KERNELS = "llama.cpp chooses its kernels itself since 2024"
_IK = "a flag of ik_llama.cpp; the pinned llama.cpp has none like it"
_IK_FUSED = "a flag of ik_llama.cpp; llama.cpp fuses these itself where a model's file has fused tensors"

DROPPED: Mapping[str, str] = {
    **dict.fromkeys(("--grp-attn-n", "-gan", "--grp-attn-w", "-gaw"), _SELF_EXTEND),
    **dict.fromkeys(("-spf", "--system-prompt-file"), "a system prompt is part of each request"),
    **dict.fromkeys(
        ("--log-format", "--log-append", "--logdir", "-ld", "--log-enable", "--log-test", "--log-new"), _LOGS
    ),
    **dict.fromkeys(("-ptc", "--print-token-count", "--verbose-prompt", "--display-prompt"), _OF_MAIN),
    **dict.fromkeys(("--color", "-i", "--interactive", "-ins", "--instruct", "-cml", "--chatml", "-if"), _OF_MAIN),
    **dict.fromkeys(("--interactive-first", "--in-prefix", "--in-suffix", "-p", "--prompt", "-f", "--file"), _OF_MAIN),
    **dict.fromkeys(("--simple-io", "-mli", "--multiline-input", "-cnv", "--conversation", "-no-cnv"), _OF_MAIN),
    **dict.fromkeys(
        ("-st", "--single-turn", "--prompt-cache", "--no-display-prompt", "-sys", "--system-prompt"), _OF_MAIN
    ),
    **dict.fromkeys(("-mmq", "--mul-mat-q", "-nommq", "--no-mul-mat-q"), _KERNELS),
    **dict.fromkeys(("--low-vram",), "since 2023 the KV cache stays in RAM with serve.kv_offload = False alone"),
    **dict.fromkeys(("-gqa", "--gqa", "-eps", "--rms-norm-eps"), "read from the model's file since the GGUF format"),
    **dict.fromkeys(("--lora-base",), "a LoRA is applied to the model as it is loaded"),
    **dict.fromkeys(("--tfs", "--tfs-z"), "tail-free sampling is not in llama.cpp any more"),
    **dict.fromkeys(
        ("--no-penalize-nl", "--penalize-nl"), "the penalty for line breaks is like that of any other token"
    ),
    **dict.fromkeys(("-cd", "--ctx-size-draft"), "a draft has the context of its model now"),
    **dict.fromkeys(("--spec-replace",), "draft and model need the same vocabulary now"),
    **dict.fromkeys(("-ns", "--sequences", "-ps", "--print-stats"), _OF_MAIN),
    **dict.fromkeys(("--nobrowser", "--v2", "--unsecure", "--trap"), "a flag of llamafile"),
    **dict.fromkeys(("--no-fill-idle", "-dkvc", "--dump-kv-cache"), "not in llama.cpp any more"),
    **dict.fromkeys(
        ("-cpent", "--checkpoint-every-n-tokens"), "declare serve.checkpoint_min_step, which counts otherwise"
    ),
    **dict.fromkeys(
        ("-rtr", "--run-time-repack"), f"{_IK}; weights in RAM are repacked unless serve.extra has --no-repack"
    ),
    **dict.fromkeys(("-mla", "--mla-use", "-amb", "--attention-max-batch", "-ser", "--smart-expert-reduction"), _IK),
    **dict.fromkeys(("-gr", "--graph-reuse", "-smgs", "--split-mode-graph-scheduling", "-khad", "-vhad", "-cuda"), _IK),
    **dict.fromkeys(("-fmoe", "--fused-moe", "-no-fmoe", "--no-fused-moe", "-fmoe-up-gate"), _IK_FUSED),
    **dict.fromkeys(("-muge", "--merge-up-gate-experts", "-mqkv", "--merge-qkv", "-ooae", "-no-ooae"), _IK_FUSED),
    "--thp": f"{_IK}; the kernel's own setting of huge pages is /sys/kernel/mm/transparent_hugepage",
    "--no-direct-io": "reading past the page cache is off unless serve.load_mode says dio",
}
"""Flag -> what to know of it. None has a value that something else could use."""

RENAMED: Mapping[str, tuple[str, ...]] = {
    "--slots-endpoint-disable": ("--no-slots",),
    "--memory-f32": ("--cache-type-k", "f32", "--cache-type-v", "f32"),
    "--no-flash-attn": ("--flash-attn", "off"),
    "-nfa": ("--flash-attn", "off"),
    "--direct-io": ("--load-mode", "dio"),
    "-dio": ("--load-mode", "dio"),
}
"""Flag -> the same in the pinned build; a value stays behind it."""

OLDER_VARIABLES: Mapping[str, str] = {
    "LLAMA_ARG_MLOCK": "--mlock",
    "LLAMA_ARG_NO_MMAP": "--no-mmap",
    "LLAMA_ARG_DIO": "--direct-io",
    "LLAMA_ARG_NO_WEBUI": "--no-ui",
}
"""Environment variables that the pinned build silently ignores -> the flag that they were."""

WITHOUT_MMAP = "--no-mmap"
LOCKED = "--mlock"
REMOVED_IN_SEPTEMBER_2026 = "removed from llama.cpp in September 2026 (#28334)"
"""Of --mmap, --no-mmap and --mlock (b10875)."""
