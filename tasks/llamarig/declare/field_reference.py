"""The reference of every field that an owner may declare, as Markdown, read from the declarations themselves.

It is the generated part of group_data/README.md; `python -m tests.field_reference` writes it there.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterable, Sequence
from itertools import pairwise
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import annotated_types
from pydantic.fields import FieldInfo

from llamarig.declare.base import Declaration, constructor, declarations
from llamarig.declare.flags import Flag, Row, Setting, setting_of
from llamarig.declare.lint_rules import LINT_RULES
from llamarig.declare.rig import Rig
from llamarig.declare.risky_flags import RISKY_FLAGS
from llamarig.declare.serve import Serve

_UNITS = {"_mib": "MiB", "_gib": "GiB", "_mts": "MT/s", "_mb_s": "MB/s", "_s": "s", "_w": "W"}
"""End of a field's name -> its unit, for fields without a setting; the first that fits."""

_ESCAPED = "\\|"
"""A vertical bar within a cell."""

_PLAIN = ("field", "type", "default", "unit", "what it does")
_WITH_SETTING = ("field", "type", "default", "unit", "becomes", "memory", "what it does", "source of the default")


def field_reference() -> str:
    """A section for each declaration, with a table of its fields, and the lints and flags that can be accepted."""
    sections = [_section(declaration) for declaration in declarations(Rig)]
    lints = _table(("name", "accepts"), ([f"`{name}`", meaning] for name, meaning in LINT_RULES.items()))
    risky = _table(
        ("name", "also written", "what it does"),
        ([f"`{flag.name}`", " ".join(f"`{alias}`" for alias in flag.aliases), flag.risk] for flag in RISKY_FLAGS),
    )
    return "\n".join(
        [
            *sections,
            f"### Names of lints\n\nFor `accept` of `serve(...)`.\n\n{lints}",
            "### Risky flags\n\nRefused in `extra` of `serve(...)` until `accept` has their name and your reason.\n\n"
            f"{risky}",
        ]
    )


def meanings(declaration: type[Declaration]) -> dict[str, str]:
    """Field -> the docstring below it, of a declaration and its bases."""
    found = {}
    for cls in reversed(declaration.__mro__[: -len(Declaration.__mro__)]):
        (definition,) = ast.parse(inspect.getsource(cls)).body
        assert isinstance(definition, ast.ClassDef)
        for field, following in pairwise(definition.body):
            if isinstance(field, ast.AnnAssign) and isinstance(following, ast.Expr):
                found[ast.unparse(field.target)] = " ".join(ast.literal_eval(following.value).split())
    return found


def _section(declaration: type[Declaration]) -> str:
    text = f"### {constructor(declaration)}\n\n{_docstring(declaration)}\n"
    # A model is served by many fields: a table for each of the classes that they are written in.
    if declaration is Serve:
        parts = [
            f"#### serve: {part.__name__.lower()}\n\n{_docstring(part)}\n\n{_fields(part)}"
            for part in reversed(Serve.__bases__)
            if issubclass(part, Declaration)
        ]
        return "\n".join([text, *parts])
    fields = _fields(declaration)
    return f"{text}\n{fields}" if fields else text


def _docstring(declaration: type[Declaration]) -> str:
    return (inspect.getdoc(declaration) or "").replace("``", "`")


def _fields(declaration: type[Declaration]) -> str:
    fields = {name: info for name, info in declaration.model_fields.items() if name != "kind"}
    if not fields:
        return ""
    meaning_of = meanings(declaration)
    with_setting = any(setting_of(info) is not None for info in fields.values())
    columns = _WITH_SETTING if with_setting else _PLAIN
    rows = [_cells(declaration, name, meaning_of.get(name, "")) for name in fields]
    return _table(columns, ([cells[column] for column in columns] for cells in rows))


def _table(columns: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    rows = (columns, ["---"] * len(columns), *lines)
    return "".join(f"| {' | '.join(cell.replace('|', _ESCAPED) for cell in row)} |\n" for row in rows)


def _cells(declaration: type[Declaration], name: str, meaning: str) -> dict[str, str]:
    """Column -> the text of a field's cell."""
    info = declaration.model_fields[name]
    setting = setting_of(info)
    return {
        "field": f"`{name}`",
        "type": _type(info),
        "default": _default(info, setting),
        "unit": setting.unit if setting else _unit(name),
        "what it does": meaning.replace("``", "`"),
        "becomes": _becomes(Row(name, declaration, name, setting)) if setting else "-",
        "memory": "yes" if isinstance(setting, Flag) and setting.decides_memory else "",
        "source of the default": setting.source if setting else "-",
    }


def _unit(name: str) -> str:
    return next((unit for end, unit in _UNITS.items() if name.endswith(end)), "-")


def _becomes(row: Row) -> str:
    setting = row.setting
    if not isinstance(setting, Flag):
        return setting.becomes
    if row.is_switch and not setting.rendered_by:
        # Of a bool with a default, only the other value is rendered.
        spellings = {True: setting.becomes, False: setting.off}
        rendered = [spelling for value, spelling in spellings.items() if spelling and value != row.info.default]
    else:
        rendered = [setting.becomes, *setting.also]
    return ", ".join(f"`{spelling}`" for spelling in rendered)


def _default(info: FieldInfo, setting: Setting | None) -> str:
    if info.is_required():
        return "required"
    if setting is not None and setting.default:
        return setting.default
    default = info.default
    if isinstance(default, Declaration):
        return f"`{constructor(type(default))}()`"
    return "none" if default in (None, (), {}) else f"`{_written(default)}`"


def _written(value: object) -> str:
    """A value as a group file has it."""
    return f'"{value}"' if isinstance(value, str) else repr(value)


# --- types ------------------------------------------------------------------------------------------------------------


def _type(info: FieldInfo) -> str:
    return _named(info.annotation) + _limits(info.metadata)


def _named(annotation: Any) -> str:
    """``int | None`` is named int: a field that may be None has that as its default, and is left out."""
    origin, parts = get_origin(annotation), get_args(annotation)
    if isinstance(annotation, type) and issubclass(annotation, Declaration):
        return f"[{constructor(annotation)}](#{constructor(annotation)})"
    if origin is Annotated:
        return _named(parts[0]) + _limits(annotation.__metadata__)
    if origin in (Union, UnionType):
        return " or ".join(_named(part) for part in parts if part is not NoneType)
    if origin is Literal:
        return ", ".join(f"`{_written(part)}`" for part in parts)
    if origin is tuple:
        return f"tuple of {_named(parts[0])}"
    if origin is dict:
        return f"dict of {_named(parts[0])} to {_named(parts[1])}"
    return "any" if annotation is Any else f"`{annotation.__name__}`"


def _limits(metadata: Any) -> str:
    flat = [limit for item in metadata for limit in (item.metadata if isinstance(item, FieldInfo) else [item])]
    least = next((limit.ge for limit in flat if isinstance(limit, annotated_types.Ge)), None)
    most = next((limit.le for limit in flat if isinstance(limit, annotated_types.Le)), None)
    above = next((limit.gt for limit in flat if isinstance(limit, annotated_types.Gt)), None)
    below = next((limit.lt for limit in flat if isinstance(limit, annotated_types.Lt)), None)
    texts = [
        f"{least} to {most}" if least is not None and most is not None else "",
        f"at least {least}" if least is not None and most is None else "",
        f"at most {most}" if most is not None and least is None else "",
        f"above {above}" if above is not None else "",
        f"below {below}" if below is not None else "",
    ]
    return "".join(f", {text}" for text in texts if text)
