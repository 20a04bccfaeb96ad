"""The options of a llama-server command line, of any era, in the order in which the server reads them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from llamarig.adopt.older_flags import OLDER_VARIABLES
from llamarig.adopt.pinned_flags import PINNED_ENVIRONMENT, PINNED_OPTIONS, Option
from llamarig.adopt.preset_file import FALSE, TRUE
from llamarig.declare.risky_flags import flag_of

_FLAG = re.compile(r"--?[A-Za-z][\w.-]*(=.*)?", re.DOTALL)
_NUMBER = re.compile(r"-?[0-9]*[.]?[0-9]+")
_SCALED = ("--lora-scaled", "--control-vector-scaled")
SECRETS = frozenset({"--api-key", "-hft", "--hf-token"})
"""Flags whose value is a secret."""


@dataclass(frozen=True)
class Given:
    """An option as it was given.

    ``flag``: as llama-server reads it; ``values``: the words after it; ``variable``: the environment variable that it
    was given as, with its value, empty for a flag.
    """

    flag: str
    values: tuple[str, ...] = ()
    variable: str = ""

    @property
    def value(self) -> str | None:
        """Its value; None where it has none."""
        return self.values[0] if self.values else None

    @property
    def written(self) -> str:
        """As a note shows it, without a secret."""
        is_secret = self.flag in SECRETS
        if self.variable:
            return f"{self.variable.partition('=')[0]}=..." if is_secret else self.variable
        return " ".join([self.flag, *(("...",) if is_secret and self.values else self.values)])

    @property
    def spelling(self) -> str:
        """The flag, or the variable without its value."""
        return self.variable.partition("=")[0] or self.flag


def given_options(words: Sequence[str], environment: Mapping[str, str]) -> tuple[list[Given], list[str]]:
    """The options, those of the environment first, which a flag overrides; and words that belong to no option."""
    found = [option for name, value in environment.items() for option in _of_variable(name, value)]
    stray: list[str] = []
    at = 0
    while at < len(words):
        word = words[at]
        if not _FLAG.fullmatch(word):
            stray.append(word)
            at += 1
            continue
        flag, equals, value = word.partition("=")
        flag = flag_of(flag)
        values = [value] if equals else _values(words[at + 1 :], PINNED_OPTIONS.get(flag))
        at += 1 + (0 if equals else len(values))
        if flag in _SCALED and at < len(words) and _NUMBER.fullmatch(words[at]):
            values = [f"{values[0]}:{words[at]}"]  # until 2026 the scale was a word of its own
            at += 1
        found.append(Given(flag, tuple(values)))
    return found, stray


def _values(following: Sequence[str], option: Option | None) -> list[str]:
    """The words that are an option's values: llama-server has no words that are neither.

    An older build may have had a switch where the pinned one wants a value, and the other way round.
    """
    most = 1 if option is None else max(option.values, 1)
    values: list[str] = []
    for word in following:
        if len(values) >= most or _FLAG.fullmatch(word):
            break
        values.append(word)
    return values


def _of_variable(name: str, value: str) -> list[Given]:
    written = f"{name}={value}"
    if name in OLDER_VARIABLES:
        flag = OLDER_VARIABLES[name]
        return [Given(flag, variable=written)] if value.lower() not in FALSE else []
    option = PINNED_ENVIRONMENT.get(name)
    negated = option is None and name.startswith("LLAMA_ARG_NO_")
    if negated:
        option = PINNED_ENVIRONMENT.get(name.replace("LLAMA_ARG_NO_", "LLAMA_ARG_"))
    if option is None:
        return []
    if option.values:
        return [Given(option.name, (value,), written)]
    if negated or (value.lower() in FALSE and option.negation):
        return [Given(option.negation, variable=written)] if option.negation else []
    return [Given(option.name, variable=written)] if value.lower() in TRUE else []
