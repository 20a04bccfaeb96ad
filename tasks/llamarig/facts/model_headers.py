"""Headers of model files: tensors, and the metadata that describes the model's shape."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from pyinfra.api.facts import FactBase

from llamarig.facts.output import json_object
from llamarig.remote.shared.gguf_header import Header, Tensor
from llamarig.render.sandboxed_run import our_program, reading_sandbox, sandboxed

_SECONDS = 300
"""For the headers of all models of a box, of 30 MB each, from a disk that is slow or busy."""


@dataclass(frozen=True)
class FileHeaders:
    """``headers``: path -> header, of files that llama.cpp reads. ``problems``: path -> why it would not read it."""

    headers: Mapping[str, Header] = field(default_factory=dict)
    problems: Mapping[str, str] = field(default_factory=dict)
    failure: str = ""
    """What was printed besides, where nothing could be read."""

    def of(self, paths: Sequence[str]) -> list[Header] | None:
        """The headers of these files, in their order; None if one was not read."""
        return [self.headers[path] for path in paths] if all(path in self.headers for path in paths) else None

    def problem(self, paths: Sequence[str]) -> str:
        """The first of these files that was not read, and why; empty if all were."""
        unread = next((path for path in paths if path not in self.headers), None)
        if unread is None:
            return ""
        not_read = f"its header was not read ({self.failure})" if self.failure else "its header was not read"
        return f"{unread}: {self.problems.get(unread, not_read)}"


class ModelHeaders(FactBase[FileHeaders]):
    """The headers of the given files. Takes under 0.1 s per model.

    Output::

        {"path": "/var/lib/llamarig/models/...", "tensors": [["token_embd.weight", [256, 288], "F16", 147456], ...
        {"path": "/etc/os-release", "error": "does not begin with GGUF"}
    """

    default = FileHeaders

    def command(self, paths: Iterable[str]) -> str:
        files = list(paths)
        # A header is a stranger's: it is parsed as the service user, without anything but these files.
        return (
            f"{sandboxed(reading_sandbox(files), our_program('plan.model_headers', files), {}, _SECONDS)} 2>&1 || true"
        )

    def process(self, output: list[str]) -> FileHeaders:
        headers: dict[str, Header] = {}
        problems: dict[str, str] = {}
        failure = ""
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
                elif line.strip():
                    failure = line.strip()
        return FileHeaders(headers, problems, failure)
