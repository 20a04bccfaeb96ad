"""Headers of model files: tensors, and the metadata that describes the model's shape."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from pyinfra.api.facts import FactBase

from llamarig.facts.output import json_object
from llamarig.remote.shared.gguf_header import Header, Tensor
from llamarig.render import layout


@dataclass(frozen=True)
class FileHeaders:
    """``headers``: path -> header, of files that llama.cpp reads. ``problems``: path -> why it would not read it."""

    headers: Mapping[str, Header] = field(default_factory=dict)
    problems: Mapping[str, str] = field(default_factory=dict)

    def of(self, paths: Sequence[str]) -> list[Header] | None:
        """The headers of these files, in their order; None if one was not read."""
        return [self.headers[path] for path in paths] if all(path in self.headers for path in paths) else None

    def problem(self, paths: Sequence[str]) -> str:
        """The first of these files that was not read, and why; empty if all were."""
        unread = next((path for path in paths if path not in self.headers), None)
        return f"{unread}: {self.problems.get(unread, 'its header was not read')}" if unread is not None else ""


class ModelHeaders(FactBase[FileHeaders]):
    """The headers of the given files. Takes under 0.1 s per model.

    Output::

        {"path": "/var/lib/llamarig/models/...", "tensors": [["token_embd.weight", [256, 288], "F16", 147456], ...
        {"path": "/etc/os-release", "error": "does not begin with GGUF"}
    """

    default = FileHeaders

    def command(self, paths: Iterable[str]) -> str:
        program = f"{layout.PYTHON} -B -m llamarig.remote.plan.model_headers {shlex.join(paths)}"
        return f"cd {layout.PROGRAMS} && {program} 2>/dev/null || true"

    def process(self, output: list[str]) -> FileHeaders:
        headers: dict[str, Header] = {}
        problems: dict[str, str] = {}
        for line in output:
            fields = json_object(line)
            try:
                tensors = tuple(Tensor(name, tuple(shape), kind, size) for name, shape, kind, size in fields["tensors"])
                headers[str(fields["path"])] = Header(
                    tensors, dict(fields["metadata"]), fields["length"], fields["sha256"]
                )
            except (KeyError, TypeError, ValueError):
                if "path" in fields and "error" in fields:
                    problems[str(fields["path"])] = str(fields["error"])
        return FileHeaders(headers, problems)
