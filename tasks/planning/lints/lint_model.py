"""All lints of one model, without those its owner has accepted."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from tasks.planning.box import Box
from tasks.planning.coverage import covered, rules_of
from tasks.planning.gguf_header import Header
from tasks.planning.lints.flags import cache_lints, environment_lints, gpu_lints, placement_lints, processor_lints
from tasks.planning.lints.lint import Lint
from tasks.planning.lints.memory import memory_lints
from tasks.planning.lints.weights import weight_lints
from tasks.spec.build import Build
from tasks.spec.model import Model
from tasks.spec.placement import CpuMoe, Layers, Override


def wants_header(model: Model) -> bool:
    """Whether a lint of this model looks at its tensors: reading a header costs a tenth of a second or two."""
    speculation = model.serve.speculation
    guesses_itself = speculation is not None and "draft-mtp" in speculation.types
    return guesses_itself or isinstance(model.serve.placement, Layers | CpuMoe | Override)


def lint_model(model: Model, build: Build, box: Box, model_bytes: int, header: Header | None) -> list[Lint]:
    """What its owner should hear before this model is served.

    :param model_bytes: of all its shards
    :param header: None where it was not read
    """
    return without_accepted(model, _all(model, build, box, model_bytes, header))


def without_accepted(model: Model, lints: Iterable[Lint]) -> list[Lint]:
    """The lints that the model's owner has not accepted."""
    return [lint for lint in lints if lint.rule not in model.serve.accept]


def coverage_report(model: Model, header: Header) -> list[str]:
    """A line for each rule of an owner's own override: which layers, how many MiB, to which device."""
    if not isinstance(model.serve.placement, Override):
        return []
    try:
        return [str(item) for item in covered(rules_of(model.serve.placement), header.tensors)]
    except re.error:  # no regular expression: a lint says so
        return []


def _all(model: Model, build: Build, box: Box, model_bytes: int, header: Header | None) -> Iterator[Lint]:
    yield from cache_lints(model, build)
    yield from placement_lints(model)
    yield from environment_lints(model.serve)
    yield from processor_lints(model.serve, box)
    yield from gpu_lints(model.serve, box)
    lints = list(weight_lints(model, header)) if header else []
    yield from lints
    if not any(lint.rule == "override-not-a-regex" for lint in lints):
        yield from memory_lints(model, box, model_bytes, header)
