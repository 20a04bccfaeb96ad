"""Virtual environments of llamarig: the lock file that they were installed from, and the installed distributions."""

from __future__ import annotations

import re
from dataclasses import dataclass

from pyinfra.api.facts import FactBase


@dataclass(frozen=True)
class PythonEnvironment:
    """``lock``: sha256 of the requirements it was installed from; ``distributions``: ``name==version``."""

    lock: str = ""
    distributions: frozenset[str] = frozenset()


class VirtualEnvironment(FactBase[PythonEnvironment]):
    """The virtual environment at a path; empty where there is none or its Python does not run.

    Output::

        d9cb3c763465d6d9135fa72cec339e7d312e9d954e9122fc4084d19f154c4cc0  -
        hf_transfer
        hf_transfer-0.1.9.dist-info
    """

    default = PythonEnvironment

    def command(self, path: str) -> str:
        return (
            f"test -x {path}/bin/python && {path}/bin/python -I -S -c '' && sha256sum <{path}/requirements.lock && "
            f"ls {path}/lib/python3*/site-packages; true"
        )

    def process(self, output: list[str]) -> PythonEnvironment:
        lock = next((match[1] for line in output if (match := re.match(r"([0-9a-f]{64})\b", line))), "")
        found = (re.fullmatch(r"(.+)-([^-]+)\.dist-info", line) for line in output)
        return PythonEnvironment(
            lock, frozenset(f"{match[1].replace('_', '-').lower()}=={match[2]}" for match in found if match)
        )
