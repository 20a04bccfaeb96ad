"""Where the layers of a model go."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from llamarig.declare.base import Declaration
from llamarig.declare.flags import GGUF, LLAMA_CPP, OWNER, Flag, Setting

GiveUp = Literal["ubatch", "context", "cache_type", "layers"]
"""``ubatch``: halved down to 512. ``context``: 3/4 and 1/2 of what is declared. ``cache_type``: KV at q8_0.
``layers``: the first layers wholly in RAM, attention and KV cache too."""

Count = Annotated[int, Field(ge=0)]
Share = Annotated[int, Field(ge=1)]

Experts = Literal["up", "gate", "down", "gate_up"]
"""Expert tensors of a layer, as in blk.N.ffn_<this>_exps.weight."""


class CpuOnly(Declaration):
    """Nothing on any GPU."""

    kind: Literal["cpu-only"] = "cpu-only"


class AllOnGpu(Declaration):
    """Every layer on the GPUs."""

    kind: Literal["all-on-gpu"] = "all-on-gpu"


class Layers(Declaration):
    """Whole layers on each GPU, in device order; the experts of every other layer in RAM.

    ``split`` is llama.cpp's ``--tensor-split``: which GPU holds the attention, KV cache and state of which layers, in
    integers whose sum is the header's block_count plus one (the output layer), less ``in_ram``. ``gpu[i]`` of the
    ``split[i]`` layers keep their experts there too, counted from the first; of the layer after them, the expert
    tensors named in ``partial[i]`` stay there.

    block_count includes layers of multi-token prediction. They are the last ones, and llama.cpp loads them only for
    draft-mtp; ``nextn`` of them count neither in ``gpu`` nor in what stays in RAM.
    """

    kind: Literal["layers"] = "layers"
    gpu: Annotated[
        tuple[Count, ...],
        Field(min_length=1, description="whole layers on each GPU"),
        Flag(
            "--override-tensor",
            aliases=("-ot",),
            unit="layers per GPU",
            source=OWNER,
            env=("LLAMA_ARG_OVERRIDE_TENSOR",),
            decides_memory=True,
            rendered_by="placement_arguments",
        ),
    ]
    split: Annotated[
        tuple[Count, ...],
        Field(min_length=1, description="layers whose attention and KV cache each GPU holds, the output included"),
        Flag(
            "--tensor-split",
            aliases=("-ts",),
            unit="layers per GPU",
            source=OWNER,
            env=("LLAMA_ARG_TENSOR_SPLIT",),
            decides_memory=True,
            rendered_by="placement_arguments",
        ),
    ]
    partial: Annotated[
        tuple[tuple[Experts, ...], ...],
        Field(description="expert tensors on each GPU of the layer after its whole ones"),
        Setting("part of --override-tensor", unit="tensors per GPU", source=OWNER),
    ] = ()
    in_ram: Annotated[
        int,
        Field(ge=0, description="the first layers, wholly in RAM: attention and KV cache too"),
        Setting("part of --n-gpu-layers", unit="layers", source=OWNER),
    ] = 0
    nextn: Annotated[
        int,
        Field(ge=0, description="layers of multi-token prediction in split: wholly where the split puts them"),
        Setting("part of --override-tensor", unit="layers", source=GGUF),
    ] = 0

    @property
    def room(self) -> tuple[int, ...]:
        """Layers on each GPU: its share, less the output and the layers of multi-token prediction, which are last."""
        room, left = list(self.split), 1 + self.nextn
        for index in reversed(range(len(room))):
            taken = min(room[index], left)
            room[index] -= taken
            left -= taken
        return tuple(room)

    @model_validator(mode="after")
    def _whole_layers_lie_on_their_gpu(self) -> Layers:
        if len(self.gpu) != len(self.split):
            raise ValueError(f"gpu names {len(self.gpu)} GPUs, split {len(self.split)}: give one number per GPU")
        if self.partial and len(self.partial) != len(self.split):
            raise ValueError(f"partial is for {len(self.partial)} GPUs, split for {len(self.split)}: give one per GPU")
        if not any(self.split):
            raise ValueError("split gives no GPU a layer: declare cpu_only()")
        if sum(self.split) <= self.nextn:
            raise ValueError(
                f"split adds up to {sum(self.split)}, too few for the output and {self.nextn} layers of multi-token "
                "prediction: lower nextn or raise split"
            )
        for index, (whole, layers) in enumerate(zip(self.gpu, self.room, strict=True)):
            more = bool(self.partial and self.partial[index])
            if whole + more > layers:
                raise ValueError(
                    f"gpu[{index}] = {whole} whole layers{' and a partial one' * more}, but split gives GPU {index} "
                    f"only {layers}: lower gpu[{index}] or raise split[{index}]"
                )
        return self


class Auto(Declaration):
    """As many whole layers on the GPUs as fit, in device order, by dry runs of the release that will serve.

    The plan is kept in the rig's plan file until one of its inputs changes.
    """

    kind: Literal["auto"] = "auto"
    margin_mib: Annotated[
        int,
        Field(ge=0, description="kept free on each GPU, for what no dry run sees"),
        Setting(
            "margins of the plan",
            unit="MiB",
            source="measured on two cards with the pinned commit: 265-316 MiB appear at warm-up and in the first "
            "prompts; a start with 64 died at its first decode (tests/gpu/RESULTS.md)",
        ),
    ] = 384
    per_gpu: Annotated[
        tuple[Count, ...] | None,
        Field(description="margins in device order, where they differ: a card with a display needs more"),
        Setting("margins of the plan", unit="MiB per GPU", default="margin_mib on each", source=OWNER),
    ] = None
    give_up: Annotated[
        tuple[GiveUp, ...],
        Field(description="what may be lowered, in this order, when not even attention and KV cache fit"),
        Setting("fallbacks of the plan", unit="-", source=OWNER),
    ] = ()

    @field_validator("give_up")
    @classmethod
    def _each_once(cls, value: tuple[GiveUp, ...]) -> tuple[GiveUp, ...]:
        if len(set(value)) < len(value):
            raise ValueError("the same entry twice: name each once, in your order of preference")
        return value

    def margins(self, gpus: int) -> tuple[int, ...]:
        """Margin in MiB for each GPU.

        :param gpus: how many there are
        :raises ValueError: when per_gpu is for another number of them
        """
        if self.per_gpu is None:
            return (self.margin_mib,) * gpus
        if len(self.per_gpu) != gpus:
            raise ValueError(f"per_gpu names {len(self.per_gpu)} margins, and there are {gpus} GPUs: give one per GPU")
        return self.per_gpu


class CpuMoe(Declaration):
    """All layers on the GPU, but the experts of the first ``layers`` layers in RAM (``--n-cpu-moe``).

    llama.cpp counts from the first layer, not from the last (common/arg.cpp, pinned commit).
    """

    kind: Literal["cpu-moe"] = "cpu-moe"
    layers: Annotated[
        int,
        Field(ge=1, description="the first layers, whose experts stay in RAM"),
        Flag(
            "--n-cpu-moe",
            aliases=("-ncmoe",),
            unit="layers",
            source=OWNER,
            env=("LLAMA_ARG_N_CPU_MOE",),
            decides_memory=True,
            rendered_by="placement_arguments",
        ),
    ]


class Fit(Declaration):
    """Let llama.cpp place the layers itself, leaving ``target_mib`` MiB free per GPU."""

    kind: Literal["fit"] = "fit"
    target_mib: Annotated[
        tuple[Count, ...],
        Field(min_length=1, description="kept free on each GPU; the last value holds for the GPUs after it"),
        Flag(
            "--fit-target",
            aliases=("-fitt",),
            unit="MiB per GPU",
            source=LLAMA_CPP,
            env=("LLAMA_ARG_FIT_TARGET",),
            decides_memory=True,
            rendered_by="placement_arguments",
        ),
    ] = (1024,)
    minimum_context: Annotated[
        int | None,
        Field(ge=256, description="least context that the fit may shrink to; a declared context is never shrunk"),
        Flag(
            "--fit-ctx",
            aliases=("-fitc",),
            unit="tokens",
            default="4096",
            source=LLAMA_CPP,
            env=("LLAMA_ARG_FIT_CTX",),
            decides_memory=True,
            rendered_by="placement_arguments",
        ),
    ] = None


class Override(Declaration):
    """The owner's own ``--override-tensor`` rules, passed on unchanged and in order."""

    kind: Literal["override"] = "override"
    rules: Annotated[
        tuple[str, ...],
        Field(min_length=1, description="REGEX=DEVICE; the first that matches a tensor decides"),
        Flag(
            "--override-tensor",
            aliases=("-ot",),
            unit="-",
            source=OWNER,
            env=("LLAMA_ARG_OVERRIDE_TENSOR",),
            decides_memory=True,
            rendered_by="placement_arguments",
        ),
    ]
    gpu_layers: Annotated[
        int,
        Field(ge=0, description="how many of the last layers are on GPUs"),
        Flag(
            "--n-gpu-layers",
            unit="layers",
            source="llamarig: more than any model has",
            env=("LLAMA_ARG_N_GPU_LAYERS",),
            decides_memory=True,
            rendered_by="placement_arguments",
        ),
    ] = 99
    split: Annotated[
        tuple[Share, ...] | None,
        Field(description="share of the layers that each GPU holds"),
        Flag(
            "--tensor-split",
            aliases=("-ts",),
            unit="shares",
            default="free memory at the start",
            source="llama.cpp: src/llama-model.cpp:1556-1576",
            env=("LLAMA_ARG_TENSOR_SPLIT",),
            decides_memory=True,
            rendered_by="placement_arguments",
        ),
    ] = None

    @field_validator("rules")
    @classmethod
    def _rules(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for rule in value:
            pattern, equals, device = rule.rpartition("=")
            if not (pattern and equals and device):
                raise ValueError(f"{rule!r} is no rule: write REGEX=DEVICE, for example exps=CPU")
            if "," in rule:
                raise ValueError(f"{rule!r}: llama.cpp splits at every comma; give each rule on its own")
        return value


Placement = Annotated[CpuOnly | AllOnGpu | Auto | Layers | CpuMoe | Fit | Override, Field(discriminator="kind")]
