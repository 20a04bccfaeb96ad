"""What a field of a declaration becomes: a flag of llama-server or something else, with its unit and its source.

Each field carries its setting as metadata (``Annotated[int, Flag("--ctx-size", ...)]``). Rendering, the flags an owner
may not pass as `extra`, the flags of a memory dry run and the documentation are all read from there.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import KW_ONLY, dataclass, field
from types import UnionType
from typing import Any, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from llamarig.declare.base import Declaration

LLAMA_CPP = "llama.cpp: common/common.h"
"""Source of a default that llama.cpp has of its own, at the pinned commit (declare/build.py)."""
LLAMA_CPP_OR_GGUF = "the GGUF's metadata, else llama.cpp: common/common.h"
"""Source of a default that a model file may carry (common/common.cpp:1152-1166)."""
GGUF = "the GGUF's metadata"
OWNER = "the owner's choice"


@dataclass(frozen=True)
class Setting:
    """What a field sets. Used itself for fields that are not a flag of llama-server.

    :param names: what the value ends up as: a directive of the unit, a part of a flag
    :param unit: of the value; "-" where it has none
    :param source: where the default comes from
    :param default: what holds where the field has its default of None or nothing
    :param instead: flags that do the same in another way -> what to declare in their place
    """

    names: str
    unit: str = "-"
    _: KW_ONLY
    source: str = OWNER
    default: str = ""
    instead: Mapping[str, str] = field(default_factory=dict)

    @property
    def becomes(self) -> str:
        """What the value ends up as."""
        return self.names

    @property
    def spellings(self) -> tuple[str, ...]:
        """Every flag that this field takes the place of."""
        return tuple(self.instead)


@dataclass(frozen=True)
class Flag(Setting):
    """A field that is rendered as a flag of llama-server.

    :param names: the spelling that is rendered (for a bool, the one that means True), then those that are not: short
        ones, and negations
    :param off: the spelling that means False
    :param also: further flags that the field is rendered to
    :param older: the spelling for builds that do not have ``becomes``
    :param env: an environment variable that llama-server reads in place of the flag and that is not named like it
    :param decides_memory: whether a memory dry run needs the flag, and a change of it makes a plan stale
    :param omit_default: whether the default is not rendered; of a bool it never is
    :param digits: significant digits of a float
    :param rendered_by: the function in render/ that renders it; empty where the rules above are all
    """

    _: KW_ONLY
    source: str = LLAMA_CPP
    off: str = ""
    also: tuple[str, ...] = ()
    older: str = ""
    env: str = ""
    decides_memory: bool = False
    omit_default: bool = False
    digits: int = 6
    rendered_by: str = ""

    @property
    def becomes(self) -> str:
        """The spelling that is rendered."""
        return self.names.split()[0]

    @property
    def spellings(self) -> tuple[str, ...]:
        """Every spelling of the flag, and the flags that the field takes the place of."""
        return (*filter(None, (*self.names.split(), self.off, self.older, *self.also)), *self.instead)


@dataclass(frozen=True)
class Row:
    """One field of the table. ``path`` is how it is declared: ``serve.sampling.top_k``."""

    path: str
    declaration: type[Declaration]
    name: str
    setting: Setting

    @property
    def info(self) -> FieldInfo:
        """The field, as pydantic describes it."""
        return self.declaration.model_fields[self.name]

    @property
    def is_switch(self) -> bool:
        """Whether the flag takes no value."""
        return bool in (self.info.annotation, *get_args(self.info.annotation))


def setting_of(info: FieldInfo) -> Setting | None:
    """The setting a field carries; None where it has none."""
    return next((item for item in info.metadata if isinstance(item, Setting)), None)


def rows(declaration: type[Declaration], path: str = "{}") -> Iterator[Row]:
    """The fields that carry a setting, those of nested declarations included, in the order of their declaration.

    :param path: how a field is declared, with {} for its name: ``serve.{}``
    """
    for name, info in declaration.model_fields.items():
        here = path.format(name)
        if (setting := setting_of(info)) is not None:
            yield Row(here, declaration, name, setting)
        for nested in nested_declarations(info.annotation):
            kind = nested.model_fields.get("kind")
            # One of several declarations is named by its constructor: placement = cpu_moe(layers=...)
            constructor = "" if kind is None else str(kind.default).replace("-", "_")
            yield from rows(nested, f"{here} = {constructor}({{}}=...)" if constructor else f"{here}.{{}}")


def nested_declarations(annotation: Any) -> tuple[type[Declaration], ...]:
    """The declarations that a field can hold."""
    if isinstance(annotation, type) and issubclass(annotation, Declaration):
        return (annotation,)
    if get_origin(annotation) in (Union, UnionType):
        return tuple(found for part in get_args(annotation) for found in nested_declarations(part))
    return ()


def owned_flags(table: Iterable[Row]) -> dict[str, str]:
    """Flag -> what to declare in its place, for every spelling of every flag that has a field.

    Given as `extra` beside the field, such a flag would win or lose without a message.
    """
    found: dict[str, list[str]] = {}
    for row in table:
        for spelling in row.setting.spellings:
            remedies = found.setdefault(spelling, [])
            remedy = row.setting.instead.get(spelling, row.path)
            if remedy not in remedies:
                remedies.append(remedy)
    return {spelling: " or ".join(remedies) for spelling, remedies in found.items()}


def owned_environment(table: Iterable[Row]) -> dict[str, str]:
    """Environment variable that llama-server may read in place of a flag -> what to declare in its place.

    Most are named like one of the flag's spellings: LLAMA_ARG_CTX_SIZE is --ctx-size.
    """
    found: dict[str, str] = {}
    for row in table:
        if isinstance(row.setting, Flag):
            words = (spelling.lstrip("-").replace("-", "_").upper() for spelling in row.setting.spellings)
            found |= dict.fromkeys(filter(None, (row.setting.env, *(f"LLAMA_ARG_{word}" for word in words))), row.path)
    return found


def memory_flags(table: Iterable[Row]) -> dict[str, int]:
    """Rendered flag -> how many values it takes, for the flags that decide memory."""
    found: dict[str, int] = {}
    for row in table:
        if isinstance(row.setting, Flag) and row.setting.decides_memory:
            rendered = (row.setting.becomes, row.setting.off, *row.setting.also)
            found |= {flag: 0 if row.is_switch else 1 for flag in rendered if flag}
    return found
