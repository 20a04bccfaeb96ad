"""Dry runs with the release's own llama-fit-params: its arguments, and the parser of its output."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence

from llamarig.declare.flags import memory_flags, rows
from llamarig.declare.model import Model
from llamarig.declare.placement import AllOnGpu
from llamarig.declare.serve import Serve
from llamarig.placement.candidate import Candidate, Prediction
from llamarig.placement.speculation_memory import DRAFT_TOKENS
from llamarig.records.plan_file import DeviceMemory
from llamarig.render.sandboxed_run import our_program, reading_sandbox, sandboxed
from llamarig.render.server_arguments import ModelFiles, server_arguments

PROGRAM = "llama-fit-params"
TIMEOUT_S = 60
"""A dry run takes 0.1 to 1 s; one that reaches this timeout hangs."""
START_S = 30
"""For systemd to start it, and for our program to end it and report that."""

# The arguments of a server that decide memory, and how many values each takes; llama-fit-params refuses the others
# (tools/fit-params of the pinned commit knows the common arguments alone). The last three have no field, but may be
# declared as extra.
_MEMORY_FLAGS = {**memory_flags(rows(Serve)), "--override-kv": 1, "--no-host": 0, "--no-repack": 0}
_PLACEMENT_FLAGS = {
    spelling for row in rows(Serve) if row.path.startswith("placement") for spelling in row.setting.spellings
}
_ROW = re.compile(r"(\w+) (\d+) (\d+) (\d+) ?")
"""``CUDA0 19406 1113 1756``: MiB of weights, of KV cache and state, of compute buffers (common/fit.cpp, pinned
commit)."""
_ERROR_LINE = re.compile(r"[Ee]rror|[Ff]ail|\babort\b|exception|not found|invalid")
_LAYER_DEVICE = re.compile(r"layer +(\d+) assigned to device (\w+)")
_CACHE_LAYER = re.compile(r"layer +(\d+): dev = ")
_CACHE_SIZE = re.compile(r"size = +([\d.]+) MiB \( *\d+ cells, +\d+ layers, ")
_SLIDING_WINDOW = re.compile(r"creating +SWA KV cache")
_SPLITS = re.compile(r"splits = (\d+)(?: / (\d+))?")


class DryRunError(ValueError):
    """The dry run printed no prediction; the message quotes its errors."""


def with_candidate(model: Model, candidate: Candidate) -> Model:
    """The model with the candidate's placement and settings."""
    fields = ("placement", "context", "ubatch", "cache_type_k", "cache_type_v")
    serve = model.serve.model_copy(update={field: getattr(candidate, field) for field in fields})
    return model.model_copy(update={"serve": serve})


def memory_arguments(arguments: Sequence[str], *, placement: bool = True) -> list[str]:
    """Keep the arguments that decide memory.

    :param placement: keep the ones that place layers, too
    """
    kept: list[str] = []
    index = 0
    while index < len(arguments):
        flag = arguments[index]
        values = _MEMORY_FLAGS.get(flag)
        if values is not None and (placement or flag not in _PLACEMENT_FLAGS):
            kept += arguments[index : index + 1 + values]
        index += 1 + (values or 0)
    return kept


def dry_run_arguments(
    model: Model,
    header: str,
    flags: Collection[str],
    devices: Sequence[str] = (),
    *,
    placement: Sequence[str] | None = None,
    positions: int = 0,
) -> list[str]:
    """Arguments of llama-fit-params that measure a model as it would be served.

    :param header: path on the box of the model's header: its first shard, or the sparse copy of it
    :param flags: every flag the release supports
    :param devices: names of simulated devices; without them llama.cpp would not load their backend
    :param placement: flags that place the layers, instead of the model's own
    :param positions: layers of the model and its output, where they are known
    """
    served = server_arguments(_on(model, devices), ModelFiles(header, positions=positions), flags)
    kept = memory_arguments(served, placement=placement is None)
    return ["--model", header, *kept, *_common(devices), *(placement or ()), "--fit-print", "on"]


def fit_arguments(
    model: Model, header: str, flags: Collection[str], margins: Sequence[int], devices: Sequence[str] = ()
) -> list[str]:
    """Arguments of llama-fit-params that let llama.cpp place the layers itself, with the same margins."""
    served = server_arguments(_on(model, devices), ModelFiles(header), flags)
    kept = memory_arguments(served, placement=False)
    return ["--model", header, *kept, *_common(devices), "--fit", "on", "--fit-target", ",".join(map(str, margins))]


