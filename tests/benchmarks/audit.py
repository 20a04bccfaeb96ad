"""Measure an audit of one box and of twenty at once: `python -m tests.benchmarks.audit [--boxes 20] [--runs 5]`.

Twenty logins to one container stand in for twenty boxes. The container shares this machine's cores, where real boxes
would use their own, so CPU seconds are reported as well as wall-clock time: those of pyinfra, and those of processes
that the logins started in the container. Needs root; makes a box and destroys it. Makes no assertion about times.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tests.benchmarks.converge.measure import RunFailedError, Tool, converged, many_logins, timed
from tests.box import machine
from tests.box.deployment import HOST, REPOSITORY_ROOT, Deployment
from tests.box.paths import Rehearsal, cache_directory

PORT = 25222
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass
class Case:
    """A timed pyinfra script with a number of logins.

    Seconds of each run: ``wall`` of the clock, ``here`` of CPU on this machine, ``there`` of CPU on the box.
    """

    name: str
    boxes: int
    tool: Tool
    deployment: Deployment
    wall: list[float] = field(default_factory=list)
    here: list[float] = field(default_factory=list)
    there: list[float] = field(default_factory=list)


def main() -> int:
    """Start a box, converge it, and time the cases alternately."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.audit", description=__doc__.splitlines()[0])
    parser.add_argument("--boxes", type=int, default=20, metavar="N", help="logins at once")
    parser.add_argument("--runs", type=int, default=5, help="counted runs of each case, after one uncounted run")
    parser.add_argument("--box", default="benchmark-audit-box", help="name of the box; an existing one is reused")
    parser.add_argument("--port", type=int, default=PORT)
    parser.add_argument("--keep", action="store_true", help="leave the box up, for another go")
    options = parser.parse_args()
    box = Rehearsal(cache_directory() / options.box, options.port)
    try:
        with tempfile.TemporaryDirectory(prefix="bench-") as directory:
            measure(converged(box, Path(directory)), Path(directory), options.boxes, options.runs)
    except (machine.BoxError, RunFailedError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    finally:
        if not options.keep:
            machine.destroy(box)
    return 0


def measure(one: Deployment, directory: Path, boxes: int, runs: int) -> None:
    """Time the cases on a converged box and print a table.

    :param boxes: simultaneous logins in the larger cases
    :param runs: counted runs of each case
    :raises RunFailedError: when one fails
    """
    with many_logins(one):
        _measure(one, directory, boxes, runs)


def _measure(one: Deployment, directory: Path, boxes: int, runs: int) -> None:
    empty = directory / "empty.py"
    empty.write_text('"""Connect and do nothing."""\n')
    cases = [
        case(directory, one, f"{name}-{count}", script, count)
        for count in (1, boxes)
        for name, script in (("start", str(empty)), ("audit", "tasks/audit.py"))
    ]
    before = os.getloadavg()[0]
    for item in cases:
        timed(item.tool)
    for _ in range(runs):
        for item in cases:
            run(item, one)
    print(
        f"pyinfra {version('pyinfra')}, Python {platform.python_version()}; {os.cpu_count()} cores, load average "
        f"{before:.2f} before, {os.getloadavg()[0]:.2f} after; {runs} counted runs of each case, alternating"
    )
    print("\n".join(table(cases)))


def case(directory: Path, one: Deployment, name: str, script: str, boxes: int) -> Case:
    """Make a case of ``pyinfra -y inventory.py SCRIPT`` with ``boxes`` inventory entries for the one box."""
    directory_of_case = directory / name
    directory_of_case.mkdir()
    more: list[tuple[str, dict[str, Any]]] = [(f"{HOST}-{number}", {}) for number in range(2, boxes + 1)]
    deployment = Deployment(one.box, directory_of_case, one.rig, more_hosts=more)
    # Keep compiled modules, as any installation does after its first run; see converge/__main__.py.
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    environment |= {**deployment.environment(), "PYTHONPYCACHEPREFIX": str(directory / "compiled"), "LC_ALL": "C.UTF-8"}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    tool = Tool(name, deployment.command(script, "-y"), environment, REPOSITORY_ROOT, directory_of_case / "output")
    return Case(name.rpartition("-")[0], boxes, tool, deployment)


def run(item: Case, box: Deployment) -> None:
    """Time one counted run."""
    before = box_seconds(box)
    wall, here = timed(item.tool)
    item.wall.append(wall)
    item.here.append(here)
    time.sleep(0.5)  # wait until the box's sshd has reaped the last login
    # Includes the cost of reading the value, which is small and the same in every case.
    item.there.append(box_seconds(box) - before)


def box_seconds(box: Deployment) -> float:
    """CPU seconds of the ended children of the box's sshd: logins, their shells and commands."""
    output = box.shell("cut -d' ' -f14-17 /proc/$(systemctl show ssh -p MainPID --value)/stat")
    return sum(int(number) for number in output.split()) / _TICKS


def table(cases: Sequence[Case]) -> list[str]:
    """A Markdown table with one row per case, and a sentence with the time of one audit and of all at once."""
    rows = [
        "| boxes | what | min s | median s | max s | CPU s here, median | CPU s on the box, median |",
        "| ---: | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for item in cases:
        low, middle, high = min(item.wall), statistics.median(item.wall), max(item.wall)
        here, there = statistics.median(item.here), statistics.median(item.there)
        rows.append(
            f"| {item.boxes} | {item.name} | {low:.2f} | {middle:.2f} | {high:.2f} | {here:.2f} | {there:.2f} |"
        )
    start, audit, starts, audits = (statistics.median(item.wall) for item in cases)
    many, ratio_without_start = cases[2].boxes, (audits - starts) / (audit - start)
    return [
        *rows,
        "",
        f"One audit takes {audit - start:.2f} s beyond pyinfra's own start; {many} at once take {audits / audit:.1f} "
        f"times as long as one ({ratio_without_start:.1f} times beyond the starts).",
    ]


if __name__ == "__main__":
    sys.exit(main())
