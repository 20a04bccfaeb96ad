"""The declared models as a preset file, from which a llama-server in router mode starts each on request.

Format: common/preset.cpp and docs/preset.md of the pinned commit; one section per model, flags as keys without dashes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from llamarig.declare.model import Model

# The router passes these to its children itself (server-models.cpp, unset_reserved_args and update_args).
_ROUTERS_OWN = {"--host", "--port", "--alias", "--api-key-file", "--api-prefix"}
_FLAG = re.compile(r"--?[a-zA-Z]")


class PresetError(ValueError):
    """A declaration that a preset file cannot express; the message names the model and the remedy."""


def preset_text(models: Iterable[tuple[Model, Sequence[str]]], default: str) -> str:
    """Text of the file.

    :param models: each with the arguments of its llama-server, without the program
    :param default: name of the model that the router loads when it starts
    :raises PresetError: for an argument that would be read as something else, or not at all
    """
    lines = [
        "; Written by llamarig; the next deploy overwrites edits. One llama-server for all models of a build:",
        ";   llama-server --models-preset THIS_FILE --models-max 1 --host ADDRESS --port PORT",
        "; Environment variables, CPU affinity and limits of a model's unit are not in here: set them for the router.",
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
                    f"model {model.name!r} has {flag} more than once, and a preset file keeps only the last: "
                    "declare it once, or declare no presets"
                )
            seen.add(flag)
            lines.append(f"{flag.lstrip('-')} = {'true' if value is None else _plain(model, flag, value)}")
        if model.name == default:
            lines.append("load-on-startup = true")
    return "\n".join(lines) + "\n"


def _options(arguments: Sequence[str]) -> Iterable[tuple[str, str | None]]:
    """Flags with their values; None for a switch. A dash at the start of a value (-1) is followed by a digit."""
    index = 0
    while index < len(arguments):
        flag, following = arguments[index], arguments[index + 1 : index + 2]
        value = following[0] if following and not _FLAG.match(following[0]) else None
        yield flag, value
        index += 1 if value is None else 2


def _plain(model: Model, flag: str, value: str) -> str:
    """Return a value that the file can hold: its parser ends a value at any ; or # and knows no quotes."""
    if re.search(r"[;#\r\n]", value) or value != value.strip(" \t"):
        raise PresetError(
            f"model {model.name!r}: {flag} {value!r} cannot be written to a preset file, where ; # and line breaks "
            "end a value: declare another value, or declare no presets"
        )
    return value
