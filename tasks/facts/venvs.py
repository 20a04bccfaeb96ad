"""A virtual environment of ours: which lock it was made from, and which distributions it really holds."""

from __future__ import annotations

import re
from dataclasses import dataclass

from pyinfra.api.facts import FactBase
from typing_extensions import override


@dataclass(frozen=True)
class Environment:
    """``lock``: sha256 of the requirements it was installed from; ``distributions``: ``name==version``."""

    lock: str = ""
    distributions: frozenset[str] = frozenset()


class VirtualEnvironment(FactBase[Environment]):
    """The environment at a path; empty where there is none or its Python does not run."""

    @staticmethod
    @override
    def default() -> Environment:
        return Environment()

    @override
    def command(self, path: str) -> str:
        return (
            f"test -x {path}/bin/python && {path}/bin/python -I -S -c '' && sha256sum <{path}/requirements.lock && "
            f"ls {path}/lib/python3*/site-packages; true"
        )

    @override
    def process(self, output: list[str]) -> Environment:
        lock = next((match[1] for line in output if (match := re.match(r"([0-9a-f]{64})\b", line))), "")
        found = (re.fullmatch(r"(.+)-([^-]+)\.dist-info", line) for line in output)
        return Environment(
            lock, frozenset(f"{match[1].replace('_', '-').lower()}=={match[2]}" for match in found if match)
        )
