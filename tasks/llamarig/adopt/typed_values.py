"""The value of a flag as the typed value of the field that the flag has."""

from __future__ import annotations

import json
from collections.abc import Mapping
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from llamarig.adopt.options import Given
from llamarig.adopt.preset_file import FALSE, TRUE
from llamarig.declare.flags import Flag, Row, rows
from llamarig.declare.serve import Serve

_READ_BY_THEIR_TYPE = ("", "speculation_arguments", "cors_arguments", "chat_arguments")
_SEPARATORS = {"samplers": ";", "types": ",", "cors_origins": ","}
_SAMPLER_NAMES = {"top-k": "top_k", "top-p": "top_p", "min-p": "min_p", "typ-p": "typ_p", "temp": "temperature"}
_SHORT_SAMPLERS = {
    "d": "dry",
    "k": "top_k",
    "y": "typ_p",
    "p": "top_p",
    "s": "top_n_sigma",
    "m": "min_p",
    "t": "temperature",
}
_SHORT_SAMPLERS |= {"x": "xtc", "e": "penalties"}
"""The letters of --sampling-seq (common/sampling.cpp, pinned commit)."""


class NotAValueError(ValueError):
    """A text that the field's type does not have; the message says what it has."""


def _rows() -> dict[str, Row]:
    found: dict[str, Row] = {}
    for row in rows(Serve, "{}"):
        if (
            isinstance(row.setting, Flag)
            and "=" not in row.path
            and row.setting.rendered_by in _READ_BY_THEIR_TYPE
            and row.path != "speculation.types"
        ):
            instead = row.setting.instead
            found |= {spelling: row for spelling in row.setting.spellings if spelling not in instead}
    return found


TYPED_ROWS: Mapping[str, Row] = _rows()
"""Spelling of a flag -> its field, where the flag's value is the field's."""


def is_negation(flag: str, row: Row) -> bool:
    """Whether this spelling of a switch means no."""
    return isinstance(row.setting, Flag) and (flag == row.setting.off or flag.startswith(("--no-", "-no-", "-nk")))


def typed_value(given: Given, row: Row) -> Any:
    """The field's value.

    :raises NotAValueError: where the text is none of the field's type
    """
    if row.is_switch:
        return not is_negation(given.flag, row)
    kind = _kind(row.info.annotation)
    if given.value is None:
        if row.name == "flash_attention":
            return "on"  # until autumn 2025 a switch
        raise NotAValueError("it has no value here")
    return _read(given.value, kind, row.name)


def samplers_of_letters(text: str) -> tuple[str, ...]:
    """The samplers that the letters of --sampling-seq are."""
    return tuple(_SHORT_SAMPLERS[letter] for letter in text if letter in _SHORT_SAMPLERS)


def _kind(annotation: Any) -> Any:
    """The type of a field without None."""
    if get_origin(annotation) is Annotated:
        return _kind(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        (kind,) = (part for part in get_args(annotation) if part is not type(None))
        return _kind(kind)
    return annotation


def _read(text: str, kind: Any, field: str) -> Any:
    if get_origin(kind) is Literal:
        return _choice(text, get_args(kind), field)
    if get_origin(kind) is tuple:
        parts = [part.strip() for part in text.split(_SEPARATORS.get(field, ",")) if part.strip()]
        return tuple(_SAMPLER_NAMES.get(part, part) for part in parts)
    if get_origin(kind) is dict:
        try:
            found = json.loads(text)
        except ValueError:
            raise NotAValueError("it is not JSON") from None
        if not isinstance(found, dict):
            raise NotAValueError("it is not an object of JSON")
        return found
    if kind in (int, float):
        try:
            return kind(float(text)) if kind is float else int(text)
        except ValueError:
            raise NotAValueError("it is not a number") from None
    return text


def _choice(text: str, choices: tuple[str, ...], field: str) -> str:
    if text in choices:
        return text
    if field in ("flash_attention", "reasoning"):
        lowered = text.lower()
        if lowered in TRUE or lowered in FALSE:
            return "on" if lowered in TRUE else "off"
        if lowered in ("-1", "auto"):
            return "auto"
    if text.lower() in choices:
        return text.lower()
    raise NotAValueError(f"a declaration has {', '.join(choices)}")
