"""The message for an invalid declaration: each mistake with its place, its value, and what to write in its place."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from llamarig.declare.base import Declaration, Form, constructor, declarations, declarations_in
from llamarig.declare.flags import owned_flags, rows
from llamarig.declare.model import Model
from llamarig.declare.rig import Rig
from llamarig.declare.secrets import shown

_BOUNDS = {"ge": "at least", "gt": "more than", "le": "at most", "lt": "less than"}


@dataclass(frozen=True)
class Mistake:
    """One mistake that pydantic found. ``field`` is a path as in Python, empty for several fields together."""

    field: str
    message: str
    value: object
    kind: str
    place: tuple[str | int, ...]
    context: Mapping[str, Any]
    """What pydantic knows of the limit that the value breaks."""


def mistakes(error: ValidationError) -> list[Mistake]:
    """The mistakes of a failed validation, without the words that pydantic adds to messages."""
    found = [
        Mistake(
            field=_path(mistake["loc"]),
            message=mistake["msg"].removeprefix("Value error, "),
            value=mistake["input"],
            kind=mistake["type"],
            place=tuple(mistake["loc"]),
            context=mistake.get("ctx", {}),
        )
        for mistake in error.errors(include_url=False)
    ]
    # Pydantic counts the valid entries of a tuple alone, and calls it too short beside each invalid one.
    return [one for one in found if one.kind != "too_short" or not any(_is_inside(other, one) for other in found)]


def _path(place: Sequence[str | int]) -> str:
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place).removeprefix(".")


def _is_inside(one: Mistake, other: Mistake) -> bool:
    return len(one.place) > len(other.place) and one.place[: len(other.place)] == other.place


def explain(error: ValidationError, cls: type[Declaration], declared: str, where: str) -> str:
    """Return one line per mistake: place, field, value, and what to write. Secrets are left out.

    :param cls: the declaration that was validated
    :param declared: what is declared, for example ``model 'qwen3-coder'``
    :param where: ``file:line`` of the declaration
    """
    lines = []
    for mistake in mistakes(error):
        value = "" if mistake.kind == "missing" else f" = {_shown(mistake)}"
        # A mistake of several fields together has no field here; its message names them and their values.
        at = f"{mistake.field}{value}: " if mistake.field else ""
        lines.append(f"{where}: {declared}: {at}{_in_words(mistake, cls)}")
    return "\n".join(lines)


def _shown(mistake: Mistake) -> str:
    if isinstance(mistake.value, BaseModel):
        return f"{type(mistake.value).__name__}(...)"
    return shown(mistake.field, mistake.value)


# --- words for pydantic's mistakes ------------------------------------------------------------------------------------


def _in_words(mistake: Mistake, cls: type[Declaration]) -> str:
    """What is wrong and what to write. The messages of our own validators are that already."""
    owner, info = _declared_at(cls, mistake.place)
    name = str(mistake.place[-1]) if mistake.place else ""
    kind, context = mistake.kind, mistake.context
    if kind == "extra_forbidden":
        return f"no such field{_suggestion(owner or cls, name)}"
    if kind == "missing":
        return f"is missing: add {name}={_example(info)}"
    if kind == "string_pattern_mismatch" and (form := _form(info)) is not None:
        return f'write {form.text}, for example {name}="{form.example}"'
    if kind == "literal_error":
        choices = [str(one) for annotation in _parts(info) for one in get_args(annotation) if isinstance(one, str)]
        return f"write one of {', '.join(map(_quoted, choices))}{near(str(mistake.value), choices)}"
    if kind.startswith(("model_", "union_tag")) and (held := _constructors(info)):
        return f"write {_one_of(_called(mistake.value, held))}"
    if kind.startswith(("int_", "float_", "finite")):
        return f"write a {'whole ' * kind.startswith('int_')}number{_bounds(info)}, for example {name}={_example(info)}"
    if kind.startswith("bool_"):
        return "write True or False"
    if kind == "string_type":
        return f"write a text, in quotes: {name}={_as_text(mistake)}"
    if kind == "tuple_type":
        return f"write them in round brackets, a comma after each: {name}=({_as_text(mistake)},)"
    if kind == "dict_type":
        return f'write pairs in curly brackets: {name}={{"NAME": "VALUE"}}'
    if kind.startswith(("greater_than", "less_than")):
        return f"write a number{_bounds(info)}"
    if kind in ("too_short", "string_too_short", "string_too_long"):
        limit = context.get("min_length", context.get("max_length"))
        what = "character" if kind.startswith("string") else "entry"
        return (
            f"has to have {'at most' if 'max_length' in context else 'at least'} {limit} {what}{_plural(what, limit)}"
        )
    return mistake.message


def _plural(what: str, number: object) -> str:
    return "" if number == 1 or what == "entry" else "s"


def _one_of(texts: Sequence[str]) -> str:
    return texts[0] if len(texts) == 1 else f"one of {', '.join(texts)}"


def _quoted(text: str) -> str:
    return f'"{text}"'


def _as_text(mistake: Mistake) -> str:
    """The value as a text in quotes, unless it is a secret."""
    if isinstance(mistake.value, (str, int, float)) and _shown(mistake) == repr(mistake.value):
        return _quoted(str(mistake.value))
    return '"..."'


def _example(info: FieldInfo | None) -> str:
    """A value that the field takes."""
    form = _form(info)
    if form is not None:
        return _quoted(form.example)
    if held := _constructors(info):
        return held[0]
    kinds = _parts(info)
    if int in kinds or float in kinds:
        return f"{_number(info):g}"
    return '"..."'


def _number(info: FieldInfo | None) -> float:
    bounds = _limits(info)
    least = bounds.get("ge", bounds.get("gt", 0) + 1)
    candidates = [*(info.examples or ()), info.default] if info is not None else []
    return next((float(one) for one in candidates if isinstance(one, (int, float))), least)


def _bounds(info: FieldInfo | None) -> str:
    bounds = _limits(info)
    if {"ge", "le"} <= bounds.keys():
        return f" from {bounds['ge']:g} to {bounds['le']:g}"
    return "".join(f", {words} {bounds[name]:g}" for name, words in _BOUNDS.items() if name in bounds)


def _limits(info: FieldInfo | None) -> dict[str, float]:
    found: dict[str, float] = {}
    for item in _metadata(info):
        found |= {name: float(limit) for name in _BOUNDS if (limit := getattr(item, name, None)) is not None}
    return found


# --- where a mistake is ----------------------------------------------------------------------------------------------


def _declared_at(
    cls: type[Declaration], place: Sequence[str | int]
) -> tuple[type[Declaration] | None, FieldInfo | None]:
    """The declaration that a mistake is in, and the field if it is a declared one."""
    here: tuple[type[Declaration], ...] = (cls,)
    owner: type[Declaration] | None = cls
    info: FieldInfo | None = None
    for part in place:
        if isinstance(part, int):
            continue
        tagged = [one for one in here if (kind := one.model_fields.get("kind")) is not None and kind.default == part]
        if tagged:
            here, owner = tuple(tagged), tagged[0]
            continue
        owner = next((one for one in here if part in one.model_fields), here[0] if here else None)
        info = None if owner is None else owner.model_fields.get(str(part))
        here = () if info is None else tuple(declarations_in(info.annotation))
    return owner, info


def _metadata(info: FieldInfo | None) -> list[Any]:
    """What is attached to a field's type, also to the parts of ``X | None`` and of ``tuple[X, ...]``."""
    if info is None:
        return []
    items = [*info.metadata, *(item for part in _parts(info) for item in getattr(part, "__metadata__", ()))]
    return [inner for item in items for inner in (item.metadata if isinstance(item, FieldInfo) else [item])]


