"""Time whole processes, one at a time, and summarise the runs."""

from __future__ import annotations

import os
import statistics
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.box import local_hub, machine
from tests.box.deployment import Deployment, rehearsal_rig, wait_for
from tests.box.hub import Hub
from tests.box.paths import Rehearsal

# Ten inventory entries open ten connections at once; by default sshd drops some from the tenth on (MaxStartups).
_SSHD = "MaxStartups 200\\nMaxSessions 100\\n"
_SSHD_FILE = "/etc/ssh/sshd_config.d/10-benchmark.conf"


@dataclass(frozen=True)
class Tool:
    """A command to time: its command line, environment, directory, and the file for its output."""

    name: str
    argv: Sequence[str]
    environment: Mapping[str, str]
    directory: Path
    log: Path


@dataclass
class Series:
    """Seconds of each run: ``wall`` of the clock, ``cpu`` of the process and its children on this machine."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)


class RunFailedError(Exception):
    """A run that was to be timed failed."""


def converged(box: Rehearsal, directory: Path) -> Deployment:
    """Start the box, make it if necessary, and deploy once.

    :raises RunFailedError: if the deploy fails
    """
    machine.up(box)
    local_hub.make_model(box)
    one = Deployment(box, directory / "one", rehearsal_rig(box))
    one.directory.mkdir()
    with Hub(box.hub_directory, box.hub_port, box.hub_port + 1) as hub:
        hub.add_root()
        first = one.run()
    if first.code:
        raise RunFailedError(f"the box did not converge: {first}")
    return one


@contextmanager
def many_logins(box: Deployment) -> Iterator[None]:
    """Let the box's sshd accept many simultaneous logins; restore its settings afterwards."""
    _change_sshd(box, f"printf '{_SSHD}' >{_SSHD_FILE}")
    try:
        yield
    finally:
        _change_sshd(box, f"rm {_SSHD_FILE}")


def _change_sshd(box: Deployment, command: str) -> None:
    """Run the command, reload sshd, and wait: sshd restarts shortly after the reload and refuses logins meanwhile."""
    box.shell(f"{command} && systemctl reload ssh")
    time.sleep(0.5)
    wait_for(lambda: machine.ssh(box.box, "true", check=False).returncode == 0, "sshd after its reload")


def timed(tool: Tool) -> tuple[float, float]:
    """Run a tool once; return wall-clock and CPU seconds.

    :raises RunFailedError: if its exit status is not 0
    """
    with tool.log.open("wb") as log:
        began = time.perf_counter()
        process = subprocess.Popen(
            tool.argv, cwd=tool.directory, env=tool.environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - began
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        end = "\n".join(tool.log.read_text(errors="replace").splitlines()[-30:])
        raise RunFailedError(f"{tool.name} exited with {process.returncode}:\n{end}")
    return wall, usage.ru_utime + usage.ru_stime


def alternately(tools: Sequence[Tool], runs: int, uncounted: bool = True) -> dict[str, Series]:
    """Time the tools in alternation (A B A B ...), so that load affects all alike.

    :param uncounted: begin with one uncounted run each, after which nothing has to be read from the disk
    """
    for tool in tools if uncounted else ():
        timed(tool)
    series = {tool.name: Series() for tool in tools}
    for _ in range(runs):
        for tool in tools:
            wall, cpu = timed(tool)
            series[tool.name].wall.append(wall)
            series[tool.name].cpu.append(cpu)
    return series


def table(entries: int, series: Mapping[str, Series], base: str, other: str) -> list[str]:
    """Rows of a Markdown table: one for each tool, and the ratio of the medians of ``other`` and ``base``."""
    rows = []
    for name, seconds in series.items():
        low, middle, high = min(seconds.wall), statistics.median(seconds.wall), max(seconds.wall)
        cpu = statistics.median(seconds.cpu)
        rows.append(f"| {entries} | {name} | {low:.2f} | {middle:.2f} | {high:.2f} | {cpu:.2f} |")
    wall = statistics.median(series[other].wall) / statistics.median(series[base].wall)
    cpu = statistics.median(series[other].cpu) / statistics.median(series[base].cpu)
    return [*rows, f"| {entries} | **{base} is** | | **1/{wall:.1f}** | | 1/{cpu:.1f} |"]
