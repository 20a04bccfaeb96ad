"""Where the layers of a model go."""

from __future__ import annotations

import functools
from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt, PositiveInt, field_validator, model_validator

from llamarig.declare.base import Declaration
from llamarig.declare.flags import GGUF, LLAMA_CPP, OWNER, Flag, Setting

GiveUp = Literal["ubatch", "context", "cache_type", "layers"]
"""``ubatch``: halved down to 512. ``context``: 3/4 and 1/2 of what is declared. ``cache_type``: KV at q8_0.
``layers``: the first layers wholly in RAM, attention and KV cache too."""


_SPLIT_SOURCE = "llama.cpp: src/llama-model.cpp:1556-1576"
_flag = functools.partial(Flag, source=OWNER, decides_memory=True, rendered_by="placement_arguments")

DEFAULT_MARGIN_MIB = 384
"""The margin of a plan where none is declared and none was measured on the box."""
Experts = Literal["up", "gate", "down", "gate_up"]
"""Expert tensors of a layer, as in blk.N.ffn_<this>_exps.weight."""


def _with_a_share(split: tuple[int, ...] | None) -> tuple[int, ...] | None:
    """Return a split.

    :raises ValueError: where it gives no GPU a layer
    """
    if split is not None and not any(split):
        raise ValueError("split gives no GPU a layer: declare cpu_only()")
    return split


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
    gpu: Annotated[tuple[NonNegativeInt, ...], Field(min_length=1), _flag("--override-tensor -ot", "layers per GPU")]
    """Whole layers on each GPU."""
    split: Annotated[tuple[NonNegativeInt, ...], Field(min_length=1), _flag("--tensor-split -ts", "layers per GPU")]
    """Layers whose attention and KV cache each GPU holds, the output included."""
    partial: Annotated[tuple[tuple[Experts, ...], ...], Setting("part of --override-tensor", "tensors per GPU")] = ()
    """Expert tensors on each GPU of the layer after its whole ones."""
    in_ram: Annotated[NonNegativeInt, Setting("part of --n-gpu-layers", "layers")] = 0
    """The first layers, wholly in RAM: attention and KV cache too."""
    nextn: Annotated[NonNegativeInt, Setting("part of --override-tensor", "layers", source=GGUF)] = 0
    """Layers of multi-token prediction in split: wholly where the split puts them."""

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
        NonNegativeInt,
        Setting(
            "margins of the plan",
            "MiB",
            source="measured on two cards with the pinned commit: 265-316 MiB appear at warm-up and in the first "
            "prompts; a start with 64 died at its first decode (tests/gpu/RESULTS.md)",
        ),
    ] = DEFAULT_MARGIN_MIB
    """Kept free on each GPU, for what no dry run sees. 384 is replaced by what tasks/bench.py has measured."""
    per_gpu: Annotated[
        tuple[NonNegativeInt, ...] | None, Setting("margins of the plan", "MiB per GPU", default="margin_mib on each")
    ] = None
    """Margins in device order, where they differ: a card with a display needs more."""
    give_up: Annotated[tuple[GiveUp, ...], Setting("fallbacks of the plan")] = ()
    """What may be lowered, in this order, when not even attention and KV cache fit."""

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
    layers: Annotated[PositiveInt, _flag("--n-cpu-moe -ncmoe", "layers")]
    """The first layers, whose experts stay in RAM."""
    split: Annotated[
        tuple[NonNegativeInt, ...] | None,
        _flag("--tensor-split -ts", "shares", default="free memory at the start", source=_SPLIT_SOURCE),
    ] = None
    """Share of the layers that each GPU holds; larger on the first GPUs, whose layers have their experts in RAM."""

    @field_validator("split")
    @classmethod
    def _names_a_gpu(cls, value: tuple[int, ...] | None) -> tuple[int, ...] | None:
        return _with_a_share(value)


class Fit(Declaration):
    """Let llama.cpp place the layers itself, leaving ``target_mib`` MiB free per GPU."""

    kind: Literal["fit"] = "fit"
    target_mib: Annotated[
        tuple[NonNegativeInt, ...], Field(min_length=1), _flag("--fit-target -fitt", "MiB per GPU", source=LLAMA_CPP)
    ] = (1024,)
    """Kept free on each GPU; the last value holds for the GPUs after it."""
    minimum_context: Annotated[
        int | None, Field(ge=256), _flag("--fit-ctx -fitc", "tokens", default="4096", source=LLAMA_CPP)
    ] = None
    """Least context that the fit may shrink to; a declared context is never shrunk."""


class Override(Declaration):
    """The owner's own numbers and ``--override-tensor`` rules, passed on unchanged and in order.

    ``override(gpu_layers=20)`` is a dense model of which 20 layers fit; ``override(split=(3, 1))`` one on two GPUs.
    """

    kind: Literal["override"] = "override"
    rules: Annotated[tuple[str, ...], _flag("--override-tensor -ot", default="no rules")] = ()
    """REGEX=DEVICE; the first that matches a tensor decides."""
    gpu_layers: Annotated[NonNegativeInt | None, _flag("--n-gpu-layers", "layers", default="all", source=GGUF)] = None
    """How many of the last layers are on GPUs."""
    split: Annotated[
        tuple[NonNegativeInt, ...] | None,
        _flag("--tensor-split -ts", "shares", default="free memory at the start", source=_SPLIT_SOURCE),
    ] = None
    """Share of the layers that each GPU holds."""

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

    @field_validator("split")
    @classmethod
    def _gives_a_gpu_layers(cls, value: tuple[int, ...] | None) -> tuple[int, ...] | None:
        return _with_a_share(value)

    @model_validator(mode="after")
    def _overrides_something(self) -> Override:
        if not self.rules and self.split is None and self.gpu_layers is None:
            raise ValueError("override() places nothing: give rules, gpu_layers or split, or declare all_on_gpu()")
        return self


Placement = Annotated[CpuOnly | AllOnGpu | Auto | Layers | CpuMoe | Fit | Override, Field(discriminator="kind")]
