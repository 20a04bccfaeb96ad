"""The documentation of every field of a model, read from the table of settings.

SETTINGS.md beside this file is the output of `python -m llamarig.declare.settings_table`.
"""

from __future__ import annotations

import ast
import inspect
from itertools import pairwise

from llamarig.declare.base import Declaration
from llamarig.declare.flags import Flag, Row, rows
from llamarig.declare.model import Model

_HEADING = """\
# Fields of a model

Written by `python -m llamarig.declare.settings_table`; edit the fields, not this file. Flags and defaults are those of
the pinned llama.cpp (build.py). "Memory" marks the fields whose change makes a plan of `auto()` stale.

| field | becomes | unit | default | source of the default | memory | meaning |
|---|---|---|---|---|---|---|
"""


def settings_table() -> str:
    """The whole table as Markdown, a line for each field."""
    return _HEADING + "".join(f"| {' | '.join(_cells(row))} |\n" for row in rows(Model))


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


def _cells(row: Row) -> list[str]:
    setting = row.setting
    decides_memory = isinstance(setting, Flag) and setting.decides_memory
    cells = [
        f"`{row.path}`",
        _becomes(row),
        setting.unit,
        _default(row),
        setting.source,
        "yes" if decides_memory else "",
        meanings(row.declaration).get(row.name, ""),
    ]
    return [cell.replace("|", "\\|") for cell in cells]


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


def _default(row: Row) -> str:
    if row.info.is_required():
        return "required"
    if row.setting.default:
        return row.setting.default
    default = row.info.default
    if isinstance(default, bool):
        return "on" if default else "off"
    if default in ((), {}):
        return "none"
    if isinstance(default, tuple):
        return ", ".join(str(part) for part in default)
    kind = getattr(default, "kind", None)
    return f"`{kind.replace('-', '_')}()`" if kind else str(default)


if __name__ == "__main__":
    print(settings_table(), end="")
