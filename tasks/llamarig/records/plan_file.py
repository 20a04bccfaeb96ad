"""The plan file: plans of models with auto(), dry-run measurements of declared placements, and tunings, per box."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, TypeVar

from pydantic import Field, field_validator

from llamarig.declare.base import Declaration
from llamarig.declare.kv_cache import CacheType
from llamarig.declare.placement import GiveUp, Layers
from llamarig.declare.serve.weights import LoadMode
from llamarig.records import store
from llamarig.records.base import StoredRecord
from llamarig.records.tuning import AcceptedSettings, Tuning, accepted_with

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Mib = Annotated[int, Field(ge=0)]
T = TypeVar("T")


class PlannedDevice(Declaration):
    """A GPU as llama.cpp listed it when the plan was made. ``free_mib``: as if no model server were running.

    ``driver_free_mib``: the same by its driver, without the context of the program that lists it; 0 where unknown.
    """

    name: str
    description: str
    total_mib: Mib
    free_mib: Mib
    driver_free_mib: Mib = 0
    uuid: str = ""
    set_aside_mib: Mib = Field(
        default=0, description="of a GPU that shares the box's RAM: what the firmware keeps for it beside MemTotal"
    )
    shared: bool | None = Field(
        default=None, description="whether its memory is the box's RAM, where its driver tells otherwise than its name"
    )


class PlanInputs(Declaration):
    """The inputs a plan was computed from; it is stale once any of them changes.

    ``header``: sha256 over the headers of all shards, in their order. ``flags``: arguments of the dry run, without the
    model's path and without what the plan itself decides. ``release``: directory name of the release.
    """

    header: Sha256
    shards: tuple[Sha256, ...] = Field(default=(), description="sha256 of the shards, from the model lock")
    devices: tuple[PlannedDevice, ...] = Field(min_length=1)
    margins_mib: tuple[Mib, ...]
    others_mib: tuple[Mib, ...] = Field(default=(), description="vision projector and draft model, on each GPU")
    flags: tuple[str, ...]
    release: str
    load_mode: LoadMode | None = Field(default=None, description="as declared; none in plans of older versions")
    offload_min_batch: str | None = Field(
        default=None,
        description="GGML_OP_OFFLOAD_MIN_BATCH as declared, empty where not; none in plans of older versions",
    )


class DeviceMemory(Declaration):
    """Memory of a server on one device in MiB, as predicted by the dry run. ``name``: Host for RAM."""

    name: str
    model_mib: Mib
    context_mib: Mib
    compute_mib: Mib
    state_mib: Mib = Field(default=0, description="part of context_mib that is recurrent state, not KV cache")

    @property
    def total_mib(self) -> int:
        """Sum of weights, context and compute buffers."""
        return self.model_mib + self.context_mib + self.compute_mib


class NextLayer(Declaration):
    """Memory that one more whole layer on a GPU would need. ``measured``: by a dry run, else from tensor sizes."""

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


class FitResult(Declaration):
    """The result of llama.cpp's own --fit for the same header, margins and flags."""

    arguments: str
    whole: tuple[int, ...] = Field(description="layers whose experts are all on the GPU of the layer")
    spread: int = Field(default=0, description="layers whose experts are on two GPUs, with traffic on the bus")
    memory: tuple[DeviceMemory, ...]
    splits: tuple[int, int] | None = None


class RamBudget(Declaration):
    """RAM of a server with full caches, and available RAM (0 where unknown), in MiB."""

    weights_mib: Mib
    buffers_mib: Mib
    cache_mib: Mib
    checkpoints_mib: Mib
    reserve_mib: Mib
    available_mib: Mib

    @property
    def total_mib(self) -> int:
        """RAM that is needed, including the reserve."""
        return self.weights_mib + self.buffers_mib + self.cache_mib + self.checkpoints_mib + self.reserve_mib


class PlannedLoading(Declaration):
    """How a plan loads the weights in RAM. ``mode``: none (pinned) or auto (mapped), or as declared.

    ``ram_lacks_mib``, ``vram_lacks_mib`` (on each GPU): what pinned weights would need more. ``why``: why weights in
    RAM are not pinned, empty where they are, where the owner declares the mode, and where there are none.
    """

    mode: LoadMode
    ram_lacks_mib: Mib = 0
    vram_lacks_mib: tuple[Mib, ...] = ()
    why: str = ""