def _on(model: Model, devices: Sequence[str]) -> Model:
    """The model without the GPUs that it names, where it is planned for simulated ones."""
    return model.model_copy(update={"serve": model.serve.model_copy(update={"gpus": ()})}) if devices else model


_NGRAM_DRAFTS = {"ngram-simple": 48, "ngram-map-k": 48, "ngram-map-k4v": 48, "ngram-mod": 64, "ngram-cache": 8}


def server_outputs(model: Model) -> int:
    """Tokens for which llama-server reserves logits: one a slot, and the drafted ones.

    Source: server_output_limits in tools/server/server-context.cpp and common_speculative_n_max in
    common/speculative.cpp, pinned commit.
    """
    serve, drafted = model.serve, 0
    if serve.task != "completion":
        # Every token of a batch, which then has the size of a ubatch (tools/server/server.cpp:150).
        return min(serve.batch, serve.ubatch)
    if (speculation := serve.speculation) is not None:
        for kind in speculation.types:
            if kind.startswith("draft-"):
                drafted = max(drafted, speculation.draft_max or DRAFT_TOKENS)
            elif kind == "ngram-mod":
                drafted = max(drafted, speculation.ngram_mod_max or _NGRAM_DRAFTS[kind])
            else:
                drafted = max(drafted, speculation.ngram_draft or _NGRAM_DRAFTS[kind])
    return min(serve.batch, serve.parallel * (1 + drafted))


_VISION_BUFFERS_MIB = 512


