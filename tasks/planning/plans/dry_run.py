"""The release's own llama-fit-params as a dry run: what it is told, and what it says."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Collection, Mapping, Sequence
from typing import Any

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


def _common(devices: Sequence[str]) -> list[str]:
    return [*(("--device", ",".join(devices)) if devices else ()), "--log-jsonl", "--verbosity", "5"]


def command(release: str, arguments: Sequence[str], environment: Mapping[str, str]) -> str:
    """One shell command that prints the lines of a dry run that say something, then ``exit=`` and its status."""
    said = " ".join(f"{name}={shlex.quote(value)}" for name, value in sorted(environment.items()))
    program = f"{release}/bin/{PROGRAM}"
    lines = "fit_memory_breakdown|splits = |layer +[0-9]+: dev = |[0-9] layers, |SWA KV|rror|fail|abort|^-c "
    return (
        f"out=$(mktemp); env {said} timeout {LONGEST_S} {shlex.join([program, *arguments])} >$out 2>&1; status=$?; "
        f"grep -E '{lines}' $out | tail -n 2000; rm -f $out; echo exit=$status"
    )


def prediction(output: str, outcome_of: str) -> Prediction:
    """What a dry run says a server would take.

    :param outcome_of: what was run, for the message
    :raises DryRunError: when it failed, or does not speak as the pinned commit does
    """
    records = [_record(line) for line in output.splitlines()]
    rows = next((record["data"]["rows"] for record in reversed(records) if _is_breakdown(record)), None)
    if rows is None:
        raise DryRunError(f"{outcome_of} did not say what it would take: {failure(output)}")
    splits = next((_splits(record) for record in reversed(records) if _splits(record)), None)
    gpus = tuple(_memory(row) for row in rows if row.get("kind") == "device")
    host = [_memory(row) for row in rows if row.get("kind") == "host"]
    others = [_memory(row) for row in rows if row.get("kind") == "buffer_type"]
    if not host:
        raise DryRunError(f"{outcome_of} says nothing of RAM")
    # Buffer types of no device and not the host's (such as repacked weights) are RAM too.
    total = DeviceMemory(
        name="Host",
        model_mib=sum(row.model_mib for row in (*host, *others)),
        context_mib=sum(row.context_mib for row in (*host, *others)),
        compute_mib=sum(row.compute_mib for row in (*host, *others)),
    )
    return Prediction(gpus, total, splits, _layer_context(records), _checkpoint_mib(records))


def _layer_context(records: Sequence[dict[str, Any]]) -> dict[int, float]:
    """Each cache lists its layers and then its size: MiB of KV cache and state a layer, where all is as expected.

    Layers of one cache are alike (src/llama-kv-cache.cpp, src/llama-memory-recurrent.cpp, pinned commit); were they
    not, a dry run of the placement found would tell.
    """
    found: dict[int, float] = {}
    listed: list[int] = []
    for record in records:
        said = str(record.get("msg", ""))
        if layer := _CACHE_LAYER.search(said):
            listed.append(int(layer[1]))
        elif (size := _CACHE_SIZE.search(said)) and listed:
            for number in listed:
                found[number] = found.get(number, 0.0) + float(size[1]) / len(listed)
            listed = []
    return found


def _checkpoint_mib(records: Sequence[dict[str, Any]]) -> float:
    """MiB that a context checkpoint keeps: recurrent state, or the cache of a sliding window; the rest is not copied."""
    found, sliding = 0.0, False
    for record in records:
        said = str(record.get("msg", ""))
        sliding = sliding or bool(_SLIDING.search(said))
        size = _CACHE_SIZE.search(said)
        if size and ("recurrent" in said or sliding):
            found += float(size[1])
            sliding = False
    return found


def failure(output: str) -> str:
    """Its own words about why it failed, and its exit status."""
    said = []
    for line in output.splitlines():
        record = _record(line)
        text = str(record.get("msg", "")) if record else line
        if re.search("rror|fail|abort", text):
            said.append(text.strip())
    status = re.search(r"^exit=(\d+)", output, re.MULTILINE)
    return " | ".join([*said[-3:], f"exit status {status[1] if status else 'unknown'}"])


def _record(line: str) -> dict[str, Any]:
    if not line.startswith("{"):
        return {}
    try:
        value = json.loads(line)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _is_breakdown(record: dict[str, Any]) -> bool:
    return record.get("type") == "fit_memory_breakdown" and isinstance(record.get("data"), dict)


def _splits(record: dict[str, Any]) -> tuple[int, int] | None:
    found = _SPLITS.search(str(record.get("msg", ""))) if record.get("type") == "log" else None
    return (int(found[1]), int(found[2] or found[1])) if found else None


def _memory(row: dict[str, Any]) -> DeviceMemory:
    return DeviceMemory(
        name=row["name"], model_mib=row["model"], context_mib=row["context"], compute_mib=row["compute"]
    )
