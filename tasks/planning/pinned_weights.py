"""Whether a model's weights in RAM are pinned for the GPU (``--load-mode none``) or stay in the mapped file.

For every prompt batch llama.cpp copies the experts in RAM to the GPU. From pinned memory it read prompts 4.2 to 6.0
times as fast as from a mapped file (Qwen3-Coder-Next Q6_K on H200s, pinned commit: tests/gpu/RESULTS.md).
The price: all these weights are in RAM at once, can be neither dropped nor swapped, and are charged to the unit.

Everything here is decided from declared values, MemTotal and recorded dry runs, never from what happens to be free: the
same box gets the same unit at every run.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from tasks.planning.box import Box
from tasks.planning.gguf_header import Tensor
from tasks.planning.placement import layers_with_experts_on_cpu
from tasks.planning.plans.ram import CACHE_RAM_MIB
from tasks.spec.build import Build
from tasks.spec.model import Model
from tasks.spec.placement import AllOnGpu, CpuOnly, Fit
from tasks.spec.plan_file import MeasuredPlacement, Plan, PlannedDevice
from tasks.spec.rig import Rig
from tasks.spec.serve import LoadMode

PINNED_MARGIN_MIB = 512
"""What a dry run has to leave on each GPU. Pinned weights take 40 to 98 MiB of a card that no dry run shows, and of a
margin of 384 MiB 76 were left after two long prompts (H200, pinned commit: tests/gpu/RESULTS.md)."""

_IN_RAM_AT_ONCE = ("none", "mlock", "mmap+mlock")
_MIB = 1 << 20
_INPUTS = ("token_embd.", "per_layer_token_embd.", "position_embd.", "token_types.")
"""Tensors of the input, which llama.cpp always keeps in RAM and looks up there (src/llama-model.cpp, pinned commit)."""
KNOWN_TO_FIT = 'declare load_mode="none" where you know that it fits'
_UNIFIED = re.compile(r"\bGB10\b|\b(?:Tegra|Xavier|Orin|Thor)\b|nvgpu")
"""GPUs whose memory is the box's RAM, by their names: a card may well have as much memory of its own as the box."""


@dataclass(frozen=True)
class ServerMemory:
    """MiB that a model's server takes.

    ``pinnable``: weights in RAM that prompts are computed from, without the token embedding. ``weights``: all weights
    in RAM. ``rest``: what else it keeps there: buffers, prompt cache and checkpoints when full. ``left``: on each GPU,
    by a dry run or, for a ``planned`` model, as its plan's margin; empty where llama.cpp keeps fit()'s margin itself.
    """

    pinnable: int
    weights: int
    rest: int
    left: tuple[int, ...] = ()
    devices: tuple[PlannedDevice, ...] = ()
    planned: bool = False
    recorded_ram: int = 0
    """MemTotal of the box when this was recorded, 0 where it was not."""

    @property
    def total(self) -> int:
        """All of it in RAM."""
        return self.weights + self.rest


@dataclass(frozen=True)
class Choice:
    """How a model's weights are loaded; ``lacks``: what was missing to pin them, empty where nothing was."""

    mode: LoadMode
    lacks: str = ""
    remedy: str = ""


def runs_on_cuda(rig: Rig, build: Build) -> bool:
    """Whether a build's GPUs are CUDA's, or simulations of them."""
    return build.backend == "cuda" or bool(rig.simulated_gpus)


def copies_weights(rig: Rig, model: Model) -> bool:
    """Whether prompts are computed on a CUDA GPU from weights that its placement may leave in RAM, and can be pinned.

    GGML_CUDA_NO_PINNED and --no-host switch pinned memory off in llama.cpp itself.
    """
    serve = model.serve
    return (
        runs_on_cuda(rig, rig.build_of(model))
        and not isinstance(serve.placement, CpuOnly | AllOnGpu)
        and serve.op_offload
        and "GGML_CUDA_NO_PINNED" not in serve.environment
        and "--no-host" not in serve.extra
    )


def may_be_pinned(rig: Rig, model: Model) -> bool:
    """Whether llamarig decides about pinning: the owner left load_mode at auto, and prompts would gain."""
    return model.serve.load_mode == "auto" and copies_weights(rig, model)


def wants_measuring(rig: Rig, model: Model) -> bool:
    """Whether it matters how much memory a model's pinned weights take: they are pinned, or may be."""
    return model.serve.load_mode in ("auto", "none", "mlock") and copies_weights(rig, model)


def pins(rig: Rig, model: Model) -> bool:
    """Whether a model, its load mode decided, loads its weights in RAM as pinned memory."""
    return model.serve.load_mode in ("none", "mlock") and copies_weights(rig, model)


def serves_on_cuda(rig: Rig, model: Model) -> bool:
    """Whether a model's server itself sees CUDA GPUs, or simulations of them: not where only its plan does."""
    return rig.build_of(model).backend == "cuda" or "GGML_BACKEND_PATH" in model.serve.environment


