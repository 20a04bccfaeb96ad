"""Measure what a front adds: `python -m tests.benchmarks.front [--runs 200] [--streams 64] [--tokens 200]`.

Asks the same server directly and through a front, alternately: the time to the first token of a stream, the tokens per
second of many streams at once, and the memory of the front. The server is a stand-in, so that the front, and not a
model, is what is measured; it shares the cores of this machine with the front and the clients, and everything is on
loopback. Makes no assertion about times.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp

from tests.remote.front.front_box import FrontBox, front_box


def body(**more: Any) -> bytes:
    return json.dumps(
        {"model": "a", "stream": True, "messages": [{"role": "user", "content": "x" * 4000}], **more}
    ).encode()


async def first_token(session: aiohttp.ClientSession, url: str, headers: dict[str, str]) -> float:
    """Seconds from the request to the first bytes of the answer."""
    began = time.perf_counter()
    async with session.post(url, data=body(chunks=1), headers=headers) as response:
        assert response.status == 200
        await response.content.readany()
        took = time.perf_counter() - began
        await response.read()
    return took


async def streams(
    session: aiohttp.ClientSession, url: str, headers: dict[str, str], count: int, tokens: int, pause: float
) -> float:
    """Tokens per second of all streams together."""

    async def one() -> int:
        async with session.post(url, data=body(chunks=tokens, pause=pause), headers=headers) as response:
            assert response.status == 200
            return (await response.read()).count(b"data: ") - 1

    began = time.perf_counter()
    found = await asyncio.gather(*(one() for _ in range(count)))
    assert found == [tokens] * count
    return sum(found) / (time.perf_counter() - began)


def memory_mib(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    return 0.0


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def measure(box: FrontBox, runs: int, count: int, tokens: int, pause: float) -> None:
    model = box.models[0]
    key = Path(model.key_file).read_text().strip()
    cases = {
        "directly": (f"{model.url}/v1/chat/completions", {"Authorization": f"Bearer {key}"}),
        "through the front": (f"http://127.0.0.1:{box.port}/v1/chat/completions", {}),
    }
    connector = aiohttp.TCPConnector(limit=0, force_close=True)
    rows: dict[str, list[str]] = {}
    async with aiohttp.ClientSession(connector=connector, trust_env=False) as session:
        waits: dict[str, list[float]] = {name: [] for name in cases}
        for run in range(runs + 5):
            for name, (url, headers) in cases.items():
                took = await first_token(session, url, headers)
                if run >= 5:
                    waits[name].append(1000 * took)
        idle, began = memory_mib(box.pid), cpu_seconds(box.pid)
        for _ in range(runs):
            await first_token(session, *cases["through the front"])
        each = 1000 * (cpu_seconds(box.pid) - began) / runs
        rates: dict[str, list[float]] = {name: [] for name in cases}
        cpu = 0.0
        for _ in range(3):
            for name, (url, headers) in cases.items():
                before = cpu_seconds(box.pid)
                rates[name].append(await streams(session, url, headers, count, tokens, pause))
                cpu += cpu_seconds(box.pid) - before
        for name in cases:
            rows[name] = [
                f"{statistics.median(waits[name]):.2f}",
                f"{quantile(waits[name]):.2f}",
                f"{statistics.median(rates[name]):.0f}",
            ]
    direct, front = rows["directly"], rows["through the front"]
    added = [f"{float(there) - float(here):+.2f} ms" for here, there in zip(direct[:2], front[:2], strict=True)]
    change = 100 * (float(front[2]) / float(direct[2]) - 1)
    print(
        f"{platform.machine()}, {os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}, "
        f"Python {platform.python_version()}"
    )
    print("| | directly | through the front | |\n|---|---|---|---|")
    print(f"| time to first token, median of {runs} | {direct[0]} ms | {front[0]} ms | {added[0]} |")
    print(f"| time to first token, 95 % | {direct[1]} ms | {front[1]} ms | {added[1]} |")
    print(f"| throughput of {count} streams, tokens/s | {direct[2]} | {front[2]} | {change:+.1f} % |")
    print(f"| CPU of the front, ms for each request | | {each:.2f} | |")
    print(f"| CPU of the front, ms for each 1000 tokens | | {1e6 * cpu / (3 * count * tokens):.1f} | |")
    print(f"| memory of the front | | {idle:.0f} MiB, then {memory_mib(box.pid):.0f} MiB | |")


def quantile(values: Sequence[float]) -> float:
    return sorted(values)[int(0.95 * (len(values) - 1))]


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.front", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--runs", type=int, default=200, help="requests of each case, for the time to the first token")
    parser.add_argument("--streams", type=int, default=64, help="streams at once")
    parser.add_argument("--tokens", type=int, default=200, help="of each stream")
    parser.add_argument("--pause", type=float, default=0.05, help="seconds between two tokens of a stream")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-") as directory, front_box(Path(directory)) as box:
        box.terminate()
        box.ended()
        models = tuple(replace(model, concurrency=options.streams) for model in box.settings.models)
        box.settings = replace(box.settings, models=models)
        box.start()
        box.ask("a")
        asyncio.run(measure(box, options.runs, options.streams, options.tokens, options.pause))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
