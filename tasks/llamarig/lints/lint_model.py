"""Runs all lints of one model, without those that its owner has accepted."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from llamarig.declare.build import Build
from llamarig.declare.model import Model
from llamarig.declare.placement import AllOnGpu, CpuMoe, CpuOnly, Layers, Override
from llamarig.declare.serve.context import YARN_ONLY
from llamarig.lints.declaration import (
    cache_lints,
    environment_lints,
    gpu_lints,
    input_lints,
    path_lints,
    placement_lints,
    processor_lints,
    yarn_lints,
)
from llamarig.lints.lint import Lint
from llamarig.lints.memory import memory_lints
from llamarig.lints.prompt_cache import declares_prompt_cache, prompt_cache_lints
from llamarig.lints.tensor_placement import weight_lints
from llamarig.placement.box_capacity import BoxCapacity
from llamarig.placement.tensor_overrides import rule_coverage
from llamarig.remote.shared.gguf_header import Header


def needs_header(model: Model, build: Build) -> bool:
    """Whether a lint or the number of layers on GPUs needs the model's header.

    It takes a tenth of a second or two to read.
    """
    speculation = model.serve.speculation
    uses_yarn = any(getattr(model.serve, field) is not None for field in YARN_ONLY)
    uses_mtp = speculation is not None and "draft-mtp" in speculation.types
    # A model without a GPU is small, and is not worth that time in every run.
    has_cache = declares_prompt_cache(model) and not isinstance(model.serve.placement, CpuOnly)
    counts_layers = isinstance(model.serve.placement, AllOnGpu) and build.backend != "cpu"
    is_placed = isinstance(model.serve.placement, Layers | CpuMoe | Override)
    return uses_yarn or uses_mtp or has_cache or counts_layers or is_placed


def lint_model(
    model: Model, build: Build, box: BoxCapacity, model_bytes: int | None, header: Header | None
) -> list[Lint]:
    """Lints of a model, without the accepted ones.

    :param model_bytes: size of all shards; None if it is not known yet
    :param header: None if it was not read
    """
    return without_accepted(model, _all(model, build, box, model_bytes, header))


def without_accepted(model: Model, lints: Iterable[Lint]) -> list[Lint]:
    """The lints that the model's owner has not accepted."""
    return [lint for lint in lints if lint.rule not in model.serve.accept]


def coverage_report(model: Model, header: Header) -> list[str]:
    """A line for each rule of a declared override: layers, MiB and device."""
    if not isinstance(model.serve.placement, Override):
        return []
    try:
        return [str(item) for item in rule_coverage(model.serve.placement.rules, header.tensors)]
    except re.error:  # not a regular expression, which a lint reports
        return []


def _all(
    model: Model, build: Build, box: BoxCapacity, model_bytes: int | None, header: Header | None
) -> Iterator[Lint]:
    yield from cache_lints(model, build)
    yield from placement_lints(model)
    yield from input_lints(model.serve)
    yield from yarn_lints(model.serve, header)
    yield from environment_lints(model.serve)
    yield from path_lints(model.serve, build)
    yield from processor_lints(model.serve, box)
    yield from gpu_lints(model.serve, box)
    lints = list(weight_lints(model, header)) if header else []
    yield from lints
    yield from prompt_cache_lints(model, header) if header else ()
    if model_bytes is not None and not any(lint.rule == "override-not-a-regex" for lint in lints):
        yield from memory_lints(model, box, model_bytes, header)
