"""From a field that carries a flag to that flag with the field's value."""

from __future__ import annotations

from llamarig.declare.base import Declaration
from llamarig.declare.flags import Flag, setting_of
from llamarig.render.build_flags import BuildFlags


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
