"""The text of adopted declarations, and of the notes on them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pydantic import ValidationError

from llamarig.adopt.adopted_model import Adopted
from llamarig.adopt.call import python_text
from llamarig.adopt.launch import Note
from llamarig.adopt.override_rules import MOST_LAYERS, stand_in_tensors
from llamarig.declare.build import Build
from llamarig.declare.model import Model
from llamarig.declare.placement import Override
from llamarig.lints.declaration import cache_lints, environment_lints, input_lints, path_lints, placement_lints
from llamarig.lints.lint import Lint
from llamarig.lints.tensor_placement import override_lints, weight_lints
from llamarig.placement.model_layers import LayerCounts, layer_counts
from llamarig.remote.shared.gguf_header import Header


def declaration_text(adopted: Sequence[Adopted]) -> str:
    """Python that can be pasted into a group's file: the list of its models."""
    models = "".join(f"    {python_text(one.call, 4, whole=True)},\n" for one in adopted)
    return f"from llamarig import declare as d\n\nmodels = [\n{models}]\n"


def notes_text(adopted: Sequence[Adopted], notes: Sequence[Note], headers: Sequence[Header | None]) -> Iterator[str]:
    """Lines about each model, its lints included, and about the input."""
    yield from map(str, notes)
    for one, header in zip(adopted, headers, strict=True):
        yield f"{one.name} ({one.where}):" if one.where else f"{one.name}:"
        lints = (f"lint {lint}" for lint in _lints(one, header))
        of_rules = (f"lint of -ot as it was: {lint}" for lint in _lints_of_rules(one, header))
        for text in dict.fromkeys([*map(str, one.notes), *lints, *of_rules]):
            yield f"  {text}"


def _lints(adopted: Adopted, header: Header | None) -> Iterator[Lint]:
    """Lints of the declaration."""
    model = adopted.model
    if model is None:
        return
    build = _build(model)
    serve = model.serve
    yield from cache_lints(model, build)
    yield from placement_lints(model)
    yield from input_lints(serve)
    yield from environment_lints(serve)
    yield from path_lints(serve, build)
    if header is not None and adopted.layers is not None:
        yield from weight_lints(model, header)


def _lints_of_rules(adopted: Adopted, header: Header | None) -> Iterator[Lint]:
    """Lints of the owner's own rules, also where something else is declared in their place."""
    is_checked = header is not None and adopted.model and isinstance(adopted.model.serve.placement, Override)
    if not adopted.rules or is_checked:
        return
    number = adopted.layers or MOST_LAYERS
    tensors = header.tensors if header is not None else stand_in_tensors(number)
    counts = layer_counts(header.tensors, header.metadata) if header is not None else LayerCounts(number)
    try:
        rules = Override(rules=adopted.rules)
    except ValidationError:
        return  # refused as the declaration is, which a note says
    for lint in override_lints(rules, tensors, counts):
        # Whether a rule matches anything at all is not known without the model's own tensors.
        if header is not None or lint.rule != "override-matches-nothing":
            yield lint


def _build(model: Model) -> Build:
    if model.build == "vulkan":
        return Build(name=model.build, backend="vulkan")
    if model.build == "hip":
        return Build(name=model.build, backend="hip", architectures=("gfx1100",))
    return Build(name=model.build, cuda_toolkit="13.5")
