"""Where weights, caches and the vision projector lie, and how they are loaded."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt, PositiveInt, field_validator, model_validator

from llamarig.declare.base import Declaration
from llamarig.declare.flags import GGUF, Flag, Setting
from llamarig.declare.placement import AllOnGpu, Placement

LoadMode = Literal["auto", "none", "mmap", "mlock", "mmap+mlock", "dio"]
"""``auto``: pinned (``none``) where a CUDA GPU computes prompts from weights in RAM and they fit, else llama.cpp's own
default, which maps the file. ``dio``: as ``none``, and read past the page cache (O_DIRECT)."""
UNMAPPED: tuple[LoadMode, ...] = ("none", "mlock", "dio")
"""Modes that read the weights into buffers, which a GPU backend may pin (src/llama-model-loader.cpp:559 and 1271)."""
HELD_IN_RAM: tuple[LoadMode, ...] = (*UNMAPPED, "mmap+mlock")
"""Modes that need RAM for all weights in RAM at once."""
OFFLOAD_MIN_BATCH = "GGML_OP_OFFLOAD_MIN_BATCH"
"""Environment variable of a server: from how many tokens on the GPU computes a batch with experts in RAM, 32 where it
is not set (ggml/src/ggml-cuda/ggml-cuda.cu)."""

GPU_UUID = re.compile(r"(GPU|MIG)-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
DEVICE_NAME = re.compile(r"[A-Za-z]+\d+")


class Weights(Declaration):
    """GPU or RAM for each part of a model."""

    placement: Annotated[
        Placement,
        Flag(
            "--n-gpu-layers -ngl --gpu-layers -fit -cmoe --cpu-moe",
            "layers",
            also=("--fit",),
            source="llamarig: layers are placed by the declaration; llama.cpp places them at each start",
            decides_memory=True,
            rendered_by="placement_arguments",
        ),
    ] = AllOnGpu()
    """Which layers go where."""
    gpus: Annotated[
        tuple[str, ...],
        Flag(
            "--device -dev",
            default="every GPU",
            instead=dict.fromkeys(("-dev", "--device"), "serve.gpus or serve.placement = cpu_only()"),
            decides_memory=True,
            rendered_by="device_arguments",
        ),
    ] = ()
    """For a CUDA build, UUIDs as `nvidia-smi -L` prints them: the server sees only these, the first as CUDA0
    (CUDA_VISIBLE_DEVICES). For another build, names as `llama-server --list-devices` prints them: ("Vulkan1",)."""
    split_mode: Annotated[
        Literal["layer", "none", "tensor"], Flag("--split-mode -sm", decides_memory=True, omit_default=True)
    ] = "layer"
    """What a GPU holds: whole layers, all of them (none), or a part of each tensor."""
    main_gpu: Annotated[NonNegativeInt, Flag("--main-gpu -mg", "index", decides_memory=True, omit_default=True)] = 0
    """Read with split_mode = "none"."""
    op_offload: Annotated[bool, Flag("--op-offload", off="--no-op-offload", decides_memory=True)] = True
    """The first GPU computes batches for experts in RAM."""
    kv_offload: Annotated[bool, Flag("--kv-offload -kvo -nkvo", off="--no-kv-offload", decides_memory=True)] = True
    """A layer's KV cache lies in VRAM where the layer does."""
    mmproj_offload: Annotated[bool, Flag("--mmproj-offload", off="--no-mmproj-offload")] = True
    """The vision projector lies in VRAM."""
    image_min_tokens: Annotated[
        PositiveInt | None, Flag("--image-min-tokens", "tokens", default="the model's", source=GGUF)
    ] = None
    """Least tokens of one image."""
    image_max_tokens: Annotated[
        PositiveInt | None, Flag("--image-max-tokens", "tokens", default="the model's", source=GGUF)
    ] = None
    """Most tokens of one image."""
    load_mode: Annotated[
        LoadMode,
        Flag(
            "--load-mode -lm",
            source="measured: pinned weights read prompts 4.2 to 6.0 times as fast (tests/gpu/RESULTS.md)",
            instead={
                "--mmap": 'serve.load_mode = "mmap"',
                "--no-mmap": 'serve.load_mode = "none"',
                "--mlock": 'serve.load_mode = "mlock"',
            },
            rendered_by="load_mode_arguments",
        ),
    ] = "auto"
    """auto: pinned (none) where CUDA computes prompts from weights in RAM and they fit, else mapped."""
    memory_max_mib: Annotated[
        int | None,
        Field(ge=64),
        Setting(
            "MemoryMax=", "MiB", default="the RAM that the plan of auto() counts, else none", source="the plan file"
        ),
    ] = None
    """The kernel ends a server that takes more RAM. Nothing else bounds it: a text takes up to 90 times its size."""

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
    def _name_gpus(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for uuid in value:
            if not GPU_UUID.fullmatch(uuid) and not DEVICE_NAME.fullmatch(uuid):
                raise ValueError(
                    f"{uuid!r} names no GPU: take the UUID from `nvidia-smi -L` on the box, or for a build that is not "
                    "for CUDA the name from `llama-server --list-devices`, such as Vulkan0"
                )
        if len(set(value)) < len(value):
            raise ValueError("the same GPU twice: name each once")
        return value

    @property
    def device_names(self) -> tuple[str, ...]:
        """GPUs by llama.cpp's names; those of a CUDA build are UUIDs."""
        return tuple(gpu for gpu in self.gpus if not GPU_UUID.fullmatch(gpu))

    @model_validator(mode="after")
    def _split_mode_fits_the_placement(self) -> Weights:
        if self.placement.kind == "auto" and self.split_mode == "tensor":
            raise ValueError(
                'auto() places whole layers, and split_mode = "tensor" splits each of them: choose one of the two'
            )
        return self
