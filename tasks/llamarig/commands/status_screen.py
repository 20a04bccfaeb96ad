"""The screen of tasks/status.py: what runs on a box, in lines for its owner. Performs no I/O."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from llamarig.declare.model import Model
from llamarig.engine.progress import duration, progress_line
from llamarig.facts.gpus import Gpu, GpuState
from llamarig.facts.jobs import Job, RunningJob
from llamarig.facts.plannable_devices import HeldMemory
from llamarig.facts.units import Unit
from llamarig.items.unit_words import command_of, flags_of, release_name
from llamarig.records.plan_file import Plan
from llamarig.remote.serve.server_activity import Activity
from llamarig.remote.shared.admission import job_words
from llamarig.render import layout

_OK = 200


@dataclass(frozen=True)
class BoxState:
    """What the screen is made of. Mappings are from a unit's name, plans and sizes from a model's."""

    models: Sequence[Model]
    units: Mapping[str, Unit]
    activity: Mapping[str, Activity] = field(default_factory=dict)
    held: HeldMemory = field(default_factory=HeldMemory)
    plans: Mapping[str, Plan] = field(default_factory=dict)
    sizes_mib: Mapping[str, int] = field(default_factory=dict)
    """Of all files of a model."""
    gpus: GpuState = field(default_factory=GpuState)
    total_ram_kib: int | None = None
    running: Mapping[str, RunningJob] = field(default_factory=dict)
    jobs: Mapping[str, Job] = field(default_factory=dict)
    """The same jobs with their progress."""
    front: str = ""
    """Address of the front, where one is declared."""
    front_runs: bool = False


def status_lines(box: BoxState) -> list[str]:
    """Lines of each model, of each job, and of the memory of the box."""
    width = max((len(model.name) for model in box.models), default=0)
    front = [f"{'front':<{width}}  {'runs' if box.front_runs else 'stopped'}; address of all models: {box.front}"]
    lines = front if box.front else []
    lines += [line for model in box.models for line in _model_lines(box, model, width)] or ["no model is declared"]
    lines += [_job_line(name, job, box.jobs.get(name)) for name, job in sorted(box.running.items())]
    return lines + list(_memory_lines(box))


def _model_lines(box: BoxState, model: Model, width: int) -> Iterator[str]:
    name = layout.unit_name(model.name)
    unit, activity = box.units.get(name, Unit()), box.activity.get(name, Activity())
    state = _state(unit, activity, box.sizes_mib.get(model.name, 0))
    words = unit.arguments or tuple(command_of(unit.text))
    if not unit.is_active or not words:
        yield f"{model.name:<{width}}  {state}"
        return
    flags = flags_of(words[1:])
    address = f"{flags.get('--host', '127.0.0.1')}:{flags.get('--port', '8080')}"
    context = f", context {flags['--ctx-size']}" if "--ctx-size" in flags else ""
    yield f"{model.name:<{width}}  {state}; llama.cpp {release_name(words[0])[:7]} on {address}{context}"
    indent = " " * (width + 2)
    if work := _work(activity):
        yield f"{indent}{work}"
    if memory := _memory(box, model, name):
        yield f"{indent}{memory}"


def _state(unit: Unit, activity: Activity, size_mib: int) -> str:
    if not unit.text:
        return "not installed: run deploy.py"
    if not unit.is_active:
        return "failed: see its log" if unit.active == "failed" else "stopped"
    since = f" for {duration(unit.age_s)}" if unit.age_s is not None else ""
    if activity.asleep:
        return f"asleep, until the next request; runs{since}"
    if unit.health == _OK or activity.ready:
        return f"answers, runs{since}"
    if activity.loaded_mib and size_mib:
        return f"loading, {min(100, 100 * activity.loaded_mib // size_mib)} %{since}"
    return f"loading{since}" if unit.health == 503 or unit.active == "activating" else f"does not answer, runs{since}"


def _work(activity: Activity) -> str:
    parts = []
    if activity.generation_per_second or activity.prompt_per_second:
        generation = f"{activity.generation_per_second:.1f} tokens/s, " if activity.generation_per_second else ""
        parts.append(f"last request {generation}prompt {activity.prompt_per_second:.0f} tokens/s")
    elif activity.ready:
        parts.append("no request since its start")
    if activity.busy >= 0 and activity.slots:
        parts.append(f"{activity.busy} of {activity.slots} {'slot' if activity.slots == 1 else 'slots'} busy")
    if activity.waiting:
        parts.append(f"{activity.waiting} waiting")
    return "; ".join(parts)


def _memory(box: BoxState, model: Model, unit: str) -> str:
    plan, parts = box.plans.get(model.name), []
    if cards := box.held.vram_mib.get(unit):
        order = [card.uuid for card in box.gpus.gpus]
        used = [cards[uuid] for uuid in sorted(cards, key=lambda one: order.index(one) if one in order else 99)]
        planned = f" (planned {_gib(*(gpu.total_mib for gpu in plan.gpus))})" if plan is not None else ""
        parts.append(f"VRAM {_gib(*used)} GiB{planned}")
    if ram := box.held.ram_mib.get(unit):
        planned = f" (planned {_gib(plan.ram.total_mib - plan.ram.reserve_mib)})" if plan is not None else ""
        parts.append(f"RAM {_gib(ram)} GiB{planned}")
    return ", ".join(parts)


def _gib(*mib: int) -> str:
    return " + ".join(f"{one / 1024:.1f}" for one in mib)


def _job_line(name: str, job: RunningJob, state: Job | None) -> str:
    progress = f": {progress_line(state.status)}" if state is not None and state.status.step else ""
    return f"{job_words(name)} runs{job.by_and_since}{progress}"


def _memory_lines(box: BoxState) -> Iterator[str]:
    parts = [_card(card) for card in box.gpus.cards if card.total_mib and not card.integrated]
    if box.total_ram_kib and box.held.mem_available_mib:
        free, total = box.held.mem_available_mib / 1024, box.total_ram_kib / 1024**2
        parts.append(f"RAM {free:.1f} of {total:.1f} GiB free")
    if parts:
        yield ", ".join(parts)


def _card(card: Gpu) -> str:
    return f"{card.name} {card.free_mib / 1024:.1f} of {card.total_mib / 1024:.1f} GiB free"
