"""The declared models as a preset file, from which one llama-server in router mode starts each on request.

The format is the pinned commit's (common/preset.cpp, docs/preset.md): a section a model, keys as flags without dashes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from tasks.spec.model import Model

# The router says these to its children itself (server-models.cpp, unset_reserved_args and update_args).
_ROUTERS_OWN = {"--host", "--port", "--alias", "--api-key-file"}
_FLAG = re.compile(r"--?[a-zA-Z]")


class PresetError(ValueError):
    """A declaration that a preset cannot say; the message names the model and what to do."""


def preset_text(models: Iterable[tuple[Model, Sequence[str]]], default: str) -> str:
    """The whole file.

    :param models: each with the arguments of its llama-server, without the program
    :param default: the model that the router loads as it starts
    :raises PresetError: for an argument that would be read as something else, or not at all
    """
    lines = [
        "; Written by llamarig; a later deploy puts edits back. One llama-server for all, on the build they share:",
        ";   llama-server --models-preset THIS_FILE --models-max 1 --host ADDRESS --port PORT",
        "; Environment variables of a model's unit, its CPU affinity and its limits are the router's own business.",
        "version = 1",
    ]
    for model, arguments in models:
        lines += ["", f"[{model.name}]"]
        if model.serve.alias not in (None, model.name):
            lines.append(f"alias = {_plain(model, '--alias', model.serve.alias or '')}")
        seen: set[str] = set()
        for flag, value in _options(arguments):
            if flag in _ROUTERS_OWN:
                continue
            if flag in seen:
                raise PresetError(
                    f"model {model.name!r} says {flag} more than once, of which a preset keeps the last alone: say it "
                    "once, or declare no presets"
                )
            seen.add(flag)
            lines.append(f"{flag.lstrip('-')} = {'true' if value is None else _plain(model, flag, value)}")
        if model.name == default:
            lines.append("load-on-startup = true")
    return "\n".join(lines) + "\n"


def _options(arguments: Sequence[str]) -> Iterable[tuple[str, str | None]]:
    """Flags with their values; None for a switch. A value may begin with a dash (-1), but then a digit follows."""
    index = 0
    while index < len(arguments):
        flag, following = arguments[index], arguments[index + 1 : index + 2]
        value = following[0] if following and not _FLAG.match(following[0]) else None
        yield flag, value
        index += 1 if value is None else 2


def _plain(model: Model, flag: str, value: str) -> str:
    """A value as the file can hold it: its reader ends it at a ; or # wherever that stands, and knows no quotes."""
    if re.search(r"[;#\r\n]", value) or value != value.strip(" \t"):
        raise PresetError(
            f"model {model.name!r}: {flag} {value!r} cannot be said in a preset file, which ends a value at ; # and "
            "line breaks: say it in another way, or declare no presets"
        )
    return value
