"""Where the layers of a model go, as its owner says it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from tasks.spec.base import Declaration


class CpuOnly(Declaration):
    """Nothing on any GPU."""

    kind: Literal["cpu-only"] = "cpu-only"


class AllOnGpu(Declaration):
    """Every layer on the GPUs."""

    kind: Literal["all-on-gpu"] = "all-on-gpu"


class Layers(Declaration):
    """Whole layers on each GPU, in device order; the experts of every other layer in RAM.

    ``split`` says which GPU holds the attention, KV cache and state of which layers, as llama.cpp's
    ``--tensor-split``: integers whose sum is the model's layer count plus one (the output layer).
    ``gpu[i]`` of the ``split[i]`` layers keep their experts there too, counted from the first.
    """

    kind: Literal["layers"] = "layers"
    gpu: tuple[Annotated[int, Field(ge=0)], ...] = Field(min_length=1)
    split: tuple[Annotated[int, Field(ge=1)], ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _whole_layers_lie_on_their_gpu(self) -> Layers:
        if len(self.gpu) != len(self.split):
            raise ValueError(f"gpu names {len(self.gpu)} GPUs, split {len(self.split)}: give one number a GPU")
        room = list(self.split)
        room[-1] -= 1  # the last share of the split is the output layer, which has no experts
        for index, (whole, layers) in enumerate(zip(self.gpu, room, strict=True)):
            if whole > layers:
                raise ValueError(
                    f"gpu[{index}] = {whole} whole layers, but split gives GPU {index} only {layers}: "
                    f"lower gpu[{index}] or raise split[{index}]"
                )
        return self


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


Placement = Annotated[CpuOnly | AllOnGpu | Layers | CpuMoe | Fit | Override, Field(discriminator="kind")]
