"""CUDA toolkits that the owner installed himself, by the paths he declares."""

from __future__ import annotations

import re
from collections.abc import Iterable

from pyinfra.api.facts import FactBase
from typing_extensions import override

from tasks.facts.sections import answers, ask
from tasks.planning.gpus import Version


class ToolkitVersions(FactBase[dict[str, Version]]):
    """Path -> version of the CUDA toolkits at these paths, in their nvcc's own words; one without nvcc is left out."""

    @staticmethod
    @override
    def default() -> dict[str, Version]:
        return {}

    @override
    def command(self, paths: Iterable[str]) -> str:
        return ask((path, f"{path}/bin/nvcc --version") for path in sorted(paths))

    @override
    def process(self, output: list[str]) -> dict[str, Version]:
        found = {
            path: re.search(r"release (\d{1,3})\.(\d{1,3})", " ".join(said)) for path, said in answers(output).items()
        }
        return {path: (int(match[1]), int(match[2])) for path, match in found.items() if match}
