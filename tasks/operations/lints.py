"""What is declared and probably not meant, said aloud at every deploy; what cannot work, refused before it is tried."""

from __future__ import annotations

from dataclasses import replace

from pyinfra import logger
from pyinfra.api.operation import operation
from pyinfra.context import host, state

from tasks.facts.capacity import Capacity
from tasks.facts.gpus import Gpus
from tasks.facts.model_headers import ModelHeaders
from tasks.facts.model_store import ModelStore
from tasks.operations import Commands
from tasks.operations.load_modes import read_load_modes
from tasks.operations.lock_file import LockError, locked_models
from tasks.operations.long_work import read_releases
from tasks.operations.once import read_once
from tasks.operations.plan_file import PlanError
from tasks.operations.refuse import refuse
from tasks.operations.serving import read_units
from tasks.planning.gguf_header import Header
from tasks.planning.lints.lint_model import coverage_report, lint_model, wants_header, without_accepted
from tasks.planning.lints.memory import wants_vram, weights_in_ram
from tasks.planning.lints.pinned import memory_max_lints, pinned_lints
from tasks.planning.pinned_weights import Choice, ServerMemory
from tasks.planning.shards import target
from tasks.spec.model_lock import LockedModel
from tasks.spec.rig import Rig


def read_headers(rig: Rig, locked: list[LockedModel]) -> dict[str, Header]:
    """Model name -> the tensors of all its shards, for models whose files are there and whose lints look at them."""
    paths = {
        model.name: [target(lock, shard) for shard in lock.shards]
        for model, lock in zip(rig.models, locked, strict=True)
        if wants_header(model)
    }
    if not paths:
        return {}
    there = read_once(ModelStore).files
    whole = {name: shards for name, shards in paths.items() if all(shard in there for shard in shards)}
    wanted = sorted({shard for shards in whole.values() for shard in shards})
    read = host.get_fact(ModelHeaders, paths=wanted) if wanted else {}
    return {
        name: Header(
            tuple(tensor for shard in shards for tensor in read[shard].tensors),
            read[shards[0]].metadata,
        )
        for name, shards in whole.items()
        if all(shard in read for shard in shards)
    }


def _load_modes(rig: Rig, locked: list[LockedModel]) -> tuple[dict[str, Choice], dict[str, ServerMemory]]:
    try:
        return read_load_modes(rig, read_releases(rig), locked, read_units(rig))
    except PlanError:
        return {}, {}  # reported in full by the operation that serves the models


@operation()
def models_linted(rig: Rig) -> Commands:
    """The owner hears what follows from the declarations. A model that cannot work as declared stops here."""
    if not state.is_executing:
        # A fresh box has neither models nor programs yet; once it has, the deploy is executing.
        host.noop("nothing to change: lints are said while deploying")
        return
    try:
        locked = locked_models(rig)
    except LockError:
        return  # said in full by the operation that needs it
    if locked is None:
        return
    box, headers = host.get_fact(Capacity), read_headers(rig, locked)
    if any(wants_vram(model) for model in rig.models):
        box = replace(box, vram=sum(card.total_mib for card in read_once(Gpus).cards) << 20)
    refused = []
    choices, memory = _load_modes(rig, locked)
    for model, lock in zip(rig.models, locked, strict=True):
        size = sum(shard.size for shard in lock.shards)
        header = headers.get(model.name)
        found = [
            *lint_model(model, rig.build_of(model), box, size, header),
            *without_accepted(model, memory_max_lints(rig, model, weights_in_ram(model, size, header, box.vram))),
            *without_accepted(
                model,
                pinned_lints(rig, model, choices[model.name], memory.get(model.name)) if model.name in choices else (),
            ),
        ]
        for lint in found:
            if lint.severity == "refusal":
                refused.append(f"model {model.name!r}: {lint}")
            else:
                host.log_styled(f"model {model.name!r}: {lint}", fg="yellow", log_func=logger.warning)
        for line in coverage_report(model, header) if header else []:
            host.log(f"model {model.name!r}: {line}")
    if refused:
        yield from refuse("cannot work as declared; no unit was changed", refused)
    else:
        host.noop("no declaration is refused")
