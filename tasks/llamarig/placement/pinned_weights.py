"""Decides whether a model's weights in RAM are pinned for the GPU (``--load-mode none``) or stay in the mapped file.

For every prompt batch llama.cpp copies the experts in RAM to the GPU. With pinned memory it read prompts 4.2 to 6.0
times as fast as from a mapped file (Qwen3-Coder-Next Q6_K on H200s, pinned commit: tests/gpu/RESULTS.md). In return all
these weights are in RAM at once, can be neither dropped nor swapped, and are charged to the unit.

Every decision is made from declared values, MemTotal and recorded dry runs, never from memory that is free at the
moment: the same box gets the same unit in every run.
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from llamarig.declare.build import Build
from llamarig.declare.model import Model
from llamarig.declare.placement import AllOnGpu, CpuMoe, CpuOnly, Fit, Layers
from llamarig.declare.rig import Rig
from llamarig.declare.serve.weights import HELD_IN_RAM, UNMAPPED, LoadMode
from llamarig.placement.box_capacity import BoxCapacity
from llamarig.placement.model_layers import INPUT_TENSORS
from llamarig.placement.planned_loading import Pinning
from llamarig.placement.ram_budget import prompt_cache_mib
from llamarig.placement.unified_memory import is_shared
from llamarig.records.plan_file import MeasuredPlacement, Plan, PlannedDevice, PlannedLoading
from llamarig.remote.shared.gguf_header import Tensor
from llamarig.render.placement_arguments import layers_with_experts_on_cpu

PINNED_MARGIN_MIB = 512
"""MiB that a dry run has to leave free on each GPU. Pinned weights take 40 to 98 MiB of a card that no dry run shows,
and of a margin of 384 MiB 76 were left after two long prompts (H200, pinned commit: tests/gpu/RESULTS.md)."""

_MIB = 1 << 20
KNOWN_TO_FIT = 'declare load_mode="none" where you know that it fits'
_UNMEASURED_MTP = "no dry run measures the memory of its multi-token prediction layer"


@dataclass(frozen=True)
class ServerMemory:
    """Memory of a model's server, in MiB.

    ``pinnable``: weights in RAM that prompts are computed from, without the token embedding. ``weights``: all weights
    in RAM. ``rest``: everything else in RAM: buffers, and prompt cache and checkpoints when full. ``left``: free on
    each GPU, by a dry run or, for a ``planned`` model, as its plan's margin; empty if llama.cpp keeps fit()'s margin
    itself.
    """

    pinnable: int
    weights: int
    rest: int
    left: tuple[int, ...] = ()
    devices: tuple[PlannedDevice, ...] = ()
    planned: bool = False
    recorded_ram: int = 0
    """MemTotal of the box when this was recorded, 0 if it was not."""
    loading: PlannedLoading | None = None
    """What its plan has decided; None without a plan, or with one of an older version."""
    margin_is_measured: bool = False
    """Whether ``left`` is a margin that was measured on this box, which may be smaller than ``PINNED_MARGIN_MIB``."""

    @property
    def total(self) -> int:
        """Everything in RAM."""
        return self.weights + self.rest


@dataclass(frozen=True)
class LoadModeChoice:
    """How a model's weights are loaded. ``missing``: why they are not pinned, empty if nothing prevents it."""

    mode: LoadMode
    missing: str = ""
    remedy: str = ""


def _runs_on_cuda(rig: Rig, build: Build) -> bool:
    return build.backend == "cuda" or bool(rig.simulated_gpus)


def _copies_weights(rig: Rig, model: Model) -> bool:
    """Whether prompts are computed on a CUDA GPU from weights that may be in RAM and can be pinned.

    GGML_CUDA_NO_PINNED and --no-host disable pinned memory in llama.cpp itself.
    """
    serve = model.serve
    return (
        _runs_on_cuda(rig, rig.build_of(model))
        and not isinstance(serve.placement, CpuOnly | AllOnGpu)
        and serve.op_offload
        and "GGML_CUDA_NO_PINNED" not in serve.environment
        and "--no-host" not in serve.extra
    )


def may_be_pinned(rig: Rig, model: Model) -> bool:
    """Whether llamarig decides about pinning: load_mode is auto, and pinning would speed up prompts."""
    return model.serve.load_mode == "auto" and _copies_weights(rig, model)


