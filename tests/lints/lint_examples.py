"""A model and a box for the tests of lints."""

from __future__ import annotations

from typing import Any

from llamarig.declare.build import Build
from llamarig.declare.model import Model
from llamarig.declare.placement import Placement
from llamarig.declare.serve import Serve
from llamarig.lints.lint import Lint
from llamarig.lints.lint_model import lint_model
from llamarig.placement.box_capacity import BoxCapacity
from llamarig.remote.shared.gguf_header import Header

CUDA = Build(name="b", backend="cuda", architectures=("89-real",), cuda_toolkit="13.0")
BOX = BoxCapacity(ram=64 << 30, cpus=frozenset(range(16)))
GIB = 1 << 30


def model(**serve: Any) -> Model:
    declared = {"port": 1, "context": 4096, **serve}
    return Model(name="m", repo="o/r", quant="Q6_K", build="b", serve=Serve.model_validate(declared))


def lints(declared: Model, *, header: Header | None = None, box: BoxCapacity = BOX, build: Build = CUDA) -> list[Lint]:
    return lint_model(declared, build, box, 60 * GIB, header)


def found(placement: Placement, of: Header, **serve: Any) -> list[tuple[str, str]]:
    """Rule and severity of each lint of a placement for a header."""
    declared = model(placement=placement.model_dump(), **serve)
    return [(lint.rule, lint.severity) for lint in lints(declared, header=of, box=BoxCapacity())]
