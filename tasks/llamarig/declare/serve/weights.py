"""Where weights, caches and the vision projector lie, and how they are loaded."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from llamarig.declare.base import Declaration
from llamarig.declare.flags import GGUF, LLAMA_CPP, Flag, Setting
from llamarig.declare.placement import AllOnGpu, Placement

LoadMode = Literal["auto", "none", "mmap", "mlock", "mmap+mlock"]
"""``auto``: pinned (``none``) where a CUDA GPU computes prompts from weights in RAM and they fit, else llama.cpp's own
default, which maps the file."""

_GPU_UUID = re.compile(r"(GPU|MIG)-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


class Weights(Declaration):
    """GPU or RAM for each part of a model."""

    placement: Annotated[
        Placement,
        Field(description="which layers go where"),
        Flag(
            "--n-gpu-layers",
            aliases=("-ngl", "--gpu-layers", "-fit", "-cmoe", "--cpu-moe"),
            also=("--fit",),
            unit="layers",
            source="llamarig: layers are placed by the declaration; llama.cpp places them at each start",
            env=("LLAMA_ARG_N_GPU_LAYERS", "LLAMA_ARG_FIT", "LLAMA_ARG_CPU_MOE"),
            decides_memory=True,
            rendered_by="placement_arguments",
        ),
    ] = AllOnGpu()
    gpus: Annotated[
        tuple[str, ...],
        Field(description="UUIDs as `nvidia-smi -L` prints them: the server sees only these, the first as CUDA0"),
        Setting(
            "Environment=CUDA_VISIBLE_DEVICES",
            unit="-",
            default="every GPU",
            source="CUDA",
            instead=dict.fromkeys(("-dev", "--device"), "serve.gpus or serve.placement = cpu_only()"),
        ),
    ] = ()
    split_mode: Annotated[
        Literal["layer", "none", "tensor"],
        Field(description="what a GPU holds: whole layers, all of them (none), or a part of each tensor"),
        Flag(
            "--split-mode",
            aliases=("-sm",),
            unit="-",
            source=LLAMA_CPP,
            env=("LLAMA_ARG_SPLIT_MODE",),
            decides_memory=True,
            omit_default=True,
        ),
    ] = "layer"
    main_gpu: Annotated[
        int,
        Field(ge=0, description='read with split_mode = "none"'),
        Flag(
            "--main-gpu",
            aliases=("-mg",),
            unit="index",
            source=LLAMA_CPP,
            env=("LLAMA_ARG_MAIN_GPU",),
            decides_memory=True,
            omit_default=True,
        ),
    ] = 0
    op_offload: Annotated[
        bool,
        Field(description="the first GPU computes batches for experts in RAM"),
        Flag("--op-offload", off="--no-op-offload", unit="-", source=LLAMA_CPP, decides_memory=True),
    ] = True
    kv_offload: Annotated[
        bool,
        Field(description="a layer's KV cache lies in VRAM where the layer does"),
        Flag(
            "--kv-offload",
            off="--no-kv-offload",
            aliases=("-kvo", "-nkvo"),
            unit="-",
            source=LLAMA_CPP,
            env=("LLAMA_ARG_KV_OFFLOAD",),
            decides_memory=True,
        ),
    ] = True
    mmproj_offload: Annotated[
        bool,
        Field(description="the vision projector lies in VRAM"),
        Flag(
            "--mmproj-offload",
            off="--no-mmproj-offload",
            unit="-",
            source=LLAMA_CPP,
            env=("LLAMA_ARG_MMPROJ_OFFLOAD",),
        ),
    ] = True
    image_min_tokens: Annotated[
        int | None,
        Field(ge=1, description="least tokens of one image"),
        Flag(
            "--image-min-tokens", unit="tokens", default="the model's", source=GGUF, env=("LLAMA_ARG_IMAGE_MIN_TOKENS",)
        ),
    ] = None
    image_max_tokens: Annotated[
        int | None,
        Field(ge=1, description="most tokens of one image"),
        Flag(
            "--image-max-tokens", unit="tokens", default="the model's", source=GGUF, env=("LLAMA_ARG_IMAGE_MAX_TOKENS",)
        ),
    ] = None
    load_mode: Annotated[
        LoadMode,
        Field(
            description="auto: pinned (none) where CUDA computes prompts from weights in RAM and they fit, else mapped"
        ),
        Flag(
            "--load-mode",
            aliases=("-lm",),
            unit="-",
            source="measured: pinned weights read prompts 4.2 to 6.0 times as fast (tests/gpu/RESULTS.md)",
            env=("LLAMA_ARG_LOAD_MODE",),
            instead={
                "--mmap": 'serve.load_mode = "mmap"',
                "--no-mmap": 'serve.load_mode = "none"',
                "--mlock": 'serve.load_mode = "mlock"',
            },
            rendered_by="load_mode_arguments",
        ),
    ] = "auto"
    memory_max_mib: Annotated[
        int | None,
        Field(ge=64, description="the kernel ends a server that takes more RAM"),
        Setting(
            "MemoryMax=",
            unit="MiB",
            default="the RAM that the plan of auto() counts, else none",
            source="the plan file",
        ),
    ] = None

    @field_validator("split_mode", mode="before")
    @classmethod
    def _no_row_split(cls, value: object) -> object:
        if value == "row":
            raise ValueError(
                "llama.cpp's CUDA backend no longer has it (since June 2026), so no model would load; choose 'layer'"
            )
        return value

    @field_validator("gpus")
    @classmethod
    def _are_uuids(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for uuid in value:
            if not _GPU_UUID.fullmatch(uuid):
                raise ValueError(f"{uuid!r} is no GPU's UUID: take it from `nvidia-smi -L` on the box")
        if len(set(value)) < len(value):
            raise ValueError("the same GPU twice: name each once")
        return value

    @model_validator(mode="after")
    def _split_mode_fits_the_placement(self) -> Weights:
        if self.placement.kind == "auto" and self.split_mode == "tensor":
            raise ValueError(
                'auto() places whole layers, and split_mode = "tensor" splits each of them: choose one of the two'
            )
        return self