def needs_measurement(rig: Rig, model: Model) -> bool:
    """Whether the size of a model's pinned weights has to be known: they are pinned, or may be."""
    return model.serve.load_mode in ("auto", *UNMAPPED) and _copies_weights(rig, model)


def pins(rig: Rig, model: Model) -> bool:
    """Whether a model with its final load mode pins its weights in RAM."""
    return model.serve.load_mode in UNMAPPED and _copies_weights(rig, model)


def copies_from_map(rig: Rig, model: Model, memory: ServerMemory | None) -> bool:
    """Whether a CUDA GPU computes prompts from experts in a file that the owner has declared to be mapped."""
    if model.serve.load_mode not in ("mmap", "mmap+mlock") or not _copies_weights(rig, model):
        return False
    placement = model.serve.placement
    if isinstance(placement, Layers):
        return bool(placement.in_ram or layers_with_experts_on_cpu(placement))
    return isinstance(placement, CpuMoe) or (memory is not None and memory.pinnable > 0)


def _serves_on_cuda(rig: Rig, model: Model) -> bool:
    """Whether the model's server itself uses CUDA GPUs, or simulations of them, and not only its planning."""
    return rig.build_of(model).backend == "cuda" or "GGML_BACKEND_PATH" in model.serve.environment


def expected_pinned_mib(rig: Rig, served: Model, memory: Mapping[str, ServerMemory]) -> int | None:
    """MiB of weights that a model's server should hold in pinned memory; None if it pins none or the size is unknown.

    :param served: the model with its final load mode
    """
    if not pins(rig, served) or not _serves_on_cuda(rig, served) or served.name not in memory:
        return None
    return memory[served.name].pinnable


def is_pinned_unit(text: str) -> bool:
    """Whether a unit's text pins the weights, in the flags of this llama.cpp or of older ones."""
    return "--load-mode none" in text or "--no-mmap" in text