class MeasuredMargin(Declaration):
    """What a served model took on each GPU beyond what its plan predicted, after two long prompts.

    It holds for these cards (UUIDs), this release, these flags (as in PlanInputs) and load mode.
    ``beyond_mib``: on each GPU. ``left_mib``: what was free there then. ``prompt_tokens``: of each of the two prompts.
    """

    cards: tuple[str, ...]
    release: str
    flags: tuple[str, ...]
    load_mode: LoadMode
    offload_min_batch: str = ""
    beyond_mib: tuple[Mib, ...]
    left_mib: tuple[Mib, ...]
    prompt_tokens: int = Field(ge=1)
    date: str = Field(description="UTC, by the clock of the control machine")


class MarginGain(Declaration):
    """What a plan with a measured margin gains. ``whole_instead``: whole layers with the margins ``instead_mib``."""

    measured: MeasuredMargin
    instead_mib: tuple[Mib, ...]
    whole_instead: int = Field(ge=0, description="by the same estimate that the search uses")


class Proposal(Declaration):
    """A smaller placement, after a start that ran out of memory. The owner accepts it by planning anew."""

    placement: Layers
    reason: str
    missing_mib: tuple[int, ...] = ()


class Plan(Declaration):
    """One model on one box. ``splits``: graph splits of a prompt batch and of one token."""

    belongs: PlanInputs
    placement: Layers
    context: int
    ubatch: int
    cache_type_k: CacheType
    cache_type_v: CacheType
    memory: tuple[DeviceMemory, ...] = Field(description="one per device, in device order, then Host")
    output_compute_mib: Mib | None = Field(
        default=None, description="compute buffer of the output's GPU as llama-fit-params prints it, with more logits"
    )
    ram: RamBudget
    pinnable_mib: Mib = Field(
        default=0, description="weights in RAM that prompts are computed from; also 0 in plans of older versions"
    )
    box_ram_mib: Mib = Field(default=0, description="MemTotal of the box, 0 where unknown")
    splits: tuple[int, int] | None = None
    next_layer: tuple[NextLayer, ...] = ()
    given_up: tuple[GivenUp, ...] = ()
    fit: FitResult | None = Field(default=None, description="none where --fit failed or did not run")
    dry_runs: int = 0
    notes: tuple[str, ...] = Field(default=(), description="for the owner: estimates, RAM that is short")
    loading: PlannedLoading | None = Field(default=None, description="none in plans of older versions")
    margin: MarginGain | None = Field(default=None, description="none where the margins are declared or the defaults")
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
    """Dry-run measurement of a declared placement, which decides whether its weights in RAM may be pinned.

    Valid for ``shards``, ``release``, ``flags`` and ``devices``; measured anew when one of them changes. ``flags``:
    arguments that affect memory, including the placement. ``failed``: why there are no numbers.
    """

    shards: tuple[Sha256, ...]
    release: str
    flags: tuple[str, ...]
    devices: tuple[PlannedDevice, ...] = ()
    left_mib: tuple[int, ...] = Field(default=(), description="free memory on each GPU after the server's")
    ram: RamBudget = RamBudget(
        weights_mib=0, buffers_mib=0, cache_mib=0, checkpoints_mib=0, reserve_mib=0, available_mib=0
    )
    pinnable_mib: Mib = 0
    box_ram_mib: Mib = Field(default=0, description="MemTotal of the box, 0 where unknown")
    failed: str = ""


class TunedModel(Declaration):
    """The last result of tuning a model, the plan of what it proposes where that needs one, and what is accepted."""

    tuning: Tuning
    plan: Plan | None = None
    accepted: AcceptedSettings | None = None


class PlanFile(StoredRecord):
    """Box -> model -> plan, measurement of a declared placement, measured margins of a plan, and result of tuning."""

    title: ClassVar[str] = "plan file"

    boxes: dict[str, dict[str, Plan]] = Field(default={})
    measured: dict[str, dict[str, MeasuredPlacement]] = Field(default={})
    margins: dict[str, dict[str, tuple[MeasuredMargin, ...]]] = Field(default={})
    tuned: dict[str, dict[str, TunedModel]] = Field(default={})

    @field_validator("boxes")
    @classmethod
    def _one_number_a_gpu(cls, value: dict[str, dict[str, Plan]]) -> dict[str, dict[str, Plan]]:
        for box, plans in value.items():
            for model, plan in plans.items():
                belongs, gpus = plan.belongs, len(plan.belongs.devices)
                counts = {len(plan.memory) - 1, len(belongs.margins_mib), len(plan.placement.gpu)}
                if counts != {gpus} or len(belongs.others_mib) not in (0, gpus):
                    raise ValueError(
                        f"{box}, {model}: memory, margins_mib, others_mib and placement must all be for {gpus} GPUs"
                    )
        return value


