"""From a declared model to the argv of the very llama-server that will read it."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from tasks.planning.build_flags import BuildFlags, FlagRefusedError
from tasks.planning.placement import placement_arguments
from tasks.planning.speculation import speculation_arguments
from tasks.spec.model import Model
from tasks.spec.serve import Sampling, Serve


@dataclass(frozen=True)
class ModelFiles:
    """Absolute paths on the box. ``model`` is the first shard; llama.cpp finds the others beside it."""

    model: str
    mmproj: str | None = None
    draft: str | None = None


def server_arguments(
    model: Model, files: ModelFiles, flags: Collection[str], api_key_file: str | None = None
) -> list[str]:
    """The arguments of llama-server (without the program itself).

    :param flags: every flag the release's own ``--help`` lists
    :param api_key_file: where the unit will find its key file, when the model has one
    :raises FlagRefusedError: when the build cannot do what is declared
    """
    build, serve = BuildFlags(flags), model.serve
    arguments = build.say("files", "--model", files.model)
    if files.mmproj:
        arguments += build.say("mmproj", "--mmproj", files.mmproj)
    if files.draft:
        arguments += build.say("draft", "--model-draft", files.draft)
    if serve.speculation is not None:
        arguments += speculation_arguments(serve.speculation, build)
    arguments += build.say("alias", "--alias", serve.alias or model.name)
    arguments += build.say("host", "--host", serve.host) + build.say("port", "--port", str(serve.port))
    if api_key_file:
        arguments += build.say("api_key_file", "--api-key-file", api_key_file)
    arguments += _context(build, serve)
    arguments += _placement(build, serve)
    arguments += _processor(build, serve)
    arguments += _sampling(build, serve.sampling)
    arguments += _reasoning(build, serve)
    # Defaults of the pinned commit, said aloud for the builds in which they were not.
    arguments += build.say_if_known("--jinja") + build.say_if_known("--no-context-shift")
    if serve.metrics:
        arguments += build.say("metrics", "--metrics")
    if not serve.slots:
        arguments += build.say("slots", "--no-slots")
    if serve.sleep_idle_s is not None:
        arguments += build.say("sleep_idle_s", "--sleep-idle-seconds", str(serve.sleep_idle_s))
    if serve.request_timeout_s is not None:
        arguments += build.say("request_timeout_s", "--timeout", str(serve.request_timeout_s))
    if serve.log_verbosity is not None:
        arguments += build.say("log_verbosity", "--verbosity", str(serve.log_verbosity))
    if not serve.web_ui:
        arguments += build.say_if_known("--no-ui") or build.say_if_known("--no-webui")
    return [*arguments, *serve.extra]


def _context(build: BuildFlags, serve: Serve) -> list[str]:
    arguments = [
        *build.say("context", "--ctx-size", str(serve.context)),
        *build.say("parallel", "--parallel", str(serve.parallel)),
        *build.say("batch", "--batch-size", str(serve.batch)),
        *build.say("ubatch", "--ubatch-size", str(serve.ubatch)),
        *build.say("cache_type_k", "--cache-type-k", serve.cache_type_k),
        *build.say("cache_type_v", "--cache-type-v", serve.cache_type_v),
        *build.say("flash_attention", "--flash-attn", serve.flash_attention),
    ]
    if serve.cache_ram_mib is not None:
        arguments += build.say("cache_ram_mib", "--cache-ram", str(serve.cache_ram_mib))
    if serve.context_checkpoints is not None:
        arguments += build.say("context_checkpoints", "--ctx-checkpoints", str(serve.context_checkpoints))
    if serve.checkpoint_min_step is not None:
        arguments += build.say("checkpoint_min_step", "--checkpoint-min-step", str(serve.checkpoint_min_step))
    if serve.kv_unified is not None:
        arguments += build.say("kv_unified", "--kv-unified" if serve.kv_unified else "--no-kv-unified")
    if serve.slot_prompt_similarity is not None:
        arguments += build.say(
            "slot_prompt_similarity", "--slot-prompt-similarity", f"{serve.slot_prompt_similarity:g}"
        )
    if serve.rope_freq_base is not None:
        arguments += build.say("rope_freq_base", "--rope-freq-base", f"{serve.rope_freq_base:.9g}")
    if serve.rope_freq_scale is not None:
        arguments += build.say("rope_freq_scale", "--rope-freq-scale", f"{serve.rope_freq_scale:.9g}")
    if serve.yarn_scale is not None:
        # Without a scale the other two do nothing (src/llama-context.cpp).
        arguments += build.say("yarn_scale", "--rope-scaling", "yarn")
        arguments += build.say("yarn_scale", "--rope-scale", f"{serve.yarn_scale:g}")
    if serve.yarn_original_context is not None:
        arguments += build.say("yarn_original_context", "--yarn-orig-ctx", str(serve.yarn_original_context))
    arguments += _numbers(
        build,
        {
            "yarn_ext_factor": ("--yarn-ext-factor", serve.yarn_ext_factor),
            "yarn_attn_factor": ("--yarn-attn-factor", serve.yarn_attn_factor),
            "yarn_beta_slow": ("--yarn-beta-slow", serve.yarn_beta_slow),
            "yarn_beta_fast": ("--yarn-beta-fast", serve.yarn_beta_fast),
            "cache_reuse": ("--cache-reuse", serve.cache_reuse),
            "max_tokens": ("--n-predict", serve.max_tokens),
        },
    )
    if serve.swa_full:
        arguments += build.say("swa_full", "--swa-full")
    return arguments


def _placement(build: BuildFlags, serve: Serve) -> list[str]:
    arguments: list[str] = []
    for flag, *value in placement_arguments(serve.placement):
        arguments += build.say("placement", flag, *value)
    if serve.split_mode != "layer":
        arguments += build.say("split_mode", "--split-mode", serve.split_mode)
    if serve.main_gpu:
        arguments += build.say("main_gpu", "--main-gpu", str(serve.main_gpu))
    if not serve.op_offload:
        arguments += build.say("op_offload", "--no-op-offload")
    if not serve.kv_offload:
        arguments += build.say("kv_offload", "--no-kv-offload")
    if not serve.mmproj_offload:
        arguments += build.say("mmproj_offload", "--no-mmproj-offload")
    images = {
        "image_min_tokens": ("--image-min-tokens", serve.image_min_tokens),
        "image_max_tokens": ("--image-max-tokens", serve.image_max_tokens),
    }
    return arguments + _numbers(build, images)


def _numbers(build: BuildFlags, values: Mapping[str, tuple[str, float | None]]) -> list[str]:
    """Field -> flag and number; nothing where the number is left out."""
    arguments: list[str] = []
    for intent, (flag, value) in values.items():
        if value is not None:
            arguments += build.say(intent, flag, f"{value:.9g}" if isinstance(value, float) else str(value))
    return arguments


def _processor(build: BuildFlags, serve: Serve) -> list[str]:
    arguments = _load_mode(build, serve.load_mode)
    if serve.threads is not None:
        arguments += build.say("threads", "--threads", str(serve.threads))
    if serve.threads_batch is not None:
        arguments += build.say("threads_batch", "--threads-batch", str(serve.threads_batch))
    if serve.priority:
        arguments += build.say("priority", "--prio", str(serve.priority))
    if not serve.warmup:
        arguments += build.say("warmup", "--no-warmup")
    return arguments


def _reasoning(build: BuildFlags, serve: Serve) -> list[str]:
    said = {
        "--reasoning": ("reasoning", serve.reasoning),
        "--reasoning-format": ("reasoning_format", serve.reasoning_format),
        "--reasoning-effort": ("reasoning_effort", serve.reasoning_effort),
        "--reasoning-budget": ("reasoning_budget", serve.reasoning_budget),
    }
    arguments = [
        word
        for flag, (intent, value) in said.items()
        if value is not None
        for word in build.say(intent, flag, str(value))
    ]
    if serve.reasoning_preserve is not None:
        flag = "--reasoning-preserve" if serve.reasoning_preserve else "--no-reasoning-preserve"
        arguments += build.say("reasoning_preserve", flag)
    if serve.chat_template_kwargs:
        arguments += build.say(
            "chat_template_kwargs", "--chat-template-kwargs", json.dumps(serve.chat_template_kwargs, ensure_ascii=False)
        )
    return arguments


def _load_mode(build: BuildFlags, mode: str) -> list[str]:
    if mode == "auto":
        return []
    if "--load-mode" in build.flags:
        if "mlock" in mode and "--mlock" in build.flags:
            raise FlagRefusedError(
                f"load_mode = {mode!r} has no sure spelling in this build of llama-server: while there were both "
                "--load-mode and --mlock (b10114 to b10874), `mlock` came to mean without mmap; choose a build from "
                "b10875 on"
            )
        return ["--load-mode", mode]
    # Before llama.cpp b10114 two independent switches said the same; mmap was the default.
    spelled = {
        "none": ["--no-mmap"],
        "mlock": ["--no-mmap", "--mlock"],
        "mmap": [],
        "mmap+mlock": ["--mlock"],
    }
    return [word for flag in spelled[mode] for word in build.say("load_mode", flag)]


def _sampling(build: BuildFlags, sampling: Sampling) -> list[str]:
    said = {
        "--temp": sampling.temperature,
        "--top-k": sampling.top_k,
        "--top-p": sampling.top_p,
        "--min-p": sampling.min_p,
        "--presence-penalty": sampling.presence_penalty,
        "--frequency-penalty": sampling.frequency_penalty,
        "--repeat-penalty": sampling.repeat_penalty,
        "--repeat-last-n": sampling.repeat_last_n,
        "--typical-p": sampling.typical_p,
        "--top-n-sigma": sampling.top_n_sigma,
        "--xtc-probability": sampling.xtc_probability,
        "--xtc-threshold": sampling.xtc_threshold,
        "--dry-multiplier": sampling.dry_multiplier,
        "--dry-base": sampling.dry_base,
        "--dry-allowed-length": sampling.dry_allowed_length,
        "--dry-penalty-last-n": sampling.dry_penalty_last_n,
        "--dynatemp-range": sampling.dynatemp_range,
        "--dynatemp-exp": sampling.dynatemp_exponent,
        "--samplers": ";".join(sampling.samplers) or None,
        "--seed": sampling.seed,
    }
    arguments: list[str] = []
    for flag, value in said.items():
        if value is not None:
            arguments += build.say("sampling", flag, f"{value:g}" if isinstance(value, float) else str(value))
    return arguments
