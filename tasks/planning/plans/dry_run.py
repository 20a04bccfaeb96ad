"""The release's own llama-fit-params as a dry run: what it is told, and what it says."""

from __future__ import annotations

import re
import shlex
from collections.abc import Collection, Mapping, Sequence

from tasks.planning import layout
from tasks.planning.flags import ModelFiles, server_arguments
from tasks.planning.plans.candidate import Candidate, Prediction
from tasks.spec.model import Model
from tasks.spec.plan_file import DeviceMemory

PROGRAM = "llama-fit-params"
LONGEST_S = 60
"""A dry run takes 0.1 to 1 s; one that takes this long has met something else."""

# What of a server's arguments decides memory, and how many values each takes. llama-fit-params refuses the server's own
# flags (tools/fit-params, pinned commit: common arguments alone).
_DECIDES_MEMORY = {
    "--ctx-size": 1,
    "--parallel": 1,
    "--batch-size": 1,
    "--ubatch-size": 1,
    "--cache-type-k": 1,
    "--cache-type-v": 1,
    "--flash-attn": 1,
    "--rope-freq-base": 1,
    "--rope-freq-scale": 1,
    "--rope-scaling": 1,
    "--rope-scale": 1,
    "--yarn-orig-ctx": 1,
    "--n-gpu-layers": 1,
    "--fit": 1,
    "--fit-target": 1,
    "--fit-ctx": 1,
    "--tensor-split": 1,
    "--override-tensor": 1,
    "--n-cpu-moe": 1,
    "--split-mode": 1,
    "--main-gpu": 1,
    "--no-op-offload": 0,
    "--threads": 1,
    "--threads-batch": 1,
    "--override-kv": 1,
    "--no-host": 0,
    "--no-repack": 0,
    "--no-kv-offload": 0,
    "--swa-full": 0,
}
_PLACES = ("--n-gpu-layers", "--fit", "--fit-target", "--fit-ctx", "--tensor-split", "--override-tensor", "--n-cpu-moe")
_ROW = re.compile(r"(\w+) (\d+) (\d+) (\d+) ?")
"""``CUDA0 19406 1113 1756``: MiB of weights, KV cache and state, compute buffers (common/fit.cpp, pinned commit)."""
_COMPLAINT = re.compile(r"[Ee]rror|[Ff]ail|\babort\b|exception|not found|invalid")
_CACHE_LAYER = re.compile(r"layer +(\d+): dev = ")
_CACHE_SIZE = re.compile(r"size = +([\d.]+) MiB \( *\d+ cells, +\d+ layers, ")
_SLIDING = re.compile(r"creating +SWA KV cache")
_SPLITS = re.compile(r"splits = (\d+)(?: / (\d+))?")


class DryRunError(ValueError):
    """The dry run did not say what it would take; the message has its own words."""


def with_candidate(model: Model, candidate: Candidate) -> Model:
    """The model served as the candidate says."""
    fields = ("placement", "context", "ubatch", "cache_type_k", "cache_type_v")
    serve = model.serve.model_copy(update={field: getattr(candidate, field) for field in fields})
    return model.model_copy(update={"serve": serve})


def memory_arguments(arguments: Sequence[str], *, placement: bool = True) -> list[str]:
    """The arguments that decide memory; without ``placement`` none that says where layers go."""
    kept: list[str] = []
    index = 0
    while index < len(arguments):
        flag = arguments[index]
        values = _DECIDES_MEMORY.get(flag)
        if values is not None and (placement or flag not in _PLACES):
            kept += arguments[index : index + 1 + values]
        index += 1 + (values or 0)
    return kept


def dry_run_arguments(
    model: Model, header: str, flags: Collection[str], candidate: Candidate, devices: Sequence[str] = ()
) -> list[str]:
    """What llama-fit-params is told to measure a candidate.

    :param header: path of the model's header on the box: its first shard, or the sparse copy of it
    :param flags: every flag the release lists
    :param devices: named where they are simulated, or llama.cpp would not load their backend
    """
    served = server_arguments(with_candidate(model, candidate), ModelFiles(header), flags)
    return ["--model", header, *memory_arguments(served), *_common(devices), "--fit-print", "on"]


