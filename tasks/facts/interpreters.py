"""The Pythons of a box: whether they run, how old they are, and whether they can make a venv."""

from __future__ import annotations

import re
from collections.abc import Iterable

from pyinfra.api.facts import FactBase
from typing_extensions import override

from tasks.planning.interpreter import Interpreter

# Spoken by every Python 3: one that is too old has to be able to say so.
_ASKED = 'import sys; print("version=%d.%d" % sys.version_info[:2]); import ensurepip, ssl, venv; print("complete=yes")'


class Interpreters(FactBase[dict[str, Interpreter]]):
    """Path -> Interpreter, for the paths asked for."""

    @staticmethod
    @override
    def default() -> dict[str, Interpreter]:
        return {}

    @override
    def command(self, paths: Iterable[str]) -> str:
        return "; ".join([*(f"echo path={path}; {path} -I -c '{_ASKED}' 2>/dev/null" for path in paths), "true"])

    @override
    def process(self, output: list[str]) -> dict[str, Interpreter]:
        found: dict[str, Interpreter] = {}
        path = ""
        for line in output:
            key, _, value = line.partition("=")
            if key == "path":
                path, found[value] = value, Interpreter()
            elif path and key == "version" and re.fullmatch(r"\d{1,3}\.\d{1,3}", value):
                major, minor = value.split(".")
                found[path] = Interpreter((int(major), int(minor)))
            elif path and key == "complete":
                found[path] = Interpreter(found[path].version, complete=True)
        return found
