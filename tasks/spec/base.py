"""The strict pydantic base of every declaration, and the words used when one is refused."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

NAME = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?")

Name = Annotated[
    str,
    Field(
        pattern=rf"^{NAME.pattern}$",
        max_length=60,
        description="lower-case letters, digits and dashes: it becomes part of a systemd unit's name",
    ),
]


class Declaration(BaseModel):
    """Frozen, and refusing unknown fields: a misspelt field must never be a silent default."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, use_enum_values=True)

    def to_json(self) -> dict[str, Any]:
        """Plain data, under the name `pyinfra debug-inventory` looks for."""
        return self.model_dump(mode="json")


# What to do about the mistakes pydantic itself finds; our own validators carry their remedy in their message.
_REMEDIES = {
    "extra_forbidden": "no such field; see the fields of this declaration in tasks/spec/",
    "missing": "add this field",
}


def explain(error: ValidationError, declared: str, where: str) -> str:
    """One line per mistake: where it stands, which field, which value, what to do.

    :param declared: the declaration as its owner wrote it, for example ``model 'qwen3-coder'``
    :param where: ``file:line`` of the declaration
    """
    lines = []
    for mistake in error.errors(include_url=False):
        field = ".".join(str(part) for part in mistake["loc"])
        message = mistake["msg"].removeprefix("Value error, ")
        remedy = _REMEDIES.get(mistake["type"], "")
        value = "" if mistake["type"] == "missing" else f" = {_shown(field, mistake['input'])}"
        # What several fields must be together is refused in a message that names them and their values itself.
        at = f"{field}{value}: " if field else ""
        lines.append(f"{where}: {declared}: {at}{message}" + (f" ({remedy})" if remedy else ""))
    return "\n".join(lines)


# Secrets declared where none belongs must not travel on into a terminal's log.
_SECRET_FIELD = re.compile(r"(?i)(token|secret|password|key)$")
_SECRET_TEXT = re.compile(r"(--api-key(?:=|'?, '))[^'\"]+|\b(hf_|sk-)[\w-]+|(://)[^/'\"]+(?=@)")


def _shown(field: str, value: object) -> str:
    if isinstance(value, BaseModel):
        return f"{type(value).__name__}(...)"
    if _SECRET_FIELD.search(field):
        return "(not shown)"
    text = _SECRET_TEXT.sub(lambda found: f"{found[1] or found[2] or found[3]}...", repr(value))
    return text if len(text) <= 80 else text[:77] + "..."
