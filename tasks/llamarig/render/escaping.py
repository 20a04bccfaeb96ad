"""Quoting of arguments and environment variables for systemd units."""

from __future__ import annotations

import re
from collections.abc import Sequence

from llamarig.declare.unit_syntax import unit_syntax_error

_PLAIN = re.compile(r"[A-Za-z0-9_@%$:,./=+^()|\[\]{}*?!~<>-]+")


def _refuse_unfit(text: str, *, assignment: bool = False) -> None:
    if reason := unit_syntax_error(text, assignment=assignment):
        raise ValueError(f"{text!r}: {reason}")


def _quoted(text: str) -> str:
    if text and _PLAIN.fullmatch(text):
        return text
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\t", "\\t") + '"'


def exec_start(arguments: Sequence[str]) -> str:
    """Return arguments in the syntax of ExecStart=, so that systemd reads back exactly these.

    ``%`` starts a specifier and ``$`` a variable even inside quotes, so both are doubled; a backslash starts a
    C escape, so it is doubled inside double quotes.

    :raises ValueError: for text that a unit file cannot contain (declare/unit_syntax.py)
    """
    for argument in arguments:
        _refuse_unfit(argument)
    return " ".join(_quoted(argument.replace("%", "%%").replace("$", "$$")) for argument in arguments)


def split_exec_start(value: str) -> list[str]:
    """Return the arguments that a value of ExecStart= was made of: the inverse of ``exec_start``.

    A value that somebody else has written is split at blanks outside double quotes.
    """
    words = re.findall(r'"(?:[^"\\]|\\.)*"|\S+', value)
    return [_unquoted(word).replace("%%", "%").replace("$$", "$") for word in words]


def _unquoted(word: str) -> str:
    if len(word) < 2 or word[0] != '"' or word[-1] != '"':
        return word
    return re.sub(r"\\(.)", lambda escaped: "\t" if escaped[1] == "t" else escaped[1], word[1:-1])


def path_list(paths: Sequence[str]) -> str:
    """Return paths in the syntax of BindReadOnlyPaths= and the like, where a colon would begin another path.

    :raises ValueError: for a path that they cannot contain
    """
    for path in paths:
        _refuse_unfit(path)
        if ":" in path:
            raise ValueError(f"{path!r}: a colon cannot be in a path that a unit binds")
    return " ".join(_quoted(path.replace("%", "%%")) for path in paths)


def environment(name: str, value: str) -> str:
    """Return one assignment in the syntax of Environment=, where ``%`` is special and ``$`` is not.

    :raises ValueError: for text that an assignment cannot contain (declare/unit_syntax.py)
    """
    _refuse_unfit(value, assignment=True)
    return _quoted(f"{name}={value}".replace("%", "%%"))