def vision_mib(size: int) -> int:
    """MiB reserved for a vision projector: its file, and an estimate of its buffers, which no dry run measures.

    :param size: of the projector's file, in bytes
    """
    return -(-size // (1 << 20)) + _VISION_BUFFERS_MIB


def draft_arguments(model: Model, path: str, devices: Sequence[str] = ()) -> list[str]:
    """Arguments of llama-fit-params that measure a draft model."""
    serve, speculation = model.serve, model.serve.speculation
    layers = 99 if speculation is None or speculation.draft_gpu_layers is None else speculation.draft_gpu_layers
    types = ("f16", "f16")
    if speculation is not None:
        types = (speculation.draft_cache_type_k or "f16", speculation.draft_cache_type_v or "f16")
    arguments = ["--model", path, "--ctx-size", str(serve.context), "--parallel", str(serve.parallel)]
    arguments += ["--batch-size", str(serve.batch), "--ubatch-size", str(serve.ubatch), "--n-gpu-layers", str(layers)]
    arguments += ["--cache-type-k", types[0], "--cache-type-v", types[1], "--flash-attn", serve.flash_attention]
    return [*arguments, "--fit", "off", *_common(devices or serve.device_names), "--fit-print", "on"]


def measured_on_last_arguments(
    model: Model, header: str, flags: Collection[str], gpus: int, devices: Sequence[str] = ()
) -> list[str]:
    """Arguments of llama-fit-params that measure a model wholly on the last GPU.

    Without a rule for tensors, as a draft is loaded: on several GPUs its buffers are those of pipeline parallelism.
    """
    split = ",".join(["0"] * (gpus - 1) + ["1"])
    placement = ["--n-gpu-layers", "999", "--fit", "off", "--tensor-split", split]
    # auto() cannot be rendered; any other placement is replaced by these flags.
    serve = model.serve.model_copy(update={"placement": AllOnGpu()})
    placed = model.model_copy(update={"serve": serve})
    return dry_run_arguments(placed, header, flags, devices, placement=placement)


def used_devices_arguments(model: Model, header: str, devices: Sequence[str] = ()) -> list[str]:
    """Arguments with which llama-fit-params prints the devices it would use, with almost nothing on them."""
    serve = model.serve
    minimal = ["--ctx-size", "256", "--batch-size", "32", "--ubatch-size", "32", "--fit", "off"]
    common = _common(devices or serve.device_names)
    devices_used = ["--split-mode", serve.split_mode, "--main-gpu", str(serve.main_gpu)]
    return ["--model", header, *minimal, *devices_used, "--n-gpu-layers", "0", *common, "--fit-print", "on"]


def _common(devices: Sequence[str]) -> list[str]:
    return [*(("--device", ",".join(devices)) if devices else ()), "--verbosity", "5"]


def dry_run_command(
    release: str, arguments: Sequence[str], environment: Mapping[str, str], sandbox: Iterable[str]
) -> str:
    """Shell command that makes a dry run on the box, through remote/plan/dry_run.py (the reason is given there).

    :param sandbox: properties of the transient unit (render/sandboxed_run.py)
    """
    # The error messages are enough: no debugger for a backtrace.
    variables = {**environment, "GGML_NO_BACKTRACE": "1"}
    words = our_program("plan.dry_run", [str(TIMEOUT_S), f"{release}/bin/{PROGRAM}", *arguments])
    return sandboxed(sandbox, words, variables, TIMEOUT_S + START_S)


def dry_runs_command(release: str, environment: Mapping[str, str], sandbox: Iterable[str], runs: int) -> str:
    """Shell command that makes several dry runs side by side: remote/plan/dry_runs.py, which reads them on stdin."""
    words = our_program("plan.dry_runs", [str(TIMEOUT_S), f"{release}/bin/{PROGRAM}"])
    return sandboxed(sandbox, words, {**environment, "GGML_NO_BACKTRACE": "1"}, runs * TIMEOUT_S + START_S)


def short_vocabulary_command(directory: str, outputs: int, ubatch: int, shards: Sequence[str]) -> str:
    """Shell command that prints the path of a header with a shortened vocabulary, or the reason why there is none.

    :param directory: of the service user, to write it to; the caller makes and removes it
    """
    words = our_program("plan.short_vocabulary", [directory, str(outputs), str(ubatch), *shards])
    return sandboxed(reading_sandbox(shards, [directory]), words, {}, TIMEOUT_S)


def parse_prediction(output: str, run_name: str) -> Prediction:
    """Parse the output of a dry run.

    :param run_name: what was run, for the error message
    :raises DryRunError: if the run failed or its output is not that of the pinned commit
    """
    lines = output.splitlines()
    rows = [_memory(row) for line in lines if (row := _ROW.fullmatch(line))]
    if not rows or rows[-1].name != "Host":
        raise DryRunError(f"{run_name} printed no prediction of its memory: {failure(output)}")
    splits = next((match for line in reversed(lines) if (match := _SPLITS.search(line))), None)
    return Prediction(
        gpus=tuple(rows[:-1]),
        host=rows[-1],
        splits=(int(splits[1]), int(splits[2] or splits[1])) if splits else None,
        layer_context=_layer_context(lines),
        layer_state=_layer_context([line for line in lines if "recurrent" in line]),
        checkpoint_mib=_checkpoint_mib(lines),
        layer_devices={int(found[1]): found[2] for line in lines if (found := _LAYER_DEVICE.search(line))},
    )


def _layer_context(lines: Sequence[str]) -> dict[int, float]:
    """MiB of KV cache and state by layer. Each cache prints its layers and then its total size.

    The layers of one cache are alike (src/llama-kv-cache.cpp, src/llama-memory-recurrent.cpp, pinned commit). If they
    were not, the dry run of the chosen placement would show it.
    """
    found: dict[int, float] = {}
    listed: list[int] = []
    for line in lines:
        if layer := _CACHE_LAYER.search(line):
            listed.append(int(layer[1]))
        elif (size := _CACHE_SIZE.search(line)) and listed:
            for number in listed:
                found[number] = found.get(number, 0.0) + float(size[1]) / len(listed)
            listed = []
    return found


def _checkpoint_mib(lines: Sequence[str]) -> float:
    """MiB of a context checkpoint: the recurrent state, or the cache of sliding-window layers; nothing else is
    copied."""
    found, sliding = 0.0, False
    for line in lines:
        sliding = sliding or bool(_SLIDING_WINDOW.search(line))
        size = _CACHE_SIZE.search(line)
        if size and ("recurrent" in line or sliding):
            found += float(size[1])
            sliding = False
    return found


def failure(output: str) -> str:
    """The error lines of a failed dry run, three at most, and its exit status."""
    lines = [re.sub(r"^[\d.]+ [A-Z] ", "", line).strip() for line in output.splitlines()]
    errors = [line for line in lines if _ERROR_LINE.search(line)]
    status = re.search(r"^exit=(\d+)", output, re.MULTILINE)
    return " | ".join([*errors[:3], f"exit status {status[1] if status else 'unknown'}"])


def _memory(row: re.Match[str]) -> DeviceMemory:
    return DeviceMemory(name=row[1], model_mib=int(row[2]), context_mib=int(row[3]), compute_mib=int(row[4]))
