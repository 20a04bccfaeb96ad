"""How a model is served: llama-server's settings as typed values, with their units."""

from __future__ import annotations

import ipaddress
import re
from typing import Literal

from pydantic import Field, field_validator, model_validator

from tasks.spec.base import Declaration
from tasks.spec.kv_cache import CacheType
from tasks.spec.lint_rules import LINT_RULES
from tasks.spec.owned_flags import OWNED_FLAGS, REFUSED_FLAGS
from tasks.spec.placement import AllOnGpu, Placement
from tasks.spec.speculation import Speculation
from tasks.spec.unit_words import unfit_for_a_unit

_GPU_UUID = re.compile(r"(GPU|MIG)-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


Sampler = Literal["penalties", "dry", "top_n_sigma", "top_k", "typ_p", "top_p", "min_p", "xtc", "temperature"]
"""llama.cpp's names (common/sampling.cpp, pinned commit), in its own order."""


LoadMode = Literal["auto", "none", "mmap", "mlock", "mmap+mlock"]
"""``auto``: pinned (``none``) where a CUDA GPU computes prompts from weights in RAM and they fit, else llama.cpp's own
default, which maps the file."""


class Sampling(Declaration):
    """Defaults for requests that name none; llama.cpp's own defaults where left out."""

    temperature: float | None = Field(default=None, ge=0)
    top_k: int | None = Field(default=None, ge=0)
    top_p: float | None = Field(default=None, ge=0, le=1)
    min_p: float | None = Field(default=None, ge=0, le=1)
    presence_penalty: float | None = Field(default=None, ge=-2, le=2)
    frequency_penalty: float | None = Field(default=None, ge=-2, le=2)
    repeat_penalty: float | None = Field(default=None, gt=0)
    repeat_last_n: int | None = Field(default=None, ge=-1, description="tokens the penalties look back; default 64")
    typical_p: float | None = Field(default=None, gt=0, le=1)
    top_n_sigma: float | None = None
    xtc_probability: float | None = Field(default=None, ge=0, le=1)
    xtc_threshold: float | None = Field(default=None, ge=0, le=1)
    dry_multiplier: float | None = Field(default=None, ge=0)
    dry_base: float | None = Field(default=None, ge=0)
    dry_allowed_length: int | None = Field(default=None, ge=0)
    dry_penalty_last_n: int | None = Field(default=None, ge=-1)
    dynatemp_range: float | None = Field(default=None, ge=0)
    dynatemp_exponent: float | None = Field(default=None, ge=0)
    samplers: tuple[Sampler, ...] = Field(default=(), description="which, in their order; default: all of them")
    seed: int | None = Field(default=None, ge=-1)


class Serve(Declaration):
    """One llama-server: context and KV in tokens and llama.cpp types, memory in MiB, times in seconds.

    Where a field is left out (``None``), nothing is said and llama.cpp's own default holds.
    """

    # --- who is served, and where
    port: int = Field(ge=1, le=65535, description="models that exclude each other may share one: a stable address")
    host: str = Field(default="127.0.0.1", description="an address of the box; any but loopback needs api_key_file")
    api_key_file: str | None = Field(
        default=None, description="absolute path on the box of a root-owned 0600 file, one key a line"
    )
    alias: str | None = Field(default=None, description="name the API shows; default: the model's name")
    web_ui: bool = Field(default=False, description="the release is built without its pages")
    metrics: bool = Field(default=False, description="/metrics for Prometheus")
    slots: bool = Field(default=True, description="/slots, which the liveness probe asks; shows prompts to API clients")
    # --- context and KV cache
    context: int = Field(ge=256, description="tokens; always emitted, since llama.cpp shrinks an unset one")
    batch: int = Field(default=2048, ge=32, description="tokens a logical batch holds")
    ubatch: int = Field(default=512, ge=32, description="tokens computed at once; costs VRAM")
    parallel: int = Field(default=1, ge=1, le=64, description="slots; llama-server's own default is 4")
    kv_unified: bool | None = Field(default=None, description="one KV cache shared by all slots; default off")
    slot_prompt_similarity: float | None = Field(
        default=None, ge=0, le=1, description="share of a prompt a slot must hold already to be chosen; default 0.1"
    )
    cache_type_k: CacheType = "f16"
    cache_type_v: CacheType = "f16"
    flash_attention: Literal["on", "off", "auto"] = "on"
    cache_ram_mib: int | None = Field(default=None, ge=-1, description="prompt cache; llama.cpp takes 8192")
    context_checkpoints: int | None = Field(default=None, ge=0, description="per slot; llama.cpp takes 32")
    checkpoint_min_step: int | None = Field(
        default=None, ge=0, description="tokens between two checkpoints; llama.cpp takes 8192"
    )
    yarn_scale: float | None = Field(default=None, gt=1, description="context beyond the trained one, as a factor")
    yarn_original_context: int | None = Field(default=None, ge=256)
    yarn_ext_factor: float | None = Field(default=None, description="extrapolation mix; 0 is interpolation alone")
    yarn_attn_factor: float | None = Field(default=None, description="scale of attention's magnitude")
    yarn_beta_slow: float | None = None
    yarn_beta_fast: float | None = None
    swa_full: bool = Field(default=False, description="a sliding window's cache as long as the context; costs VRAM")
    cache_reuse: int | None = Field(
        default=None, ge=0, description="least tokens of a moved chunk that is shifted in place; default 0, never"
    )
    max_tokens: int | None = Field(
        default=None, ge=1, description="longest answer to a request that names no length; default: no end"
    )
    rope_freq_base: float | None = Field(default=None, gt=0, description="default: from the model")
    rope_freq_scale: float | None = Field(default=None, gt=0, description="1/N stretches the context N times")
    # --- where the weights go
    placement: Placement = AllOnGpu()
    gpus: tuple[str, ...] = Field(
        default=(),
        description="UUIDs as `nvidia-smi -L` prints them: only these are seen, the first is CUDA0; default: all",
    )
    split_mode: Literal["layer", "none", "tensor"] = "layer"
    main_gpu: int = Field(default=0, ge=0)
    op_offload: bool = Field(default=True, description="batches over experts in RAM are computed on the first GPU")
    kv_offload: bool = Field(default=True, description="KV cache in VRAM, beside its layer")
    mmproj_offload: bool = Field(default=True, description="the vision projector in VRAM")
    image_min_tokens: int | None = Field(default=None, ge=1, description="of one image; default: from the model")
    image_max_tokens: int | None = Field(default=None, ge=1, description="of one image; default: from the model")
    load_mode: LoadMode = Field(
        default="auto",
        description="auto: pinned (none) where CUDA computes prompts from weights in RAM and these fit, else mapped",
    )
    memory_max_mib: int | None = Field(
        default=None,
        ge=64,
        description="the kernel ends a server that takes more RAM; default: what the plan of auto() counts, else none",
    )
    # --- who computes
    threads: int | None = Field(default=None, ge=1, description="default: physical cores, of hybrids the P-cores")
    threads_batch: int | None = Field(default=None, ge=1, description="for prompts; default: as threads")
    cpu_affinity: str | None = Field(default=None, description="CPUs as systemd writes them: 0-11 or 0,2,4")
    priority: int = Field(default=0, ge=-1, le=3, description="1 to 3: real-time scheduling of compute threads")
    # --- how it answers
    sampling: Sampling = Sampling()
    speculation: Speculation | None = None
    reasoning: Literal["on", "off", "auto"] | None = Field(default=None, description="default: auto, by the template")
    reasoning_format: Literal["none", "deepseek", "deepseek-legacy", "auto"] | None = None
    reasoning_effort: Literal["minimal", "low", "medium", "high", "xhigh", "max"] | None = Field(
        default=None, description="for templates that know it, such as gpt-oss's"
    )
    reasoning_budget: int | None = Field(default=None, ge=-1, description="tokens of thinking; -1 is no limit")
    reasoning_preserve: bool | None = Field(default=None, description="thinking stays in the history; default on")
    chat_template_kwargs: dict[str, str | int | float | bool] = Field(
        default={}, description="what the chat template is told besides the messages: {'enable_thinking': False}"
    )
    request_timeout_s: int | None = Field(default=None, ge=1, description="longest read or write; default 3600")
    # --- its life
    warmup: bool = True
    sleep_idle_s: int | None = Field(
        default=None, ge=1, description="gives its memory back after so long without a request; the next one reloads"
    )
    coexists: bool = Field(default=False, description="may run beside the box's other models")
    load_timeout_s: int | None = Field(
        default=None, ge=10, description="longest wait for /health after a start; default: from the model's size"
    )
    log_verbosity: int | None = Field(default=None, ge=0, le=5, description="3 is info, 4 adds buffer sizes")
    environment: dict[str, str] = Field(default={})
    extra: tuple[str, ...] = Field(default=(), description="further llama-server arguments, word for word")
    accept: dict[str, str] = Field(
        default={}, description="lints that are meant to be so: name (tasks/spec/lint_rules.py) -> reason"
    )

    @property
    def loads_mtp(self) -> bool:
        """Whether llama.cpp loads the model's own layers of multi-token prediction.

        (src/models/ skip them unless load_mtp, which common/common.cpp:1625 of the pinned commit takes from the types.)
        """
        return self.speculation is not None and "draft-mtp" in self.speculation.types

    @field_validator("host")
    @classmethod
    def _address(cls, value: str) -> str:
        try:
            ipaddress.ip_address(value)
        except ValueError:
            raise ValueError("not an IP address: 127.0.0.1 for this box alone, or one of its own") from None
        return value

    @field_validator("split_mode", mode="before")
    @classmethod
    def _row_is_gone(cls, value: object) -> object:
        if value == "row":
            raise ValueError(
                "llama.cpp's CUDA backend no longer has it (since June 2026): a model would not load; choose 'layer'"
            )
        return value

    @field_validator("gpus")
    @classmethod
    def _uuids(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for uuid in value:
            if not _GPU_UUID.fullmatch(uuid):
                raise ValueError(f"{uuid!r} is no GPU's UUID: take it from `nvidia-smi -L` on the box")
        if len(set(value)) < len(value):
            raise ValueError("the same GPU twice: name each once")
        return value

    @field_validator("accept")
    @classmethod
    def _known_with_reason(cls, value: dict[str, str]) -> dict[str, str]:
        for rule, reason in value.items():
            if rule not in LINT_RULES:
                raise ValueError(f"{rule!r} is no lint: a deploy prints each lint's name in front of it")
            if not reason.strip():
                raise ValueError(f"{rule} is accepted without a reason: write why it is meant to be so")
        return value

    @field_validator("cpu_affinity")
    @classmethod
    def _cpus(cls, value: str | None) -> str | None:
        if value is None:
            return None
        for part in re.split("[, ]", value):
            cpus = re.fullmatch(r"(\d+)(?:-(\d+))?", part)
            # systemd only logs a bad list, and runs the service on every CPU.
            if cpus is None or (cpus[2] is not None and int(cpus[1]) > int(cpus[2])):
                raise ValueError("not a CPU list: write 0-11 or 0,2,4")
        return value

    @field_validator("extra")
    @classmethod
    def _not_owned(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for argument in value:
            flag = argument.split("=", 1)[0]
            if flag in OWNED_FLAGS:
                raise ValueError(f"{flag} is owned by llamarig: say it as {OWNED_FLAGS[flag]}")
            if flag in REFUSED_FLAGS:
                raise ValueError(f"{flag}: {REFUSED_FLAGS[flag]}")
            if reason := unfit_for_a_unit(argument):
                raise ValueError(f"{argument!r}: {reason}")
        return value

    @field_validator("chat_template_kwargs")
    @classmethod
    def _fit_for_a_unit(cls, value: dict[str, str | int | float | bool]) -> dict[str, str | int | float | bool]:
        for word in (*value, *(text for text in value.values() if isinstance(text, str))):
            if reason := unfit_for_a_unit(word):
                raise ValueError(f"{word!r}: {reason}")
        return value

    @field_validator("environment")
    @classmethod
    def _environment(cls, value: dict[str, str]) -> dict[str, str]:
        for key, text in value.items():
            if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", key):
                raise ValueError(f"{key!r} is no environment variable name")
            if key.startswith("LLAMA_ARG_") or key == "LLAMA_API_KEY":
                raise ValueError(f"{key}: llama-server would read it behind the declared flags; use the typed field")
            if key == "CUDA_VISIBLE_DEVICES":
                raise ValueError("CUDA_VISIBLE_DEVICES is owned by llamarig: say it as serve.gpus")
            if reason := unfit_for_a_unit(text, assignment=True):
                raise ValueError(f"{key}: {reason}")
        return value

    @field_validator("api_key_file")
    @classmethod
    def _absolute(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"/[A-Za-z0-9_./@+-]+", value):
            raise ValueError(
                "write the absolute path of a file on the box, in letters, digits and ./_@+-, for example "
                "/etc/llamarig/keys/api"
            )
        return value

    @field_validator("alias")
    @classmethod
    def _one_line(cls, value: str | None) -> str | None:
        if value is not None and (reason := unfit_for_a_unit(value)):
            raise ValueError(reason)
        return value

    @model_validator(mode="after")
    def _together(self) -> Serve:
        if not ipaddress.ip_address(self.host).is_loopback and self.api_key_file is None:
            raise ValueError(
                f"host {self.host} is open to the network: set api_key_file to a key file on the box, or keep 127.0.0.1"
            )
        if self.ubatch > self.batch:
            raise ValueError(f"ubatch {self.ubatch} is larger than batch {self.batch}: lower it or raise batch")
        if self.cache_type_v not in ("f32", "f16", "bf16") and self.flash_attention == "off":
            raise ValueError("a quantized cache_type_v needs flash attention: set flash_attention to on")
        if self.placement.kind == "auto" and self.split_mode == "tensor":
            raise ValueError(
                'auto() places whole layers, and split_mode = "tensor" splits each of them: choose one of the two'
            )
        yarn = ("yarn_original_context", "yarn_ext_factor", "yarn_attn_factor", "yarn_beta_slow", "yarn_beta_fast")
        for field in yarn:
            if getattr(self, field) is not None and self.yarn_scale is None:
                raise ValueError(f"{field} does nothing without yarn_scale: set both or neither")
        return self