def read_plan_file(path: str) -> PlanFile:
    """Read the plan file; an empty one where there is no file.

    :raises RecordError: when the file cannot be read, or is not a valid plan file
    """
    return store.read(path, PlanFile)


def record_plan(path: str, box: str, model: str, plan: Plan) -> None:
    """Write one plan into the plan file.

    :raises RecordError: when the file cannot be read or written
    """
    store.update(path, PlanFile, lambda file: file.model_copy(update={"boxes": _with(file.boxes, box, model, plan)}))


def record_measurement(path: str, box: str, model: str, measured: MeasuredPlacement) -> None:
    """Write the measurement of one declared placement into the plan file.

    :raises RecordError: when the file cannot be read or written
    """
    store.update(
        path, PlanFile, lambda file: file.model_copy(update={"measured": _with(file.measured, box, model, measured)})
    )


def record_margin(path: str, box: str, model: str, margin: MeasuredMargin) -> None:
    """Write a measured margin into the plan file, in place of those of the same load mode.

    :raises RecordError: when the file cannot be read or written
    """

    def with_margin(file: PlanFile) -> PlanFile:
        others = (one for one in file.margins.get(box, {}).get(model, ()) if one.load_mode != margin.load_mode)
        return file.model_copy(update={"margins": _with(file.margins, box, model, (*others, margin))})

    store.update(path, PlanFile, with_margin)


def record_tuning(path: str, box: str, model: str, tuning: Tuning, plan: Plan | None) -> None:
    """Write the result of tuning one model into the plan file; what was accepted before stays so.

    :param plan: of what is proposed, where the model is placed by a plan and that differs
    :raises RecordError: when the file cannot be read or written
    """

    def recorded(file: PlanFile) -> PlanFile:
        before = file.tuned.get(box, {}).get(model)
        now = TunedModel(tuning=tuning, plan=plan, accepted=None if before is None else before.accepted)
        return file.model_copy(update={"tuned": _with(file.tuned, box, model, now)})

    store.update(path, PlanFile, recorded)


def accept_tuning(path: str, box: str, model: str) -> Tuning | None:
    """Accept the proposal of a model, and take its plan; return it, or None where there is none.

    :raises RecordError: when the file cannot be read or written
    """
    found: list[Tuning] = []

    def accepted(file: PlanFile) -> PlanFile:
        tuned = file.tuned.get(box, {}).get(model)
        if tuned is None or not tuned.tuning.settings:
            return file
        found.append(tuned.tuning)
        now = tuned.model_copy(update={"accepted": accepted_with(tuned.accepted, tuned.tuning)})
        update: dict[str, object] = {"tuned": _with(file.tuned, box, model, now)}
        if tuned.plan is not None:
            update["boxes"] = _with(file.boxes, box, model, tuned.plan)
        return file.model_copy(update=update)

    store.update(path, PlanFile, accepted)
    return found[0] if found else None


def record_proposals(path: str, box: str, model: str, proposals: tuple[Proposal, ...]) -> bool:
    """Replace the proposals of a plan, where the file holds a plan of that model.

    :returns: whether the file has changed
    :raises RecordError: when the file cannot be read or written
    """
    before: list[PlanFile] = []

    def with_proposals(file: PlanFile) -> PlanFile:
        before.append(file)
        if (plan := file.boxes.get(box, {}).get(model)) is None:
            return file
        plan = plan.model_copy(update={"proposals": proposals})
        return file.model_copy(update={"boxes": _with(file.boxes, box, model, plan)})

    return store.update(path, PlanFile, with_proposals) != before[0]


def _with(boxes: Mapping[str, Mapping[str, T]], box: str, model: str, value: T) -> dict[str, dict[str, T]]:
    return {**{name: dict(models) for name, models in boxes.items()}, box: {**boxes.get(box, {}), model: value}}
