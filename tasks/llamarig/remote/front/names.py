"""Which model a request names: its name, an alias, or an alias with defaults for the request."""

from __future__ import annotations

import difflib
import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Optional

from llamarig.remote.front.settings import FrontModel

_SHOWN = 100
"""Most characters of a name that nobody declared, in a message."""


@dataclass(frozen=True)
class Choice:
    """The model of a request, and members that its body gets where it has none of that name."""

    model: str
    defaults: Mapping[str, Any] = field(default_factory=dict)


class UnknownModelError(LookupError):
    """No declared model has the requested name; the message has those that there are."""


class Names:
    """The names under which a front serves its models."""

    def __init__(self, models: Iterable[FrontModel], default: str) -> None:
        """:param default: the model of requests that name none"""
        self._choices: dict[str, Choice] = {}
        self._default = default
        for model in models:
            self._choices[model.name] = Choice(model.name)
            for alias in model.aliases:
                self._choices[alias.name] = Choice(model.name, dict(alias.defaults))

    def choose(self, name: Optional[str], allowed: Optional[Collection[str]] = None) -> Choice:
        """The model that a request names; the default where it names none.

        :param allowed: models that its key may use; None for all. Others are as if they did not exist
        :raises UnknownModelError: where there is none of that name
        """
        choice = self._choices.get(name) if name else Choice(self._default)
        if choice is not None and (allowed is None or choice.model in allowed):
            return choice
        known = [each for each, one in self._choices.items() if allowed is None or one.model in allowed]
        near = difflib.get_close_matches(name[:_SHOWN], known, n=1) if name else []
        meant = f" (did you mean {near[0]}?)" if near else ""
        shown = json.dumps(name[:_SHOWN] if name else self._default)
        raise UnknownModelError(f"no model is called {shown}{meant}: there are {', '.join(known) or 'none'}")

    def aliases(self, model: str) -> list[str]:
        """The other names of a model."""
        return [name for name, choice in self._choices.items() if choice.model == model and name != model]


def with_defaults(defaults: Mapping[str, Any], present: Collection[str]) -> bytes:
    """JSON text of the defaults that a body lacks, to be put behind its opening brace; with a comma after each.

    :param present: names of members that the body has
    """
    lacking = {name: value for name, value in defaults.items() if name not in present}
    return b"".join(f"{json.dumps(name)}:{json.dumps(value)},".encode() for name, value in lacking.items())
