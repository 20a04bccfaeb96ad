"""The one way from arguments and environment to the text of a systemd unit."""

from __future__ import annotations

import re
from collections.abc import Sequence

from tasks.spec.unit_words import unfit_for_a_unit

_PLAIN = re.compile(r"[A-Za-z0-9_@%$:,./=+^()|\[\]{}*?!~<>-]+")


def _refuse_unfit(text: str, *, assignment: bool = False) -> None:
    if reason := unfit_for_a_unit(text, assignment=assignment):
        raise ValueError(f"{text!r}: {reason}")


def _quoted(text: str) -> str:
    if text and _PLAIN.fullmatch(text):
        return text
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\t", "\\t") + '"'


def exec_start(arguments: Sequence[str]) -> str:
    """Arguments as systemd's ExecStart= reads them back, word for word.

    ``%`` starts a specifier and ``$`` a variable even inside quotes, so both are doubled; a backslash starts a
    C escape, so it is doubled inside double quotes.

    :raises ValueError: for a line break, and whatever else no unit file can carry
    """
    for argument in arguments:
        _refuse_unfit(argument)
    return " ".join(_quoted(argument.replace("%", "%%").replace("$", "$$")) for argument in arguments)


def environment(name: str, value: str) -> str:
    """One assignment as Environment= reads it back. ``$`` has no meaning there, ``%`` has.

    :raises ValueError: for a line break, a control character, and whatever else no unit file can carry
    """
    _refuse_unfit(value, assignment=True)
    return _quoted(f"{name}={value}".replace("%", "%%"))