def _embedding_mib(tensors: Sequence[Tensor]) -> int:
    size = sum(tensor.size for tensor in tensors if tensor.name.startswith(INPUT_TENSORS))
    return -(-size // _MIB)


def pinnable_mib(host_weights_mib: int, tensors: Sequence[Tensor]) -> int:
    """MiB of weights in RAM that prompts are computed from: experts and whole layers.

    :param host_weights_mib: all weights in RAM, as a dry run prints them in whole MiB
    """
    left = host_weights_mib - _embedding_mib(tensors)
    return left if left > 1 else 0


def memory_of_plan(plan: Plan) -> ServerMemory:
    """Memory of a planned model."""
    ram, pinnable = plan.ram, plan.pinnable_mib
    rest = ram.buffers_mib + ram.cache_mib + ram.checkpoints_mib
    if not pinnable and (plan.placement.in_ram or layers_with_experts_on_cpu(plan.placement)):
        pinnable = ram.weights_mib  # plans of older versions do not record it
    return ServerMemory(
        pinnable,
        ram.weights_mib,
        rest,
        plan.belongs.margins_mib,
        plan.belongs.devices,
        planned=True,
        recorded_ram=plan.box_ram_mib,
        loading=plan.loading,
        margin_is_measured=plan.margin is not None,
    )


def memory_of_measured(measured: MeasuredPlacement, placement: object) -> ServerMemory:
    """Memory of a model with a declared placement, by the recorded dry run."""
    ram = measured.ram
    left = () if isinstance(placement, Fit) else measured.left_mib
    rest = ram.buffers_mib + ram.cache_mib + ram.checkpoints_mib
    return ServerMemory(
        measured.pinnable_mib, ram.weights_mib, rest, left, measured.devices, recorded_ram=measured.box_ram_mib
    )


def load_modes(
    rig: Rig, memory: Mapping[str, ServerMemory], box: BoxCapacity, pinned_now: Collection[str] = ()
) -> dict[str, LoadModeChoice]:
    """Decide how each model's weights are loaded: as declared; else pinned if they fit; else with llama.cpp's default.

    Models are decided in the order of declaration, and each one takes into account what was pinned before it.

    :param memory: memory by model name; missing where no dry run is recorded
    :param pinned_now: models whose installed unit pins its weights: they keep doing so while nothing is recorded
    """
    chosen: dict[str, LoadModeChoice] = {}
    for model in rig.models:
        if not may_be_pinned(rig, model):
            chosen[model.name] = LoadModeChoice(model.serve.load_mode)
        elif model.name not in memory and model.name in pinned_now:
            chosen[model.name] = LoadModeChoice("none")
        elif model.name not in memory:
            chosen[model.name] = LoadModeChoice(
                "auto",
                "no dry run has measured yet how much memory that takes, because the GPUs were in use",
                "stop the programs that use them (a model: systemctl stop its unit), then run deploy.py",
            )
        elif not memory[model.name].pinnable:
            chosen[model.name] = LoadModeChoice("auto")
        elif (planned := memory[model.name].loading) is not None and planned.mode != "none":
            # The plan's margins are those of mapped weights, whatever the box has now.
            again = f"plan again with tasks/plan.py --data update={model.name} once that has changed"
            chosen[model.name] = LoadModeChoice("auto", planned.why, again if planned.why else "")
        else:
            obstacle = next(_obstacles(rig, model, memory, box, chosen), None)
            chosen[model.name] = LoadModeChoice("none") if obstacle is None else LoadModeChoice("auto", *obstacle)
    return chosen


def _obstacles(
    rig: Rig, model: Model, memory: Mapping[str, ServerMemory], box: BoxCapacity, chosen: Mapping[str, LoadModeChoice]
) -> Iterator[tuple[str, str]]:
    """Reasons not to pin a model's weights, each with its remedy."""
    own, limit = memory[model.name], model.serve.memory_max_mib
    if why := _pinning_obstacle(box, own.devices):
        yield why, "nothing can be done about it"
    if model.serve.loads_mtp:
        yield _UNMEASURED_MTP, KNOWN_TO_FIT
    if limit is not None and own.total > limit:
        yield (
            f"memory_max_mib {limit} is less than the {own.total} MiB of RAM that would count against it (weights "
            f"{own.weights}, buffers and full caches {own.rest})",
            f"raise memory_max_mib to {own.total} or more, or leave it out",
        )
    is_enough = own.margin_is_measured or not own.left or min(own.left) >= PINNED_MARGIN_MIB
    if not is_enough and "pinned-margin" not in model.serve.accept:
        left = "/".join(str(mib) for mib in own.left)
        by = "its plan" if own.planned else "a dry run"
        yield (
            f"{by} leaves {left} MiB free on the GPUs, and pinned weights need {PINNED_MARGIN_MIB} on each",
            f"plan again with tasks/plan.py --data update={model.name}"
            if own.planned
            else "declare one whole layer fewer on that GPU, or a smaller ubatch or context; or free the GPUs and "
            f"measure again with tasks/plan.py --data update={model.name}",
        )
    room = _ram_for_models(rig, box, own.recorded_ram)
    others = _concurrent_ram_mib(rig, model, memory, chosen)
    if own.total + sum(others.values()) > room:
        others_text = "".join(f", {name} beside it {mib} MiB" for name, mib in others.items())
        yield (
            f"it takes {own.total} MiB of RAM (weights {own.weights}, buffers and full caches {own.rest})"
            f"{others_text}; "
            f"the box has {room} MiB for models (MemTotal less host.memory_reserve_mib = "
            f"{rig.host.memory_reserve_mib})",
            "lower cache_ram_mib or context_checkpoints, put more layers on the GPUs, or choose a smaller quant",
        )


def _pinning_obstacle(box: BoxCapacity, devices: Sequence[PlannedDevice]) -> str:
    if not box.ram:
        return "the box does not report how much RAM it has"
    if "microsoft" in box.kernel.lower():
        return "Windows limits pinned memory under WSL2, where it has not been measured"
    for device in devices:
        if is_shared(device):
            return (
                f"{device.name} ({device.description}) shares its memory with the processor, so there is nothing to pin"
            )
    return ""


def _ram_for_models(rig: Rig, box: BoxCapacity, recorded_mib: int = 0) -> int:
    """MiB of RAM that all models together may take.

    :param recorded_mib: MemTotal when the model was measured or planned, 0 if not recorded. It is used until MemTotal
        differs by a GiB: it varies by some MiB between kernels, and that must not change a unit.
    """
    now = box.ram // _MIB
    total = recorded_mib if recorded_mib and abs(recorded_mib - now) < 1024 else now
    return total - rig.host.memory_reserve_mib


def pinning(
    rig: Rig, model: Model, memory: Mapping[str, ServerMemory], box: BoxCapacity, devices: Sequence[PlannedDevice] = ()
) -> Pinning:
    """What decides whether the weights of a planned model are pinned.

    :param memory: of all models whose memory is known, by name
    :param devices: what it is planned for
    """
    mode, raises = model.serve.load_mode, "pinned-margin" not in model.serve.accept
    if not _copies_weights(rig, model):
        return Pinning(mode, obstacle=_why_not_copied(rig, model))
    if mode != "auto":
        # The owner declares the load mode, and so that the weights fit into the RAM.
        return Pinning(mode, sys.maxsize if mode in UNMAPPED else None, raises_margins=raises)
    if why := _pinning_obstacle(box, devices):
        return Pinning(mode, obstacle=why)
    if model.serve.loads_mtp:
        return Pinning(mode, obstacle=f"{_UNMEASURED_MTP}; {KNOWN_TO_FIT}")
    earlier = {one.name for one in rig.models[: [one.name for one in rig.models].index(model.name)]}
    others = {name: each for name, each in memory.items() if name != model.name}
    chosen = {name: choice for name, choice in load_modes(rig, others, box).items() if name in earlier}
    room = _ram_for_models(rig, box) - sum(_concurrent_ram_mib(rig, model, memory, chosen).values())
    limit = model.serve.memory_max_mib
    return Pinning(mode, room if limit is None else min(room, limit), raises_margins=raises)


def _why_not_copied(rig: Rig, model: Model) -> str:
    """Why nothing is pinned for a model that may have weights in RAM; empty where that is the owner's wish."""
    build = rig.build_of(model)
    if build.backend in ("vulkan", "hip") and not rig.simulated_gpus:
        return f"whether pinned ones are faster has not been measured with a build for {build.backend}"
    return ""


def _concurrent_ram_mib(
    rig: Rig, model: Model, memory: Mapping[str, ServerMemory], chosen: Mapping[str, LoadModeChoice]
) -> dict[str, int]:
    """RAM in MiB of the other models that may run at the same time, by name. Of models that exclude each other only the
    largest counts."""
    others = {other.name: _resident_mib(other, memory, chosen) for other in rig.models if other.name != model.name}
    coexisting = {other.name for other in rig.models if other.serve.coexists}
    found = {name: mib for name, mib in others.items() if name in coexisting}
    if model.serve.coexists and (exclusive := {name: mib for name, mib in others.items() if name not in coexisting}):
        largest = max(exclusive, key=lambda name: exclusive[name])
        found[largest] = exclusive[largest]
    return found


def _resident_mib(model: Model, memory: Mapping[str, ServerMemory], chosen: Mapping[str, LoadModeChoice]) -> int:
    """MiB of RAM that the kernel cannot reclaim from a model's server; it can drop pages of a mapped file."""
    own, serve = memory.get(model.name), model.serve
    if own is None:
        return prompt_cache_mib(serve) + 1024  # the buffers, roughly
    mode = chosen[model.name].mode if model.name in chosen else serve.load_mode
    return own.total if mode in HELD_IN_RAM else own.rest


def raised_margins(margins: Sequence[int]) -> tuple[int, ...]:
    """Margins in MiB, raised to what pinned weights need."""
    return tuple(max(margin, PINNED_MARGIN_MIB) for margin in margins)


def with_load_mode(rig: Rig, model: Model, mode: LoadMode) -> Model:
    """The model as served: with this load mode, and with fit()'s margin raised if its weights are pinned."""
    served = model.model_copy(update={"serve": model.serve.model_copy(update={"load_mode": mode})})
    if not raises_fit_margin(rig, served):
        return served
    placement = served.serve.placement
    assert isinstance(placement, Fit)
    raised = placement.model_copy(update={"target_mib": raised_margins(placement.target_mib)})
    return served.model_copy(update={"serve": served.serve.model_copy(update={"placement": raised})})


def raises_fit_margin(rig: Rig, served: Model) -> bool:
    """Whether a model with its final load mode has a fit() margin that is too small for pinned weights."""
    placement = served.serve.placement
    return (
        isinstance(placement, Fit)
        and min(placement.target_mib) < PINNED_MARGIN_MIB
        and pins(rig, served)
        and "pinned-margin" not in served.serve.accept
    )
