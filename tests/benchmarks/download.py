"""Compare downloads of the same file over loopback by llamarig, `hf download`, curl and aria2c.

    python3 -m tests lint && .venv/bin/python -m tests.benchmarks.download --directory /dev/shm/llamarig-download

The server is the stand-in Hub in a separate process, first without a rate limit, then with 40 MB/s per connection.
Results are in DOWNLOAD.md.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tests.box.fetch_run import REPOSITORY_ROOT

REPO = "benchmark/Model-GGUF"
FILE = "model.gguf"
MIB = 1024**2


@dataclass(frozen=True)
class Measured:
    """Wall-clock seconds, CPU seconds, and peak resident memory of the whole process tree in MiB."""

    seconds: float
    cpu: float
    memory: float


def hash_rate() -> float:
    """GiB per second that one core hashes with sha256: the upper limit of a verified download."""
    block, hasher, began = bytes(64 * MIB), hashlib.sha256(), time.monotonic()
    for _ in range(16):
        hasher.update(block)
    return 1 / (time.monotonic() - began)


def measure(
    argv: Sequence[str | Path],
    environment: dict[str, str],
    *,
    kill_after_s: float | None = None,
    shown: bool = False,
) -> Measured:
    """Run a command to its end, or until it is killed.

    :param shown: whether to show its stdout
    :raises SystemExit: when it fails
    """
    began = time.monotonic()
    with subprocess.Popen(
        argv,
        cwd=REPOSITORY_ROOT,
        env=environment,
        stdout=None if shown else subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    ) as process:
        peak, ended = [0.0], threading.Event()
        killer = threading.Timer(kill_after_s or 0, process.kill)
        if kill_after_s is not None:
            killer.start()

        def sample() -> None:
            while not ended.wait(0.05):
                peak[0] = max(peak[0], _resident(process.pid))

        sampler = threading.Thread(target=sample)
        sampler.start()
        assert process.stderr is not None
        errors = process.stderr.read()
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.monotonic() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        killer.cancel()
        ended.set()
        sampler.join()
    if process.returncode and kill_after_s is None:
        raise SystemExit(f"{argv[0]} failed with {process.returncode}: {errors.decode(errors='replace')[-2000:]}")
    return Measured(seconds, usage.ru_utime + usage.ru_stime, peak[0])


def _resident(pid: int) -> float:
    """Resident memory of a process and its descendants, in MiB."""
    try:
        children = Path(f"/proc/{pid}/task").glob("*/children")
        below = [int(child) for listing in children for child in listing.read_text().split()]
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, ValueError):
        return 0.0
    return pages * os.sysconf("SC_PAGE_SIZE") / MIB + sum(_resident(child) for child in below)


class Bench:
    """The server in its directory, and the command lines that download its file.

    :param size: total bytes of all files
    :param files: number of files; with more than one, only llamarig's download works
    """

    def __init__(
        self, directory: Path, size: int, limit: float | None, *, sparse: bool = False, files: int = 1
    ) -> None:
        self.root, self.out = directory / "hub", directory / "out"
        self.files: dict[str, tuple[int, str]] = {}
        """Name -> size in bytes, sha256."""
        for number in range(files):
            name = FILE if files == 1 else f"model-{number + 1:05}-of-{files:05}.gguf"
            source = self.root / REPO / name
            source.parent.mkdir(parents=True, exist_ok=True)
            with source.open("wb") as file:
                for _ in range(0 if sparse else size // files // (8 * MIB)):
                    file.write(os.urandom(8 * MIB))
                if sparse:
                    file.truncate(size // files + number)
            output = subprocess.run(["sha256sum", source], capture_output=True, check=True).stdout.decode()
            self.files[name] = (source.stat().st_size, output[:64])
        self.sha256 = self.files[name][1]
        self.server = subprocess.Popen(
            [sys.executable, "-m", "tests.box.serve_hub", "--root", self.root, "--port", "0", "--cdn-port", "0"],
            cwd=REPOSITORY_ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.server.stdout is not None
        ready = json.loads(self.server.stdout.readline().removeprefix("ready "))
        self.endpoint, self.commit = ready["endpoint"], ready["repositories"][REPO]
        if limit is not None:
            fault = json.dumps([{"origin": "cdn", "bytes_per_s": limit}]).encode()
            urllib.request.urlopen(f"{self.endpoint}/_control/faults", fault).close()
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")},
            "HF_ENDPOINT": self.endpoint,
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "HF_HOME": str(directory / "hf-home"),
        }

    def stop(self) -> None:
        self.server.terminate()
        self.server.wait()
        shutil.rmtree(self.root)

    def command(self, tool: str) -> list[str | Path]:
        url = f"{self.endpoint}/{REPO}/resolve/{self.commit}/{FILE}"
        if tool in OURS:
            return [sys.executable, "-B", "-m", "llamarig.remote.download.fetch_shards", self._job()]
        if tool == "hf download":
            hf = Path(sys.executable).with_name("hf")
            return [hf, "download", REPO, FILE, "--revision", self.commit, "--local-dir", self.out]
        if tool == "curl":
            return ["curl", "--silent", "--fail", "--location", "--output", self.out / FILE, url]
        # 16 connections are aria2's maximum.
        return [
            "aria2c",
            "--quiet",
            "-x16",
            "-s16",
            "-k1M",
            "--file-allocation=none",
            "-d",
            str(self.out),
            "-o",
            FILE,
            url,
        ]

    def _job(self) -> Path:
        from llamarig.declare.rig import Hub
        from llamarig.items.download_job import fetch_job
        from llamarig.remote.shared.jobs import FetchFile

        directory = self.out / "job"
        directory.mkdir()
        files = tuple(
            FetchFile(
                repo=REPO,
                commit=self.commit,
                path=name,
                size=size,
                sha256=sha256,
                target=str(self.out / name),
                partial=str(self.out / ".partial" / sha256),
                same=(),
            )
            for name, (size, sha256) in self.files.items()
        )
        job = replace(fetch_job([], Hub(endpoint=self.endpoint), {}), files=files, group=None)
        (directory / "job.json").write_text(json.dumps(job.to_json()))
        return directory

    def _leave_first_mib(self) -> None:
        """Write the partial file of a download that was interrupted after one MiB."""
        part = self.out / ".partial" / self.sha256
        part.parent.mkdir()
        with (self.root / REPO / FILE).open("rb") as source:
            part.write_bytes(source.read(MIB))

    def run(self, tool: str) -> tuple[Measured, Measured]:
        """Measure the download alone, and with a sha256 check (the same for llamarig, which always checks)."""
        shutil.rmtree(self.out, ignore_errors=True)
        self.out.mkdir(parents=True)
        command = self.command(tool)
        if tool == RESUMED:
            self._leave_first_mib()
        fetched = measure(command, self.environment)
        # openssl uses the processor's SHA instructions; Debian 12's sha256sum does not and takes four times as long.
        check = measure(["openssl", "dgst", "-sha256", self.out / FILE], self.environment)
        found = subprocess.run(["sha256sum", self.out / FILE], capture_output=True, check=True).stdout.decode()[:64]
        assert found == self.sha256, f"{tool} left wrong bytes"
        shutil.rmtree(self.out)
        if tool in OURS:
            return fetched, fetched
        return fetched, Measured(
            fetched.seconds + check.seconds, fetched.cpu + check.cpu, max(fetched.memory, check.memory)
        )


RESUMED = "llamarig, resumed"
"""Resumed after one MiB: the rest is fetched with range requests, without hf_transfer."""
OURS = ("llamarig", RESUMED)
TOOLS = (*OURS, "hf download", "curl", "aria2c")


def table(results: dict[str, list[tuple[Measured, Measured]]]) -> str:
    """A Markdown table of medians, and throughput relative to the fastest other tool."""
    raw = {tool: statistics.median(pair[0].seconds for pair in pairs) for tool, pairs in results.items()}
    checked = {tool: statistics.median(pair[1].seconds for pair in pairs) for tool, pairs in results.items()}
    fastest = min(seconds for tool, seconds in checked.items() if tool not in OURS)
    fastest_raw = min(seconds for tool, seconds in raw.items() if tool not in OURS)
    lines = [
        "| | s, bytes there | ratio | s, sha256 checked | ratio | CPU s (checked) | peak MiB |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    for tool, pairs in results.items():
        cpu = statistics.median(pair[1].cpu for pair in pairs)
        memory = max(pair[1].memory for pair in pairs)
        lines.append(
            f"| {tool} | {raw[tool]:.2f} | {fastest_raw / raw[tool]:.2f} | {checked[tool]:.2f} "
            f"| {fastest / checked[tool]:.2f} | {cpu:.2f} | {memory:.0f} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--directory", type=Path, required=True, help="made and deleted; on a filesystem in memory")
    parser.add_argument("--mib", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    load = os.getloadavg()[0]
    print(
        f"{platform.platform()}, {os.cpu_count()} cores, load {load:.1f} at the start, {options.mib} MiB, "
        f"{options.rounds} rounds, medians; one core hashes {hash_rate():.2f} GiB/s with sha256"
    )
    for title, limit in (("no limit", None), ("40 MB/s a connection", 40e6)):
        bench = Bench(options.directory, options.mib * MIB, limit)
        try:
            results: dict[str, list[tuple[Measured, Measured]]] = {tool: [] for tool in TOOLS}
            for number in range(options.rounds):
                # Rotate the order in each round, so that changes in the machine's load favour no tool.
                for tool in TOOLS[number % len(TOOLS) :] + TOOLS[: number % len(TOOLS)]:
                    results[tool].append(bench.run(tool))
            print(f"\n{title}:\n\n{table(results)}", flush=True)
        finally:
            bench.stop()
    shutil.rmtree(options.directory)


if __name__ == "__main__":
    main()
