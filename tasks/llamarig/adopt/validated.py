"""Checks a translated declaration with the rules that every declaration has."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args

from pydantic import ValidationError

from llamarig.adopt.call import Call
from llamarig.adopt.launch import Note
from llamarig.declare.mistakes import mistakes
from llamarig.declare.model import Model
from llamarig.declare.placement import Placement

_NEEDED: Mapping[str, int] = {"context": 256, "port": 8080}
_MOST_TRIES = 20


def validated(call: Call, notes: list[Note], written: Mapping[str, str]) -> tuple[Call, Model | None]:
    """The declaration without what no declaration may hold, which a note names.

    :param written: path of a field of serve -> the flag that it is from, as it was given
    """
    for _ in range(_MOST_TRIES):
        try:
            return call, Model.model_validate(_plain(call))
        except ValidationError as error:
            before = call
            for mistake in mistakes(error):
                path = ".".join(map(str, mistake.place))
                call, done = _without(call, path)
                about = written.get(path.removeprefix("serve."), path or "declaration")
                notes.append(Note(about, f"{done}: {mistake.message}"))
            if call == before:
                return call, None
    return call, None


def _plain(call: Call) -> dict[str, Any]:
    """The arguments as data, with the kind of a placement."""
    data = {name: _plain(value) if isinstance(value, Call) else value for name, value in call.arguments.items()}
    return {"kind": call.name.replace("_", "-"), **data} if call.name in _KINDS else data


_KINDS = frozenset(
    str(kind.model_fields["kind"].default).replace("-", "_") for kind in get_args(get_args(Placement)[0])
)


def _without(call: Call, path: str) -> tuple[Call, str]:
    """The call without a field of serve, or with a value that it can have; and what was done."""
    serve = call.arguments["serve"]
    assert isinstance(serve, Call)
    arguments = dict(serve.arguments)
    group, *rest = path.split(".")[1:] or [""]
    if not path.startswith("serve.") or group not in arguments:
        return call, "is refused"
    nested = arguments[group]
    if rest and isinstance(nested, Call) and rest[0] in nested.arguments:
        kept = {name: value for name, value in nested.arguments.items() if name != rest[0]}
        arguments[group] = Call(nested.name, kept)
        done = "left out"
    elif group in _NEEDED:
        arguments[group] = _NEEDED[group]
        done = f"{_NEEDED[group]} in its place"
    else:
        arguments.pop(group)
        done = "left out"
    return Call(call.name, {**call.arguments, "serve": Call("serve", arguments, serve.comments)}), done