def _parts(info: FieldInfo | None) -> list[Any]:
    found, left = [], [info.annotation] if info is not None else []
    while left:
        part = left.pop(0)
        found.append(part)
        left += [one for one in get_args(part) if not isinstance(one, (str, FieldInfo))]
    return found


def _form(info: FieldInfo | None) -> Form | None:
    return next((item for item in _metadata(info) if isinstance(item, Form)), None)


def _constructors(info: FieldInfo | None) -> list[str]:
    """How the declarations that a field can hold are written, in order."""
    return [f"d.{constructor(one)}(...)" for one in declarations_in(info.annotation)] if info is not None else []


def _called(value: object, held: Sequence[str]) -> Sequence[str]:
    """The declaration that a text names, ``auto`` or ``cpu-only``; all where it names none."""
    named = f"d.{str(value).replace('-', '_')}(...)"
    return [named] if named in held else held


# --- suggestions ------------------------------------------------------------------------------------------------------


def near(name: str, names: Iterable[str]) -> str:
    """`` (did you mean temperature?)``; empty where nothing is near."""
    found = difflib.get_close_matches(name, list(names), n=1)
    return f" (did you mean {found[0]}?)" if found else ""


def _suggestion(cls: type[Declaration], name: str) -> str:
    """What an unknown field may be meant to be: a flag by its name, a misspelt field, or one of another declaration."""
    flag = name.replace("_", "-")
    for table in (rows(cls), rows(Model)):
        owned = owned_flags(table)
        if (remedy := owned.get(f"--{flag}") or owned.get(f"-{flag}")) is not None:
            return f" (did you mean {remedy}?)"
    own = [field for field in cls.model_fields if field != "kind"]
    if misspelt := near(name, own):
        return misspelt
    others = [one for one in declarations(Rig) if one is not cls]
    for one in others:
        if name in one.model_fields and name != "kind":
            return f": it belongs to d.{constructor(one)}({name}=...)"
    for one in others:
        if found := difflib.get_close_matches(name, one.model_fields, n=1, cutoff=0.8):
            return f" (did you mean {found[0]} of d.{constructor(one)}(...)?)"
    if re.fullmatch(r"\w+", name) and len(own) <= 12:
        return f": it has {', '.join(own)}"
    return ": group_data/README.md has all fields"
