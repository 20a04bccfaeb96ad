"""Settings that are tried for a model on a box: those whose best value only a measurement can tell.

What the owner has decided is never touched: model, quant, context, KV types, slots, layers and cards. What does not
change how much memory is needed comes first, because it needs no dry runs.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass

from pydantic import JsonValue

from llamarig.declare.build import Build
from llamarig.declare.model import Model
from llamarig.declare.rig import Rig
from llamarig.records.tuning import BUILD, ENVIRONMENT, Settings, declared, with_settings

_MIN_BATCH = f"{ENVIRONMENT}GGML_OP_OFFLOAD_MIN_BATCH"
_GRAPH_OPT = f"{ENVIRONMENT}GGML_CUDA_GRAPH_OPT"
_MALLOC = f"{ENVIRONMENT}GLIBC_TUNABLES"
_LEAST_UBATCH, _MOST_UBATCH = 64, 8192


@dataclass(frozen=True)
class Box:
    """What the candidates depend on.

    ``online``: CPUs; ``cores``: physical ones, and ``fast_cores`` those of a hybrid processor that are fast (0: all
    alike); ``first`` and ``fast``: CPU numbers, of the first thread of each core and of the fast cores; ``huge_pages``:
    the kernel's setting; ``predicts``: whether the model has layers of multi-token prediction of its own.
    """

    online: int
    cores: int
    fast_cores: int = 0
    first: frozenset[int] = frozenset()
    fast: frozenset[int] = frozenset()
    huge_pages: str = ""
    predicts: bool = False


@dataclass(frozen=True)
class Candidate:
    """One setting with another value. ``knob``: of one knob, one value is chosen; ``name``: as reports show it."""

    knob: str
    name: str
    settings: Settings


def candidates(rig: Rig, model: Model, box: Box, builds: Collection[str] = ()) -> list[Candidate]:
    """The candidates of a model, the cheapest first: flags alone, then what needs dry runs, then other builds.

    :param builds: names of declared builds to compare
    """
    build = rig.build_of(model)
    found = [
        *_threads(model, box),
        *_affinity(model, box),
        *_priority(model),
        *_environment(model, build, box),
        *_speculation(model, box),
        *_caches(model),
        *_offload(model, build),
        *_load_modes(model, build),
        *_batches(model),
        *(_of("build", BUILD, name) for name in builds),
    ]
    return [one for one in found if not _is_declared(model, one) and _may_be_declared(model, one)]


def combined(model: Model, best: Iterable[tuple[Candidate, float]]) -> list[Candidate]:
    """The finalists: all that gained something together, and the one that gained most, the former first.

    :param best: promising candidates with their gain
    """
    of_knob: dict[str, tuple[Candidate, float]] = {}
    for one, gain in sorted(best, key=lambda pair: -pair[1]):
        of_knob.setdefault(one.knob, (one, gain))
    chosen = [one for one, _ in of_knob.values()]
    if len(chosen) < 2:
        return chosen
    together: dict[str, JsonValue] = {}
    for one in chosen:
        if _may_be_declared(model, Candidate("", "", {**together, **one.settings})):
            together |= one.settings
    if together.get("op_offload") is False:
        together.pop(_MIN_BATCH, None)
    return [Candidate("all", words(together), together), chosen[0]]


def words(settings: Settings) -> str:
    """Settings in words: ``ubatch 1024, threads 8``."""
    return ", ".join(f"{name.removeprefix(ENVIRONMENT)} {value_words(value)}" for name, value in settings.items())


def value_words(value: JsonValue) -> str:
    """A value in words; of speculation its types."""
    if value is None:
        return "not declared"
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, dict) and isinstance(value.get("types"), list | tuple):
        types = value["types"]
        return "+".join(map(str, types)) if isinstance(types, list | tuple) else str(types)
    return str(value)


def _of(knob: str, setting: str, value: JsonValue, **more: JsonValue) -> Candidate:
    settings: dict[str, JsonValue] = {setting: value, **more}
    return Candidate(knob, words(settings), settings)


def _is_declared(model: Model, one: Candidate) -> bool:
    return all(declared(model, setting) == value for setting, value in one.settings.items())


def _may_be_declared(model: Model, one: Candidate) -> bool:
    try:
        with_settings(model, one.settings)
    except ValueError:
        return False
    return True


def _threads(model: Model, box: Box) -> Iterator[Candidate]:
    """Never every processor: what else runs on the box would then stop a thread that all others wait for.

    With as many threads as processors generation read 11 to 62 tokens/s for the same flags; with half of them it stayed
    within 5 % (two H200, 32 vCPUs).
    """
    most = max(1, box.online - 1)
    default = box.fast_cores or box.cores  # llama.cpp's own (common/common.cpp)
    declared_threads = model.serve.threads or default
    for count in sorted({default, box.cores, 3 * box.cores // 4, box.cores // 2, box.fast_cores}, reverse=True):
        if 1 <= count <= most and count != declared_threads:
            yield _of("threads", "threads", count)
    for count in sorted({box.cores, default, most}, reverse=True):
        if 1 <= count <= most and count != (model.serve.threads_batch or declared_threads):
            yield _of("threads_batch", "threads_batch", count)


def _affinity(model: Model, box: Box) -> Iterator[Candidate]:
    if model.serve.cpu_affinity is not None:
        yield _of("cpu_affinity", "cpu_affinity", None)
        return
    if box.fast_cores:
        yield _of("cpu_affinity", "cpu_affinity", cpu_list(box.first & box.fast))
    elif 1 < box.cores < box.online:
        yield _of("cpu_affinity", "cpu_affinity", cpu_list(box.first))


def cpu_list(cpus: Collection[int]) -> str:
    """CPU numbers as systemd writes them: ``0-3,8``."""
    ranges: list[list[int]] = []
    for cpu in sorted(cpus):
        if ranges and cpu == ranges[-1][1] + 1:
            ranges[-1][1] = cpu
        else:
            ranges.append([cpu, cpu])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in ranges)


def _priority(model: Model) -> Iterator[Candidate]:
    yield _of("priority", "priority", 0 if model.serve.priority else 2)


def _environment(model: Model, build: Build, box: Box) -> Iterator[Candidate]:
    if build.backend == "cuda" and not _is_on_cpu(model):
        on = declared(model, _GRAPH_OPT) is not None
        yield _of("graphs", _GRAPH_OPT, None if on else "1")
    if _has_weights_in_ram(model) and not _is_on_cpu(model) and build.backend != "cpu":
        if declared(model, _MIN_BATCH) is not None:
            yield _of("min_batch", _MIN_BATCH, None)
        # 32 is llama.cpp's default; ik_llama.cpp waits for experts / used x 32, which was 1,638 for one model.
        for tokens in ("128", "512", "1600"):
            yield _of("min_batch", _MIN_BATCH, tokens)
    if box.huge_pages == "madvise" and _has_weights_in_ram(model) and declared(model, _MALLOC) is None:
        # glibc 2.35 and newer: malloc asks for huge pages, also for buffers of weights that are not mapped.
        yield _of("huge_pages", _MALLOC, "glibc.malloc.hugetlb=1")


def _speculation(model: Model, box: Box) -> Iterator[Candidate]:
    if model.serve.speculation is not None:
        if model.draft is None:  # a draft that is loaded and not used is refused
            yield _of("speculation", "speculation", None)
        return
    kinds = ["ngram-mod", "ngram-simple"]
    if box.predicts:
        kinds.append("draft-mtp")
    for kind in kinds:
        yield _of("speculation", "speculation", {"types": [kind]})


def _caches(model: Model) -> Iterator[Candidate]:
    """Caches are tried only where the workload uses them: without a second conversation none is worth anything."""
    workload = model.workload
    if workload is not None and workload.preset == "batch" and model.serve.cache_ram_mib != 0:
        yield _of("cache_ram", "cache_ram_mib", 0)
    for count in (8, 64):
        yield _of("checkpoints", "context_checkpoints", count)


def _offload(model: Model, build: Build) -> Iterator[Candidate]:
    if _has_weights_in_ram(model) and not _is_on_cpu(model) and build.backend != "cpu":
        yield _of("op_offload", "op_offload", not model.serve.op_offload)


def _load_modes(model: Model, build: Build) -> Iterator[Candidate]:
    if _has_weights_in_ram(model):
        for mode in ("none", "mmap", "mlock"):
            yield _of("load_mode", "load_mode", mode)


def _batches(model: Model) -> Iterator[Candidate]:
    """Doubled and halved, twice each; a logical batch is at least one ubatch."""
    serve = model.serve
    sizes = {serve.ubatch * 2, serve.ubatch * 4, serve.ubatch // 2, serve.ubatch // 4, 512, 2048}
    for ubatch in sorted(sizes - {serve.ubatch}):
        if _LEAST_UBATCH <= ubatch <= min(_MOST_UBATCH, serve.context):
            more: dict[str, JsonValue] = {} if serve.batch >= ubatch else {"batch": ubatch}
            yield _of("ubatch", "ubatch", ubatch, **more)
    for batch in (serve.batch * 2, serve.batch // 2):
        if serve.ubatch <= batch <= min(2 * _MOST_UBATCH, serve.context):
            yield _of("batch", "batch", batch)


def _is_on_cpu(model: Model) -> bool:
    return model.serve.placement.kind == "cpu-only"


def _has_weights_in_ram(model: Model) -> bool:
    """Whether some weights are in RAM, as far as the declaration tells: auto() and fit() may put some there."""
    return model.serve.placement.kind != "all-on-gpu"