def declared_arguments(model: Model, header: str, flags: Collection[str], devices: Sequence[str] = ()) -> list[str]:
    """What llama-fit-params is told to measure a placement that its owner declared."""
    served = server_arguments(model, ModelFiles(header), flags)
    return ["--model", header, *memory_arguments(served), *_common(devices), "--fit-print", "on"]


def fit_arguments(
    model: Model,
    header: str,
    flags: Collection[str],
    candidate: Candidate,
    margins: Sequence[int],
    devices: Sequence[str] = (),
) -> list[str]:
    """What llama-fit-params is told to place the layers itself, with the same margins."""
    served = server_arguments(with_candidate(model, candidate), ModelFiles(header), flags)
    target = ",".join(str(margin) for margin in margins)
    return [
        *("--model", header, *memory_arguments(served, placement=False), *_common(devices)),
        *("--fit", "on", "--fit-target", target),
    ]


def peer_arguments(
    model: Model,
    header: str,
    flags: Collection[str],
    candidate: Candidate,
    answer: Sequence[str],
    devices: Sequence[str] = (),
) -> list[str]:
    """What llama-fit-params is told to measure the placement it came to itself."""
    served = server_arguments(with_candidate(model, candidate), ModelFiles(header), flags)
    kept = memory_arguments(served, placement=False)
    return ["--model", header, *kept, *_common(devices), *answer, "--fit", "off", "--fit-print", "on"]


_NGRAM_DRAFTS = {"ngram-simple": 48, "ngram-map-k": 48, "ngram-map-k4v": 48, "ngram-mod": 64, "ngram-cache": 8}
_DRAFT = 3
"""Tokens guessed at once where nothing is declared (common/common.h, pinned commit)."""


def server_outputs(model: Model) -> int:
    """For how many tokens llama-server reserves logits: one a slot, and those that are guessed.

    (tools/server/server-context.cpp server_output_limits, common/speculative.cpp common_speculative_n_max, pinned
    commit.)
    """
    serve, guessed = model.serve, 0
    if serve.speculation is not None:
        said = serve.speculation
        for kind in said.types:
            if kind.startswith("draft-"):
                guessed = max(guessed, said.draft_max or _DRAFT)
            elif kind == "ngram-mod":
                guessed = max(guessed, said.ngram_mod_max or _NGRAM_DRAFTS[kind])
            else:
                guessed = max(guessed, said.ngram_draft or _NGRAM_DRAFTS[kind])
    return min(serve.batch, serve.parallel * (1 + guessed))


_VISION_BUFFERS_MIB = 512


