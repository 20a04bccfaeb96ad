"""Runs remote/download/fetch_shards.py as a process, as it runs on the box, against the stand-in Hub; needs no box."""

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
"""Timeout for what takes much less, but on a loaded machine."""


@dataclass
class Ended:
    """``status``: the job's last status; ``log``: its output, which goes to the journal on a box."""

    code: int
    status: dict[str, Any]
    log: str

    @property
    def message(self) -> str:
        return str(self.status.get("message", ""))


@dataclass
class Fetching:
    """One model store in a directory, one repository on the Hub, and the job that fetches it."""

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
            # Far more than a loaded machine takes; tests of giving up set less.
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

    def end(self, process: subprocess.Popen[str], timeout: float = PATIENCE_S) -> Ended:
        log, _ = process.communicate(timeout=timeout)
        return Ended(process.returncode, json.loads((self.jobs / "status.json").read_text()), log)

    def run(self, timeout: float = PATIENCE_S) -> Ended:
        return self.end(self.start(), timeout)

    def cut_power(self, process: subprocess.Popen[str]) -> None:
        """Kill the program, but not its children, which have to end by themselves."""
        process.kill()
        process.communicate()

    @property
    def size(self) -> int:
        return sum(file["size"] for file in self.job["files"])

    def put_there(self, number: int, parts: list[tuple[int, int]]) -> Path:
        """Make a partial file with only these parts of a file, as an interrupted download leaves it."""
        file = self.job["files"][number]
        part = Path(file["partial"])
        part.parent.mkdir(parents=True, exist_ok=True)
        content = self.sources[file["path"]].read_bytes()
        with part.open("wb") as sparse:
            for start, end in parts:
                sparse.seek(start)
                sparse.write(content[start:end])
        return part

    def moved(self) -> int:
        """Bytes of bodies that the CDN has sent since the log was cleared."""
        return sum(request.bytes_sent for request in self.hub.log.requests() if request.origin == "cdn")

    def assert_right(self) -> None:
        """Every file is in place with the right bytes, and no partial file is left."""
        for file in self.job["files"]:
            target = Path(file["target"])
            assert hashlib.sha256(target.read_bytes()).hexdigest() == file["sha256"], f"{target} holds wrong bytes"
            assert target.stat().st_mode & 0o111 == 0
            assert not Path(file["partial"]).exists()

    def assert_nothing_bad(self) -> None:
        """Every file that is in place has the right bytes."""
        for file in self.job["files"]:
            target = Path(file["target"])
            if target.exists():
                assert hashlib.sha256(target.read_bytes()).hexdigest() == file["sha256"], f"{target} holds wrong bytes"


def random_file(path: Path, size: int, seed: int) -> Path:
    """Write a file of random bytes, the same for the same seed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(random.Random(seed).randbytes(size))
    return path
