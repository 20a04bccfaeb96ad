"""What the headers of the box's model files say: tensors, and the numbers that shape the model."""

from __future__ import annotations

import shlex
from collections.abc import Iterable

from pyinfra.api.facts import FactBase
from typing_extensions import override

from tasks.facts.json_text import json_object
from tasks.planning import layout
from tasks.planning.gguf_header import Header, Tensor


class ModelHeaders(FactBase[dict[str, Header]]):
    """Path -> Header, for those of the files asked for that are GGUF files. Takes under 0.1 s a model."""

    @staticmethod
    @override
    def default() -> dict[str, Header]:
        return {}

    @override
    def command(self, paths: Iterable[str]) -> str:
        program = f"{layout.PYTHON} -B -m tasks.files.model_headers {shlex.join(paths)}"
        return f"cd {layout.PROGRAMS} && {program} 2>/dev/null || true"

    @override
    def process(self, output: list[str]) -> dict[str, Header]:
        headers = {}
        for line in output:
            said = json_object(line)
            try:
                tensors = tuple(Tensor(name, tuple(shape), kind, size) for name, shape, kind, size in said["tensors"])
                headers[str(said["path"])] = Header(tensors, dict(said["metadata"]), said["length"], said["sha256"])
            except (KeyError, TypeError, ValueError):
                continue  # a file that is none says so in a line without tensors
        return headers
