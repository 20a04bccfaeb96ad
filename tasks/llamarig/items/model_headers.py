"""The headers of model files on the box: which models need theirs, and what was read."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from llamarig.declare.model import Model
from llamarig.declare.rig import Rig
from llamarig.engine.control_machine import ControlMachine
from llamarig.engine.item import Query, Seen, query
from llamarig.facts.model_headers import ModelHeaders
from llamarig.facts.model_store import ModelStore
from llamarig.items.download_job import missing_files
from llamarig.lints.lint_model import needs_header
from llamarig.placement.model_layers import layer_counts
from llamarig.records.model_lock import LockedModel
from llamarig.remote.shared.gguf_header import Header, combined_header
from llamarig.render.model_paths import model_files, target
from llamarig.render.server_arguments import ModelFiles


def header_queries(rig: Rig, here: ControlMachine) -> Iterable[Query[Any]]:
    """The model store and the headers, where a model needs its own: the same query for each item."""
    if paths := _shards(rig, here):
        yield query(ModelStore)
        yield query(ModelHeaders, paths=_all(paths))


def read_headers(rig: Rig, seen: Seen) -> dict[str, Header]:
    """Model name -> header of all its shards, of the models that need it and have all files as locked.

    Another file under the name of a locked one says nothing of the declaration: a deploy replaces it.
    """
    paths = _shards(rig, seen.here)
    if not paths:
        return {}
    stored = seen.get(ModelStore).files
    read = seen.get(ModelHeaders, paths=_all(paths))
    return {
        model.name: combined_header(headers)
        for model, lock in zip(rig.models, seen.here.locked or (), strict=False)
        if model.name in paths
        and not missing_files([lock], stored)
        and (headers := read.of(paths[model.name])) is not None
    }


def served_files(rig: Rig, seen: Seen, model: Model, lock: LockedModel) -> ModelFiles:
    """The files of a model for its command line, with the number of its layers where its header was read."""
    header = read_headers(rig, seen).get(model.name)
    positions = layer_counts(header.tensors, header.metadata).positions if header is not None else 0
    return replace(model_files(lock), positions=positions)


def _shards(rig: Rig, here: ControlMachine) -> dict[str, list[str]]:
    """Model name -> paths of its shards, of the models that need their headers."""
    return {
        model.name: [target(lock, shard) for shard in lock.shards]
        for model, lock in zip(rig.models, here.locked or (), strict=False)
        if needs_header(model, rig.build_of(model))
    }


def _all(paths: dict[str, list[str]]) -> list[str]:
    return sorted({shard for shards in paths.values() for shard in shards})
