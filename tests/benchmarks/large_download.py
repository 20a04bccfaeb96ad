"""Download a file larger than memory: kill the download midway, resume it, and run it again when it is complete.

    .venv/bin/python -m tests.benchmarks.large_download --directory /var/tmp/llamarig-large

Run by hand, because it takes minutes and 21 GiB of disk; results are in DOWNLOAD.md. The served file is sparse; the
downloaded file is not.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import urllib.request
from pathlib import Path

from tests.benchmarks.download import MIB, Bench, hash_rate, measure

GIB = 1024**3


def bytes_sent(bench: Bench) -> int:
    """Bytes of files that the server has sent so far."""
    with urllib.request.urlopen(f"{bench.endpoint}/_control/log") as answer:
        return sum(request["bytes_sent"] for request in json.load(answer) if request["origin"] == "cdn")


def main() -> None:
    """Run the download three times and print the measurements of each run."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--directory", type=Path, required=True, help="made and deleted; on a disk with room")
    parser.add_argument("--gib", type=float, default=21)
    parser.add_argument("--files", type=int, default=1, help="of which it is made, as a model of its shards")
    parser.add_argument("--kill-after-s", type=float, default=60)
    options = parser.parse_args()
    size = int(options.gib * GIB) + 1
    print(
        f"{platform.platform()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} at the start, {size} bytes "
        f"in {options.files} files; "
        f"one core hashes {hash_rate():.2f} GiB/s with sha256",
        flush=True,
    )
    bench = Bench(options.directory, size, limit=None, sparse=True, files=options.files)
    try:
        shutil.rmtree(bench.out, ignore_errors=True)
        bench.out.mkdir(parents=True)
        command = bench.command("llamarig")
        for title, kill_after_s in (("killed", options.kill_after_s), ("resumed", None), ("complete", None)):
            before = bytes_sent(bench)
            run = measure(command, bench.environment, kill_after_s=kill_after_s, shown=True)
            kept = sum(part.stat().st_blocks for part in (bench.out / ".partial").glob("*[0-9a-f]")) * 512
            print(
                f"{title}: {run.seconds:.2f} s, {run.cpu:.1f} CPU s, {run.memory:.0f} MiB of memory at most, "
                f"{(bytes_sent(bench) - before) / MIB:.0f} MiB moved, {kept / MIB:.0f} MiB partial",
                flush=True,
            )
        whole = sum(wanted for wanted, _ in bench.files.values())
        assert sum((bench.out / name).stat().st_size for name in bench.files) == whole
        print(f"{(bytes_sent(bench) - whole) / MIB:.0f} MiB moved twice")
    finally:
        bench.stop()
        shutil.rmtree(options.directory)


if __name__ == "__main__":
    main()
