"""Run remote/download/fetch_shards.py as a local process against the stand-in Hub. Needs no box."""

from __future__ import annotations

import hashlib
import json
import random
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.box.hub import Hub

REPOSITORY_ROOT = Path(__file__).parents[2]
MIB = 1024**2
PATIENCE_S = 300
"""Timeout of steps that take far less unless the machine is loaded."""


@dataclass
class FetchResult:
    """Exit code, last job status, and output (which goes to the journal on a box)."""

    code: int
    status: dict[str, Any]
    log: str

    @property
    def message(self) -> str:
        return str(self.status.get("message", ""))


@dataclass
class FetchRun:
    """A job that fetches one repository of the stand-in Hub into a model store in ``directory``."""

    hub: Hub
    directory: Path
    repo: str
    sources: dict[str, Path]
    job: dict[str, Any] = field(default_factory=dict)
    gated_token: str | None = None

    def __post_init__(self) -> None:
        commit = self.hub.add_repo(self.repo, self.sources, self.gated_token)
        store = self.directory / "models"
        files = []
        for path, source in self.sources.items():
            sha256 = hashlib.sha256(source.read_bytes()).hexdigest()
            files.append(
                {
                    "repo": self.repo,
                    "commit": commit,
                    "path": path,
                    "size": source.stat().st_size,
                    "sha256": sha256,
                    "target": str(store / self.repo / commit / path),
                    "partial": str(store / ".partial" / sha256),
                    "same": [],
                }
            )
        self.job = {
            "endpoint": self.hub.endpoint,
            "proxy": None,
            "bytes_per_s": None,
            "group": None,
            "files_at_a_time": 4,
            "connections": 8,
            "chunk": MIB,
            # Long enough for a loaded machine; tests of the timeout set less.
            "patience_s": 30,
            "backoff_s": 0.05,
            "give_up_after_s": 120,
            "refetch_bytes": 1024 * MIB,
            "files": files,
        } | self.job
        self.jobs = self.directory / "job"
        self.jobs.mkdir(parents=True)

    def start(self) -> subprocess.Popen[str]:
        (self.jobs / "job.json").write_text(json.dumps(self.job))
        return subprocess.Popen(
            [sys.executable, "-B", "-m", "llamarig.remote.download.fetch_shards", str(self.jobs)],
            cwd=REPOSITORY_ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def end(self, process: subprocess.Popen[str], timeout: float = PATIENCE_S) -> FetchResult:
        log, _ = process.communicate(timeout=timeout)
        return FetchResult(process.returncode, json.loads((self.jobs / "status.json").read_text()), log)

    def run(self, timeout: float = PATIENCE_S) -> FetchResult:
        return self.end(self.start(), timeout)

    def kill(self, process: subprocess.Popen[str]) -> None:
        """Kill the program, but not its children, which have to end by themselves."""
        process.kill()
        process.communicate()

    @property
    def size(self) -> int:
        return sum(file["size"] for file in self.job["files"])

    def write_partial(self, number: int, parts: list[tuple[int, int]]) -> Path:
        """Write a partial file that holds only these byte ranges of a file, as an interrupted download leaves it."""
        file = self.job["files"][number]
        part = Path(file["partial"])
        part.parent.mkdir(parents=True, exist_ok=True)
        content = self.sources[file["path"]].read_bytes()
        with part.open("wb") as sparse:
            for start, end in parts:
                sparse.seek(start)
                sparse.write(content[start:end])
        return part

    def bytes_sent(self) -> int:
        """Bytes of response bodies that the CDN has sent since the log was cleared."""
        return sum(request.bytes_sent for request in self.hub.log.requests() if request.origin == "cdn")

    def assert_complete(self) -> None:
        """Every file is in place with the right bytes, and no partial file is left."""
        for file in self.job["files"]:
            target = Path(file["target"])
            assert hashlib.sha256(target.read_bytes()).hexdigest() == file["sha256"], f"{target} holds wrong bytes"
            assert target.stat().st_mode & 0o111 == 0
            assert not Path(file["partial"]).exists()

    def assert_no_wrong_bytes(self) -> None:
        """Every file that is in place has the right bytes; files may be missing."""
        for file in self.job["files"]:
            target = Path(file["target"])
            if target.exists():
                assert hashlib.sha256(target.read_bytes()).hexdigest() == file["sha256"], f"{target} holds wrong bytes"


def random_file(path: Path, size: int, seed: int) -> Path:
    """Write a file of random bytes that depend only on the seed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(random.Random(seed).randbytes(size))
    return path