def expected_pinned_mib(rig: Rig, served: Model, memory: Mapping[str, ServerMemory]) -> int | None:
    """MiB of weights that a model's server should hold in pinned memory; None where it holds none, or not known.

    :param served: its load mode decided
    """
    if not pins(rig, served) or not serves_on_cuda(rig, served) or served.name not in memory:
        return None
    return memory[served.name].pinnable


def is_pinned_unit(text: str) -> bool:
    """Whether a unit's text loads weights as pinned memory: in the words of this llama.cpp, or of older ones."""
    return "--load-mode none" in text or "--no-mmap" in text


def embedding_mib(tensors: Sequence[Tensor]) -> int:
    """MiB of the tensors that llama.cpp keeps in RAM whatever the placement, rounded up."""
    size = sum(tensor.size for tensor in tensors if tensor.name.startswith(_INPUTS))
    return -(-size // _MIB)


def pinnable_mib(host_weights_mib: int, tensors: Sequence[Tensor]) -> int:
    """MiB of weights in RAM that prompts are computed from: experts and whole layers.

    :param host_weights_mib: all weights in RAM, as a dry run prints them in whole MiB
    """
    left = host_weights_mib - embedding_mib(tensors)
    return left if left > 1 else 0


def memory_of_plan(plan: Plan) -> ServerMemory:
    """What a planned model takes."""
    ram, pinnable = plan.ram, plan.pinnable_mib
    rest = ram.buffers_mib + ram.cache_mib + ram.checkpoints_mib
    if not pinnable and (plan.placement.in_ram or layers_with_experts_on_cpu(plan.placement)):
        pinnable = ram.weights_mib  # a plan of an older version, which did not record it
    margins, devices = plan.belongs.margins_mib, plan.belongs.devices
    return ServerMemory(pinnable, ram.weights_mib, rest, margins, devices, planned=True, recorded_ram=plan.box_ram_mib)


def memory_of_measured(measured: MeasuredPlacement, placement: object) -> ServerMemory:
    """What a model takes whose owner placed it, by the recorded dry run."""
    ram = measured.ram
    left = () if isinstance(placement, Fit) else measured.left_mib
    rest = ram.buffers_mib + ram.cache_mib + ram.checkpoints_mib
    return ServerMemory(
        measured.pinnable_mib, ram.weights_mib, rest, left, measured.devices, recorded_ram=measured.box_ram_mib
    )


def load_modes(
    rig: Rig, memory: Mapping[str, ServerMemory], box: Box, pinned_now: Collection[str] = ()
) -> dict[str, Choice]:
    """How each model's weights are loaded: as declared, pinned where they fit, else as llama.cpp does by itself.

    Decided in the order of declaration: what is pinned for one model is taken into account for the next.

    :param memory: model name -> what it takes; missing where no dry run has been recorded
    :param pinned_now: models whose installed unit has pinned weights: they keep them while nothing is recorded
    """
    chosen: dict[str, Choice] = {}
    for model in rig.models:
        if not may_be_pinned(rig, model):
            chosen[model.name] = Choice(model.serve.load_mode)
        elif model.name not in memory and model.name in pinned_now:
            chosen[model.name] = Choice("none")
        elif model.name not in memory:
            chosen[model.name] = Choice(
                "auto",
                "no dry run has shown yet how much memory that takes, because the GPUs were in use",
                "stop what uses them (a model: systemctl stop its unit), then run deploy.py",
            )
        elif not memory[model.name].pinnable:
            chosen[model.name] = Choice("auto")
        else:
            lacking = next(_lacks(rig, model, memory, box, chosen), None)
            chosen[model.name] = Choice("none") if lacking is None else Choice("auto", *lacking)
    return chosen


def _lacks(
    rig: Rig, model: Model, memory: Mapping[str, ServerMemory], box: Box, chosen: Mapping[str, Choice]
) -> Iterator[tuple[str, str]]:
    """What is missing to pin a model's weights, and what its owner can do about it."""
    own, limit = memory[model.name], model.serve.memory_max_mib
    if why := unsuited(box, own.devices):
        yield why, "nothing is to be done"
    if model.serve.loads_mtp:
        yield "no dry run shows what its layer of multi-token prediction takes", KNOWN_TO_FIT
    if limit is not None and own.total > limit:
        yield (
            f"memory_max_mib {limit} is less than the {own.total} MiB of RAM that would count against it (weights "
            f"{own.weights}, buffers and full caches {own.rest})",
            f"raise memory_max_mib to {own.total} or more, or leave it out",
        )
    if own.left and min(own.left) < PINNED_MARGIN_MIB and "pinned-margin" not in model.serve.accept:
        left = "/".join(str(mib) for mib in own.left)
        by = "its plan" if own.planned else "a dry run"
        yield (
            f"{by} leaves {left} MiB free on the GPUs, and pinned weights want {PINNED_MARGIN_MIB} on each",
            f"plan anew with tasks/plan.py --data update={model.name}"
            if own.planned
            else "declare one whole layer fewer on that GPU, or a smaller ubatch or context; or free the GPUs and "
            f"measure anew with tasks/plan.py --data update={model.name}",
        )
    room = ram_for_models(rig, box, own.recorded_ram)
    others = _beside(rig, model, memory, chosen)
    if own.total + sum(others.values()) > room:
        beside = "".join(f", {name} beside it {mib} MiB" for name, mib in others.items())
        yield (
            f"it takes {own.total} MiB of RAM (weights {own.weights}, buffers and full caches {own.rest}){beside}; "
            f"the box has {room} MiB for models (MemTotal less host.memory_reserve_mib = "
            f"{rig.host.memory_reserve_mib})",
            "lower cache_ram_mib or context_checkpoints, put more layers on the GPUs, or take a smaller quant",
        )


def unsuited(box: Box, devices: Sequence[PlannedDevice]) -> str:
    """Why pinned memory is not used on this box, empty where it may be."""
    if not box.ram:
        return "the box does not say how much RAM it has"
    if "microsoft" in box.kernel.lower():
        return "under WSL2 pinned memory is limited by Windows, and was not measured"
    for device in devices:
        if _UNIFIED.search(device.description):
            return f"{device.name} ({device.description}) shares its memory with the processor, so there is none to pin"
    return ""


def ram_for_models(rig: Rig, box: Box, recorded_mib: int = 0) -> int:
    """MiB of RAM that all models together may take.

    :param recorded_mib: MemTotal when the model was measured or planned, 0 where not recorded. It counts until the box
        has a GiB more or less: MemTotal differs by some MiB from kernel to kernel, and no unit may change with that.
    """
    now = box.ram // _MIB
    total = recorded_mib if recorded_mib and abs(recorded_mib - now) < 1024 else now
    return total - rig.host.memory_reserve_mib


def pinned_ram_mib(rig: Rig, model: Model, memory: Mapping[str, ServerMemory], box: Box) -> int | None:
    """MiB of RAM that a model may take once its weights are pinned; None where this box pins none."""
    if unsuited(box, ()):
        return None
    others = _beside(rig, model, memory, {})
    room = ram_for_models(rig, box) - sum(others.values())
    limit = model.serve.memory_max_mib
    return room if limit is None else min(room, limit)


def _beside(rig: Rig, model: Model, memory: Mapping[str, ServerMemory], chosen: Mapping[str, Choice]) -> dict[str, int]:
    """Other models that may run at the same time, and the RAM in MiB that they keep: of those that exclude each other
    the one that takes most."""
    others = {other.name: _kept(other, memory, chosen) for other in rig.models if other.name != model.name}
    coexisting = {other.name for other in rig.models if other.serve.coexists}
    found = {name: mib for name, mib in others.items() if name in coexisting}
    if model.serve.coexists and (exclusive := {name: mib for name, mib in others.items() if name not in coexisting}):
        largest = max(exclusive, key=lambda name: exclusive[name])
        found[largest] = exclusive[largest]
    return found


def _kept(model: Model, memory: Mapping[str, ServerMemory], chosen: Mapping[str, Choice]) -> int:
    """MiB of RAM that cannot be taken from it: pages of a mapped file can."""
    own, serve = memory.get(model.name), model.serve
    if own is None:
        cache = CACHE_RAM_MIB if serve.cache_ram_mib is None else max(serve.cache_ram_mib, 0)
        return cache + 1024  # buffers, roughly
    mode = chosen[model.name].mode if model.name in chosen else serve.load_mode
    return own.total if mode in _IN_RAM_AT_ONCE else own.rest


def raised_margins(margins: Sequence[int]) -> tuple[int, ...]:
    """Margins in MiB, none below what pinned weights want."""
    return tuple(max(margin, PINNED_MARGIN_MIB) for margin in margins)


def with_load_mode(rig: Rig, model: Model, mode: LoadMode) -> Model:
    """The model as it is served: with this load mode, and with fit()'s margin raised where its weights are pinned."""
    served = model.model_copy(update={"serve": model.serve.model_copy(update={"load_mode": mode})})
    if not raises_fit(rig, served):
        return served
    placement = served.serve.placement
    assert isinstance(placement, Fit)
    raised = placement.model_copy(update={"target_mib": raised_margins(placement.target_mib)})
    return served.model_copy(update={"serve": served.serve.model_copy(update={"placement": raised})})


def raises_fit(rig: Rig, served: Model) -> bool:
    """Whether a model, its load mode decided, has a fit() margin that is too small for pinned weights."""
    placement = served.serve.placement
    return (
        isinstance(placement, Fit)
        and min(placement.target_mib) < PINNED_MARGIN_MIB
        and pins(rig, served)
        and "pinned-margin" not in served.serve.accept
    )
