"""The base class of every declaration."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Any, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, model_validator

from llamarig.declare.secrets import secret_in


@dataclass(frozen=True)
class Form:
    """What a text with a pattern looks like, for messages: ``lower-case letters and digits``, and an example."""

    text: str
    example: str


NAME = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?")

Name = Annotated[
    str,
    Field(pattern=rf"^{NAME.pattern}$", max_length=60),
    Form("lower-case letters, digits and dashes, no dash at either end", "qwen3-coder"),
]
"""Becomes part of a systemd unit's name."""
Fraction = Annotated[float, Field(ge=0, le=1)]


class Declaration(BaseModel):
    """Frozen; refuses unknown fields, so that a misspelt one is not silently its default."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, use_enum_values=True)

    @model_validator(mode="after")
    def _no_field_holds_a_secret(self) -> Self:
        for name in type(self).model_fields:
            if secret := secret_in(getattr(self, name)):
                raise ValueError(
                    f"{name} holds {secret}, and a declaration is kept in git and shown in messages: take it out, and"
                    " revoke it; hub(token_env=...) names the variable that holds a Hub token, and api_key_file names"
                    " the file with a model's key"
                )
        return self

    def to_json(self) -> dict[str, Any]:
        """Return plain data; `pyinfra debug-inventory` calls a method of this name."""
        return self.model_dump(mode="json")


def declarations_in(annotation: Any) -> list[type[Declaration]]:
    """The declarations that a type can hold, in order: of a tuple or of alternatives, those of its parts."""
    if isinstance(annotation, type) and issubclass(annotation, Declaration):
        return [annotation]
    return [found for part in get_args(annotation) for found in declarations_in(part)]


def declarations(root: type[Declaration]) -> list[type[Declaration]]:
    """A declaration and those nested in its fields, each once; nested ones follow the declaration that holds them."""
    found = [root]
    for info in root.model_fields.values():
        for nested in declarations_in(info.annotation):
            found += [each for each in declarations(nested) if each not in found]
    return found


def constructor(declaration: type[Declaration]) -> str:
    """The name of the function of ``llamarig.declare`` that makes it: ``host_policy`` of HostPolicy."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", declaration.__name__).lower()
