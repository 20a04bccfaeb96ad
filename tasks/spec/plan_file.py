"""The plan file: what the planner decided for each model with auto() on each box, and what that belongs to."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, field_validator

from tasks.spec.base import Declaration
from tasks.spec.kv_cache import CacheType
from tasks.spec.placement import GiveUp, Layers

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Mib = Annotated[int, Field(ge=0)]


class PlannedDevice(Declaration):
    """A GPU as llama.cpp saw it when the plan was made. ``free_mib`` is without what our own servers held."""

    name: str
    description: str
    total_mib: Mib
    free_mib: Mib
    uuid: str = ""


class Belongs(Declaration):
    """What a plan is true for; when any of it changes, the plan is stale.

    ``header``: sha256 over the headers of all shards, in their order. ``flags``: the arguments of the dry run, without
    the model's path and without what the plan itself decides. ``release``: the release's directory name.
    """

    header: Sha256
    shards: tuple[Sha256, ...] = Field(default=(), description="of the model lock: the same files have the same header")
    devices: tuple[PlannedDevice, ...] = Field(min_length=1)
    margins_mib: tuple[Mib, ...]
    others_mib: tuple[Mib, ...] = Field(default=(), description="on each GPU: vision projector and draft model")
    flags: tuple[str, ...]
    release: str


class DeviceMemory(Declaration):
    """MiB a server takes on one device, as the dry run predicts them; ``name`` is Host for RAM."""

    name: str
    model_mib: Mib
    context_mib: Mib
    compute_mib: Mib
    state_mib: Mib = Field(default=0, description="what of context_mib is recurrent state, and not KV cache")

    @property
    def total_mib(self) -> int:
        """All of it."""
        return self.model_mib + self.context_mib + self.compute_mib


class NextLayer(Declaration):
    """What one whole layer more on a GPU would need: measured by a dry run, or else computed from tensor sizes."""

    name: str
    needs_mib: Mib
    has_mib: Mib
    measured: bool


class GivenUp(Declaration):
    """A declared value that was lowered because nothing fitted, in the order of ``auto(give_up=...)``."""

    what: GiveUp
    declared: str
    planned: str
    frees_mib: tuple[int, ...] = Field(description="on each GPU, by dry runs")


class FitPeer(Declaration):
    """What llama.cpp's own --fit makes of the same header, margins and flags."""

    arguments: str
    whole: tuple[int, ...] = Field(description="layers whose experts are all on their own GPU")
    spread: int = Field(default=0, description="layers whose experts are on two GPUs: each crosses the bus")
    memory: tuple[DeviceMemory, ...]
    splits: tuple[int, int] | None = None


class RamBudget(Declaration):
    """MiB of RAM: what a server takes there when its caches are full, and what there is, 0 where unknown."""

    weights_mib: Mib
    buffers_mib: Mib
    cache_mib: Mib
    checkpoints_mib: Mib
    reserve_mib: Mib
    available_mib: Mib

    @property
    def total_mib(self) -> int:
        """All that is taken, the reserve too."""
        return self.weights_mib + self.buffers_mib + self.cache_mib + self.checkpoints_mib + self.reserve_mib


class Proposal(Declaration):
    """What a start that did not go as planned asks for: a placement that takes less. The owner accepts by planning."""

    placement: Layers
    reason: str
    missing_mib: tuple[int, ...] = ()


class Plan(Declaration):
    """One model on one box. ``splits``: graph splits of a prompt batch and of one token."""

    belongs: Belongs
    placement: Layers
    context: int
    ubatch: int
    cache_type_k: CacheType
    cache_type_v: CacheType
    memory: tuple[DeviceMemory, ...] = Field(description="one a device, in device order, then Host")
    output_compute_mib: Mib | None = Field(
        default=None, description="compute of the output's GPU as llama-fit-params itself prints it, with more logits"
    )
    ram: RamBudget
    pinnable_mib: Mib = Field(
        default=0, description="weights in RAM that prompts are computed from; 0 too in plans of older versions"
    )
    box_ram_mib: Mib = Field(default=0, description="MemTotal of the box, 0 where unknown")
    splits: tuple[int, int] | None = None
    next_layer: tuple[NextLayer, ...] = ()
    given_up: tuple[GivenUp, ...] = ()
    fit: FitPeer | None = Field(default=None, description="none where fit gave up, or was not asked")
    dry_runs: int = 0
    notes: tuple[str, ...] = Field(default=(), description="what its owner should know: guesses, RAM that is short")
    proposals: tuple[Proposal, ...] = ()

    @property
    def gpus(self) -> tuple[DeviceMemory, ...]:
        """Memory of the GPUs, in device order."""
        return self.memory[:-1]

    @property
    def host(self) -> DeviceMemory:
        """Memory in RAM: weights, and buffers pinned for the GPUs."""
        return self.memory[-1]


class MeasuredPlacement(Declaration):
    """What a placement that its owner declared takes, by a dry run: whether its weights in RAM may be pinned.

    True for ``shards``, ``release``, ``flags`` and ``devices``; measured anew when one of them changes. ``flags``: the
    arguments that decide memory, those of the placement included. ``failed``: why there are no numbers.
    """

    shards: tuple[Sha256, ...]
    release: str
    flags: tuple[str, ...]
    devices: tuple[PlannedDevice, ...] = ()
    left_mib: tuple[int, ...] = Field(default=(), description="on each GPU: free, less all that the server takes")
    ram: RamBudget = RamBudget(
        weights_mib=0, buffers_mib=0, cache_mib=0, checkpoints_mib=0, reserve_mib=0, available_mib=0
    )
    pinnable_mib: Mib = 0
    box_ram_mib: Mib = Field(default=0, description="MemTotal of the box, 0 where unknown")
    failed: str = ""


class PlanFile(Declaration):
    """Box -> model -> plan, and box -> model -> what a placement that its owner declared takes."""

    boxes: dict[str, dict[str, Plan]] = Field(default={})
    measured: dict[str, dict[str, MeasuredPlacement]] = Field(default={})

    @field_validator("boxes")
    @classmethod
    def _one_number_a_gpu(cls, value: dict[str, dict[str, Plan]]) -> dict[str, dict[str, Plan]]:
        for box, plans in value.items():
            for model, plan in plans.items():
                belongs, gpus = plan.belongs, len(plan.belongs.devices)
                counts = {len(plan.memory) - 1, len(belongs.margins_mib), len(plan.placement.gpu)}
                if counts != {gpus} or len(belongs.others_mib) not in (0, gpus):
                    raise ValueError(
                        f"{box}, {model}: memory, margins_mib, others_mib and placement are not all for its {gpus} GPUs"
                    )
        return value
