"""Where the layers of a model go, as its owner says it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from tasks.spec.base import Declaration

GiveUp = Literal["ubatch", "context", "cache_type", "layers"]
"""``ubatch``: halved down to 512. ``context``: 3/4 and 1/2 of what is declared. ``cache_type``: KV at q8_0.
``layers``: the first layers wholly in RAM, attention and KV cache too."""

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

    ``split`` says which GPU holds the attention, KV cache and state of which layers, as llama.cpp's
    ``--tensor-split``: integers whose sum is the header's block_count plus one (the output layer), less ``in_ram``.
    ``gpu[i]`` of the ``split[i]`` layers keep their experts there too, counted from the first; of the layer after
    them, the expert tensors named in ``partial[i]`` do.

    block_count includes layers of multi-token prediction. They are the last ones, and without draft-mtp they are not
    loaded; ``nextn`` says how many of them are to be left out of ``gpu`` and of what stays in RAM.
    """

    kind: Literal["layers"] = "layers"
    gpu: tuple[Annotated[int, Field(ge=0)], ...] = Field(min_length=1)
    split: tuple[Annotated[int, Field(ge=0)], ...] = Field(min_length=1)
    partial: tuple[tuple[Experts, ...], ...] = ()
    in_ram: int = Field(default=0, ge=0, description="the first layers, wholly in RAM: attention and KV cache too")
    nextn: int = Field(
        default=0, ge=0, description="layers of multi-token prediction in split: wholly where the split puts them"
    )

    @property
    def room(self) -> tuple[int, ...]:
        """How many layers lie on each GPU: its share, less the output and the layers of multi-token prediction, which
        have the last positions."""
        room, left = list(self.split), 1 + self.nextn
        for index in reversed(range(len(room))):
            taken = min(room[index], left)
            room[index] -= taken
            left -= taken
        return tuple(room)

    @model_validator(mode="after")
    def _whole_layers_lie_on_their_gpu(self) -> Layers:
        if len(self.gpu) != len(self.split):
            raise ValueError(f"gpu names {len(self.gpu)} GPUs, split {len(self.split)}: give one number a GPU")
        if self.partial and len(self.partial) != len(self.split):
            raise ValueError(f"partial is for {len(self.partial)} GPUs, split for {len(self.split)}: one a GPU")
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
    """As many whole layers on the GPUs as fit, in device order; decided by dry runs of the release that will serve.

    The plan is kept in the rig's plan file and is not made anew until what it belongs to changes.
    """

    kind: Literal["auto"] = "auto"
    margin_mib: int = Field(
        default=384,
        ge=0,
        description="MiB kept free on each GPU, for what no dry run sees: 265-316 MiB appear at warm-up and in the "
        "first prompts (measured on two cards with the pinned commit); 64 died at its first decode",
    )
    per_gpu: tuple[Annotated[int, Field(ge=0)], ...] | None = Field(
        default=None, description="margins in device order, where they differ: a card with a display needs more"
    )
    give_up: tuple[GiveUp, ...] = Field(
        default=(), description="what may be lowered, in this order, when not even attention and KV cache fit"
    )

    @field_validator("give_up")
    @classmethod
    def _each_once(cls, value: tuple[GiveUp, ...]) -> tuple[GiveUp, ...]:
        if len(set(value)) < len(value):
            raise ValueError("the same thing given up twice: name each once, in your order of preference")
        return value

    def margins(self, gpus: int) -> tuple[int, ...]:
        """MiB for each of so many GPUs.

        :raises ValueError: when per_gpu is for another number of them
        """
        if self.per_gpu is None:
            return (self.margin_mib,) * gpus
        if len(self.per_gpu) != gpus:
            raise ValueError(f"per_gpu names {len(self.per_gpu)} margins, and there are {gpus} GPUs: give one a GPU")
        return self.per_gpu


class CpuMoe(Declaration):
    """All layers on the GPU, but the experts of the first ``layers`` layers in RAM (``--n-cpu-moe``).

    llama.cpp counts from the first layer, not from the last (common/arg.cpp, pinned commit).
    """

    kind: Literal["cpu-moe"] = "cpu-moe"
    layers: int = Field(ge=1)


class Fit(Declaration):
    """Let llama.cpp place the layers itself, leaving ``target_mib`` MiB free per GPU."""

    kind: Literal["fit"] = "fit"
    target_mib: tuple[Annotated[int, Field(ge=0)], ...] = Field(default=(1024,), min_length=1)
    minimum_context: int | None = Field(default=None, ge=256)


class Override(Declaration):
    """The owner's own ``--override-tensor`` rules, kept word for word and in order."""

    kind: Literal["override"] = "override"
    rules: tuple[str, ...] = Field(min_length=1)
    gpu_layers: int = Field(default=99, ge=0)
    split: tuple[Annotated[int, Field(ge=1)], ...] | None = None

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
