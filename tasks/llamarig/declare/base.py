"""The base class of every declaration, and the message for an invalid one."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from llamarig.declare.secrets import shown

NAME = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?")

Name = Annotated[str, Field(pattern=rf"^{NAME.pattern}$", max_length=60)]
"""Becomes part of a systemd unit's name."""
Fraction = Annotated[float, Field(ge=0, le=1)]


class Declaration(BaseModel):
    """Frozen; refuses unknown fields, so that a misspelt one is not silently its default."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, use_enum_values=True)

    def to_json(self) -> dict[str, Any]:
        """Return plain data; `pyinfra debug-inventory` calls a method of this name."""
        return self.model_dump(mode="json")


# Remedies for the mistakes that pydantic finds; the messages of our own validators contain theirs.
_REMEDIES = {
    "extra_forbidden": "no such field; see the fields of this declaration in tasks/llamarig/declare/",
    "missing": "add this field",
}


@dataclass(frozen=True)
class Mistake:
    """One mistake that pydantic found. ``field`` is a dotted path, empty for several fields together."""

    field: str
    message: str
    value: object
    kind: str


def mistakes(error: ValidationError) -> list[Mistake]:
    """The mistakes of a failed validation, without the words that pydantic adds to messages."""
    return [
        Mistake(
            field=".".join(str(part) for part in mistake["loc"]),
            message=mistake["msg"].removeprefix("Value error, "),
            value=mistake["input"],
            kind=mistake["type"],
        )
        for mistake in error.errors(include_url=False)
    ]


def explain(error: ValidationError, declared: str, where: str) -> str:
    """Return one line per mistake: place, field, value, remedy. Secrets are left out.

    :param declared: what is declared, for example ``model 'qwen3-coder'``
    :param where: ``file:line`` of the declaration
    """
    lines = []
    for mistake in mistakes(error):
        remedy = _REMEDIES.get(mistake.kind, "")
        value = "" if mistake.kind == "missing" else f" = {_shown(mistake.field, mistake.value)}"
        # A mistake of several fields together has no field here; its message names them and their values.
        at = f"{mistake.field}{value}: " if mistake.field else ""
        lines.append(f"{where}: {declared}: {at}{mistake.message}" + (f" ({remedy})" if remedy else ""))
    return "\n".join(lines)


def _shown(field: str, value: object) -> str:
    if isinstance(value, BaseModel):
        return f"{type(value).__name__}(...)"
    return shown(field, value)