def vision_mib(size: int) -> int:
    """MiB set aside for a vision projector: its file, and a guess for its buffers, which no dry run tells.

    :param size: bytes of the projector's file
    """
    return -(-size // (1 << 20)) + _VISION_BUFFERS_MIB


def draft_arguments(model: Model, path: str, devices: Sequence[str] = ()) -> list[str]:
    """What llama-fit-params is told to measure a draft model beside its model."""
    serve, said = model.serve, model.serve.speculation
    layers = 99 if said is None or said.draft_gpu_layers is None else said.draft_gpu_layers
    types = ("f16", "f16")
    if said is not None:
        types = (said.draft_cache_type_k or "f16", said.draft_cache_type_v or "f16")
    arguments = ["--model", path, "--ctx-size", str(serve.context), "--parallel", str(serve.parallel)]
    arguments += ["--batch-size", str(serve.batch), "--ubatch-size", str(serve.ubatch), "--n-gpu-layers", str(layers)]
    arguments += ["--cache-type-k", types[0], "--cache-type-v", types[1], "--flash-attn", serve.flash_attention]
    return [*arguments, "--fit", "off", *_common(devices), "--fit-print", "on"]


def used_arguments(model: Model, header: str, devices: Sequence[str] = ()) -> list[str]:
    """What llama-fit-params is told to name the devices it would use, with next to nothing on them."""
    serve = model.serve
    little = ["--ctx-size", "256", "--batch-size", "32", "--ubatch-size", "32", "--fit", "off"]
    which = ["--split-mode", serve.split_mode, "--main-gpu", str(serve.main_gpu)]
    return ["--model", header, *little, *which, "--n-gpu-layers", "0", *_common(devices), "--fit-print", "on"]


def _common(devices: Sequence[str]) -> list[str]:
    return [*(("--device", ",".join(devices)) if devices else ()), "--verbosity", "5"]


def command(release: str, arguments: Sequence[str], environment: Mapping[str, str]) -> str:
    """One shell command for the box: tasks/files/dry_run.py, which says why it is not called directly."""
    # Its words about a failure are enough; a debugger attached for a backtrace is none.
    said = [f"{name}={value}" for name, value in sorted({**environment, "GGML_NO_BACKTRACE": "1"}.items())]
    program = [layout.PYTHON, "-B", "-m", "tasks.files.dry_run", str(LONGEST_S), f"{release}/bin/{PROGRAM}"]
    return f"cd {layout.PROGRAMS} && {shlex.join(['env', *said, *program, *arguments])}"


def short_command(directory: str, outputs: int, ubatch: int, shards: Sequence[str]) -> str:
    """One shell command for the box that prints the path of a header with a shorter vocabulary, or why there is none.

    :param directory: where it is made; the caller's to remove
    """
    words = [layout.PYTHON, "-B", "-m", "tasks.files.short_vocabulary", directory, str(outputs), str(ubatch), *shards]
    return f"cd {layout.PROGRAMS} && {shlex.join(words)}"


def prediction(output: str, outcome_of: str) -> Prediction:
    """What a dry run says a server would take.

    :param outcome_of: what was run, for the message
    :raises DryRunError: when it failed, or does not speak as the pinned commit does
    """
    lines = output.splitlines()
    rows = [_memory(found) for line in lines if (found := _ROW.fullmatch(line))]
    if not rows or rows[-1].name != "Host":
        raise DryRunError(f"{outcome_of} did not say what it would take: {failure(output)}")
    splits = next((found for line in reversed(lines) if (found := _SPLITS.search(line))), None)
    return Prediction(
        gpus=tuple(rows[:-1]),
        host=rows[-1],
        splits=(int(splits[1]), int(splits[2] or splits[1])) if splits else None,
        layer_context=_layer_context(lines),
        layer_state=_layer_context([line for line in lines if "recurrent" in line]),
        checkpoint_mib=_checkpoint_mib(lines),
    )


def _layer_context(lines: Sequence[str]) -> dict[int, float]:
    """Each cache lists its layers and then its size: MiB of KV cache and state a layer, where all is as expected.

    Layers of one cache are alike (src/llama-kv-cache.cpp, src/llama-memory-recurrent.cpp, pinned commit); were they
    not, a dry run of the placement found would tell.
    """
    found: dict[int, float] = {}
    listed: list[int] = []
    for said in lines:
        if layer := _CACHE_LAYER.search(said):
            listed.append(int(layer[1]))
        elif (size := _CACHE_SIZE.search(said)) and listed:
            for number in listed:
                found[number] = found.get(number, 0.0) + float(size[1]) / len(listed)
            listed = []
    return found


def _checkpoint_mib(lines: Sequence[str]) -> float:
    """MiB that a context checkpoint keeps: recurrent state, or a sliding window's cache; the rest is not copied."""
    found, sliding = 0.0, False
    for said in lines:
        sliding = sliding or bool(_SLIDING.search(said))
        size = _CACHE_SIZE.search(said)
        if size and ("recurrent" in said or sliding):
            found += float(size[1])
            sliding = False
    return found


def failure(output: str) -> str:
    """Its own words about why it failed, and its exit status."""
    lines = [re.sub(r"^[\d.]+ [A-Z] ", "", line).strip() for line in output.splitlines()]
    said = [line for line in lines if _COMPLAINT.search(line)]
    status = re.search(r"^exit=(\d+)", output, re.MULTILINE)
    return " | ".join([*said[:3], f"exit status {status[1] if status else 'unknown'}"])


def _memory(row: re.Match[str]) -> DeviceMemory:
    return DeviceMemory(name=row[1], model_mib=int(row[2]), context_mib=int(row[3]), compute_mib=int(row[4]))
