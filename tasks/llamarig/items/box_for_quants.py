"""What a box has for a model that it does not have yet: cards, RAM, a release for dry runs, files, speeds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

from pyinfra.context import host, state

from llamarig.declare.build import Build
from llamarig.declare.model import Model
from llamarig.declare.placement import Auto, CpuOnly, Layers
from llamarig.declare.rig import Rig
from llamarig.declare.simulated_gpu import SimulatedGpu
from llamarig.engine.hub_quants import QuantHeader
from llamarig.engine.item import Query, query
from llamarig.engine.run import read_all, read_fact
from llamarig.facts.capacity import Capacity
from llamarig.facts.files import FileSizes
from llamarig.facts.gpus import Gpu, Gpus, GpuState
from llamarig.facts.jobs import Jobs
from llamarig.facts.model_store import ModelStore
from llamarig.facts.plannable_devices import HeldByServers, HeldMemory
from llamarig.facts.releases import Release, Releases
from llamarig.items.download_job import missing_files
from llamarig.items.dry_run_box import PROGRAMS, DryRunBox
from llamarig.items.releases import release_differences, release_directories
from llamarig.items.simulated_gpus import simulation_library
from llamarig.placement.devices import simulated_devices
from llamarig.placement.pinned_weights import raised_margins
from llamarig.placement.planner import PlanRequest
from llamarig.placement.quant_memory import AtContext
from llamarig.placement.ram_budget import CACHE_RAM_MIB, RESERVE_MIB
from llamarig.placement.speed_prediction import calibrate, ram_bytes_per_token, runs_of_files
from llamarig.placement.unified_memory import system_reserve_mib
from llamarig.records.bench_ledger import BenchEntry
from llamarig.records.hub_quants import HubQuant
from llamarig.records.plan_file import PlanInputs
from llamarig.remote.shared.gguf_header import Header
from llamarig.remote.shared.jobs import JobStatus
from llamarig.render import layout
from llamarig.render.placement_arguments import placement_arguments
from llamarig.render.release import release_id, release_path

CUDA_PROCESS_MIB = 600
"""MiB that a server takes of each card beside what dry runs count: 598 and 600 on two H200 (tests/gpu/RESULTS.md)."""
_MEASURED_BYTES = 200e6
_MEASURED_S = 5.0
"""Least size and duration of a download whose rate says something of the next one."""
ASSUMED_MB_S = 100.0
_FETCH = "fetch"
PROGRAM_PATHS = [f"{layout.PROGRAMS}/llamarig/remote/{program}" for program in PROGRAMS]


@dataclass(frozen=True)
class BoxForQuants:
    """A box as far as a model that it does not have yet is concerned.

    ``settings``: fields of ``serve(...)`` that models need on this box;
    ``cards``: simulated in dry runs, with the memory that a server may take; none where the processor serves alone;
    ``planner``: what it has for dry runs, None with the reason in ``why_no_planner``; ``notes``: for its owner.
    """

    name: str
    build: Build
    settings: Mapping[str, Any] = field(default_factory=dict)
    cards: tuple[SimulatedGpu, ...] = ()
    ram_available_mib: int = 0
    ram_mib: int = 0
    planner: DryRunBox | None = None
    why_no_planner: str = ""
    stored: Any = None
    last_download: JobStatus | None = None
    notes: tuple[str, ...] = ()

    @property
    def device_names(self) -> list[str]:
        """Names of the cards, for what is missing on one of them."""
        names = [card.name for card in self.cards]
        return [f"{name} ({index})" if names.count(name) > 1 else name for index, name in enumerate(names)]

    def plan_request(self, model: Model, header: Header, planner: DryRunBox, paths: Sequence[str]) -> PlanRequest:
        """What a search on these cards starts from.

        :param paths: of the header and of the one with a short vocabulary
        """
        devices = tuple(simulated_devices(self.cards))
        placement = model.serve.placement
        margins = (placement if isinstance(placement, Auto) else Auto()).margins(len(devices))
        return PlanRequest(
            model=model,
            flags=planner.flags,
            header=header,
            header_path=paths[0],
            short_header_path=paths[1],
            simulated=True,
            inputs=PlanInputs(
                header=header.sha256,
                devices=devices,
                # Weights that stay in RAM are pinned on such a box, where there is room for it.
                margins_mib=raised_margins(margins) if self.build.backend == "cuda" else margins,
                flags=(),
                release=planner.release.rpartition("/")[2],
            ),
            ram_available_mib=self.ram_available_mib,
            box_ram_mib=self.ram_mib,
        )

    def download_s(self, quant: HubQuant, mb_s: float) -> float | None:
        """Seconds to fetch what the box lacks of a quant; None where it has everything."""
        missing = missing_files([quant.locked], self.stored.files)
        return sum(file.size for _, file, _ in missing) / mb_s / 1e6 if missing else None


def read_box(rig: Rig, build_name: str, settings: Mapping[str, Any]) -> BoxForQuants:
    """Read the current host, with one command.

    :param settings: fields of ``serve(...)`` that models need on this box
    """
    build = next(build for build in rig.builds if build.name == build_name)
    read_all(queries_of_box(rig))
    held: HeldMemory = read_fact(HeldByServers)
    # The new model excludes all others but those that coexist: what these hold counts as taken.
    staying = frozenset(layout.unit_name(model.name) for model in rig.models if model.serve.coexists)
    available, ram = held.available_mib(staying), read_fact(Capacity).ram >> 20
    gpus: GpuState = read_fact(Gpus)
    used = settings.get("gpus", ())
    cards = cards_of(rig, build, gpus, held.freed_vram_mib(staying), (available, ram), used)
    releases = read_fact(Releases, directories=release_directories(rig))
    planner, why = _planner(rig, build, releases, read_fact(FileSizes, paths=PROGRAM_PATHS))
    return BoxForQuants(
        name=host.name,
        build=build,
        settings=settings,
        cards=cards,
        ram_available_mib=available,
        ram_mib=ram,
        planner=planner,
        why_no_planner=why,
        stored=read_fact(ModelStore),
        last_download=job.status if (job := read_fact(Jobs, names=[_FETCH]).get(_FETCH)) is not None else None,
        notes=tuple(_notes(rig, build, gpus, cards, held)),
    )


def queries_of_box(rig: Rig) -> Iterable[Query[Any]]:
    """What ``read_box`` reads."""
    yield from (query(fact) for fact in (Capacity, Gpus, HeldByServers, ModelStore))
    yield query(Jobs, names=[_FETCH])
    yield query(FileSizes, paths=PROGRAM_PATHS)
    yield query(Releases, directories=release_directories(rig))


def _planner(
    rig: Rig, build: Build, releases: dict[str, Release], programs: dict[str, int]
) -> tuple[DryRunBox | None, str]:
    """What the current host has for dry runs: the release that is to serve, or else another one of it."""
    for each in sorted(rig.builds, key=lambda one: one is not build):
        path = release_path(each, rig.models)
        release = releases.get(path, Release())
        if release_differences(path, release) or "llama-fit-params" not in release.files:
            continue
        if any(program not in programs for program in PROGRAM_PATHS):
            return None, f"llamarig's programs on {host.name} are older than this repository"
        box = state.inventory.get_host(host.name)
        return DryRunBox(box, each, path, release.flags, release.models, simulation_library(each)), ""
    return None, ""


def cards_of(
    rig: Rig, build: Build, gpus: GpuState, freed: dict[str, int], ram: tuple[int, int], used: Sequence[str] = ()
) -> tuple[SimulatedGpu, ...]:
    """The cards that a build uses, with the memory that its server may take of each.

    :param freed: UUID -> MiB that are free in addition once the models that it replaces have stopped
    :param ram: MiB available and in all
    :param used: UUIDs of the cards that the model is to use, in its order; empty for all
    """
    if rig.simulated_gpus or build.backend == "cpu":
        return rig.simulated_gpus
    kinds = {"cuda": gpus.gpus, "hip": gpus.amd}
    listed = kinds.get(build.backend, gpus.cards)
    own = [card for card in listed if not card.integrated and card.total_mib]
    if build.backend == "cuda" and used:
        own = sorted((card for card in own if card.uuid in used), key=lambda card: used.index(card.uuid))
    taken = CUDA_PROCESS_MIB if build.backend == "cuda" else 0
    if own:
        return tuple(
            _simulated(card, card.total_mib, min(card.total_mib, card.free_mib + freed.get(card.uuid, 0)) - taken)
            for card in own
        )
    available, whole = ram
    room = available - system_reserve_mib(whole, RESERVE_MIB) - CACHE_RAM_MIB
    return tuple(_simulated(card, whole, room - taken) for card in listed[:1] if whole)


def _simulated(card: Gpu, total_mib: int, free_mib: int) -> SimulatedGpu:
    name = card.name.replace(":", " ").replace(",", " ")[:60] or "GPU"
    return SimulatedGpu(name=name, total_mib=max(1, total_mib), free_mib=max(1, free_mib))


def _notes(rig: Rig, build: Build, gpus: GpuState, cards: Sequence[SimulatedGpu], held: HeldMemory) -> Iterable[str]:
    if build.backend != "cpu" and not cards:
        why = f" ({gpus.problem})" if gpus.problem and build.backend == "cuda" else ""
        yield f"build {build.name!r} finds no GPU on this box{why}: the processor alone is counted"
    if build.backend in ("vulkan", "hip") and cards:
        yield f"dry runs simulate CUDA cards; a deploy measures the buffers of {build.backend}, which differ"
        if held.ram_mib and gpus.amd and not rig.simulated_gpus:
            yield "AMD's driver does not tell what a running model holds of a card: that counts as taken"


def rates(rig: Rig, box: BoxForQuants) -> tuple[float, str]:
    """MB/s of a download to the box, and where that is from."""
    measured = 0.0
    if (last := box.last_download) is not None and last.state == "done" and last.unit == "bytes":
        moved, seconds = last.done - last.done_at_start, last.ended - last.step_started
        measured = moved / seconds / 1e6 if moved > _MEASURED_BYTES and seconds > _MEASURED_S else 0.0
    limit = rig.hub.max_mb_s
    if measured:
        rate, words = measured, "as measured with the last one"
    else:
        rate, words = ASSUMED_MB_S, "assumed: none has been measured"
    if limit is not None and (not measured or limit < rate):
        rate, words = limit, "the declared limit"
    return rate, f"downloads at {rate:.0f} MB/s, {words}"


def speeds(rig: Rig, box: BoxForQuants, ledger: Sequence[BenchEntry], header: QuantHeader, at: AtContext | None) -> str:
    """Tokens/s as timings of this file predict them, or roughly (``~``) those of other quants of its repository.

    Empty without such timings on this box and build, and where they do not say enough.
    """
    if at is None or not isinstance(at.placement, CpuOnly | Layers):
        return ""
    arguments = list(chain.from_iterable(placement_arguments(at.placement)))
    reads = ram_bytes_per_token(arguments, header.header)
    release, locked = release_id(box.build, rig.models), header.quant.locked
    repository = f"{layout.MODELS}/{locked.repo}/"
    file = f"{layout.model_directory(locked.repo, locked.commit)}/{locked.shards[0].path}"
    for mark, runs in (
        ("", runs_of_files(ledger, box.name, release, lambda path: path == file)),
        ("~", runs_of_files(ledger, box.name, release, lambda path: path.startswith(repository))),
    ):
        calibration = calibrate(runs)
        if reads is not None and calibration is not None and calibration.ms_per_token(reads) > 0:
            return f"{mark}{calibration.tokens_per_second(reads):.1f}"
    return ""
