"""The flags that a build of llama-server has, and the fields of a declaration as these flags."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from llamarig.declare.base import Declaration
from llamarig.declare.flags import Flag, setting_of


class FlagRefusedError(ValueError):
    """The build has no such flag; the message names the field that needs it."""


@dataclass(frozen=True)
class BuildFlags:
    """The flags that the ``--help`` of a build lists."""

    flags: Collection[str]

    def option(self, field: str, flag: str, *value: str) -> list[str]:
        """The flag with its value, as arguments.

        :param field: the declared field that is rendered
        :raises FlagRefusedError: when the build has no such flag
        """
        if flag not in self.flags:
            raise FlagRefusedError(
                f"{field} needs {flag}, which this build of llama-server does not have: "
                "choose another build, or leave the field out"
            )
        return [flag, *value]

    def option_if_known(self, flag: str, *value: str) -> list[str]:
        """The flag with its value; nothing where the build has no such flag."""
        return [flag, *value] if flag in self.flags else []


def simple_arguments(build: BuildFlags, declaration: Declaration, path: str) -> list[str]:
    """The flags of every field of a declaration that no function of its own renders, in the order of the fields.

    :param path: how the declaration is declared, for refusals: ``sampling.``
    :raises FlagRefusedError: when the build lacks a flag
    """
    arguments: list[str] = []
    for field, info in type(declaration).model_fields.items():
        setting = setting_of(info)
        if isinstance(setting, Flag) and not setting.rendered_by:
            arguments += field_arguments(build, declaration, field, setting, f"{path}{field}")
    return arguments


def field_arguments(build: BuildFlags, declaration: Declaration, field: str, flag: Flag, path: str) -> list[str]:
    """The flag of one field; nothing where llama-server's own default is declared.

    :param path: how the field is declared, for the refusal
    :raises FlagRefusedError: when the build has no such flag
    """
    value = getattr(declaration, field)
    is_default = value == type(declaration).model_fields[field].default
    if value is None or value == () or (is_default and (flag.omit_default or isinstance(value, bool))):
        return []
    if isinstance(value, bool):
        return build.option(path, flag.becomes if value else flag.off)
    name = flag.older if flag.older and flag.becomes not in build.flags else flag.becomes
    return build.option(path, name, _text(value, flag))


def _text(value: object, flag: Flag) -> str:
    if isinstance(value, tuple):
        return ";".join(value)
    return f"{value:.{flag.digits}g}" if isinstance(value, float) else str(value)
