"""Python interpreters of a box: version, and whether they can create a virtual environment."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from pyinfra.api.facts import FactBase

from llamarig.facts.output import parse_blocks

# Valid in every Python 3, so that one that is too old can report its version.
_CODE = 'import sys; print("version=%d.%d" % sys.version_info[:2]); import ensurepip, ssl, venv; print("complete=yes")'

OLDEST = (3, 9)
"""Oldest Python that llamarig.remote supports: Debian 11's. The wheels of hf_transfer need 3.8."""


@dataclass(frozen=True)
class Interpreter:
    """``version``: for example (3, 13), None where it does not run; ``complete``: has venv, ensurepip and ssl."""

    version: tuple[int, int] | None = None
    complete: bool = False

    @property
    def is_usable(self) -> bool:
        """Whether the programs of llamarig.remote run on it."""
        return self.version is not None and self.version >= OLDEST and self.complete

    def __str__(self) -> str:
        if self.version is None:
            return "no Python that runs"
        name = "Python " + ".".join(str(number) for number in self.version)
        return name if self.complete else f"{name} without venv, ensurepip or ssl"


class Interpreters(FactBase[dict[str, Interpreter]]):
    """Path -> Interpreter, for the given paths.

    Output::

        path=/opt/llamarig/bin/python3
        version=3.13
        complete=yes
        path=/none
    """

    default = dict

    def command(self, paths: Iterable[str]) -> str:
        return "; ".join([*(f"echo path={path}; {path} -I -c '{_CODE}' 2>/dev/null" for path in paths), "true"])

    def process(self, output: list[str]) -> dict[str, Interpreter]:
        return {path: _interpreter(values) for path, values in parse_blocks(output, "path").items()}


def _interpreter(values: Mapping[str, str]) -> Interpreter:
    version = re.fullmatch(r"(\d{1,3})\.(\d{1,3})", values.get("version", ""))
    return Interpreter((int(version[1]), int(version[2])) if version else None, "complete" in values)
