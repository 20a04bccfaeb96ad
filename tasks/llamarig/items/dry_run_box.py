"""Dry runs of models that are on no box yet, in batches, on simulated cards: on a box with a release, for any box.

Simulated cards take the same memory to the MiB (tests/gpu/RESULTS.md) and nothing of the real ones, so that a server
that runs loses none of its memory, and dry runs can go side by side.
"""

from __future__ import annotations

import base64
import json
import re
import secrets
import shlex
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeVar

from pyinfra.api.host import Host

from llamarig.declare.build import Build
from llamarig.declare.simulated_gpu import SimulatedGpu
from llamarig.engine.shell import run_line
from llamarig.items.placements import PlanError
from llamarig.placement.devices import simulation_environment
from llamarig.placement.dry_run import PROGRAM, TIMEOUT_S
from llamarig.placement.side_by_side import Steps
from llamarig.render import layout
from llamarig.render.sandboxed_run import dry_run_sandbox, our_program, sandboxed

T = TypeVar("T")

PROGRAMS = ("plan/dry_runs.py", "plan/place_headers.py")
"""Our programs that a box needs for this, below llamarig/remote."""
_MOST_A_COMMAND = 64
"""Dry runs of one command: some 10 KB of output each."""
_COMMAND_S = 900


@dataclass(frozen=True)
class DryRunBox:
    """A box that makes dry runs. ``release``: its directory; ``flags`` and ``architectures``: that it knows.

    ``library``: of simulated GPUs, compiled for its llama.cpp.
    """

    host: Host
    build: Build
    release: str
    flags: frozenset[str]
    architectures: frozenset[str]
    library: str

    @property
    def commit(self) -> str:
        """Of its llama.cpp, shortened."""
        return self.build.source.commit[:12]


@dataclass
class Batches:
    """Performs dry runs on a box. ``runs`` and ``commands``: how many there were."""

    box: DryRunBox
    directory: str
    cards: tuple[SimulatedGpu, ...]
    runs: int = 0
    commands: int = 0
    _known: dict[tuple[str, ...], str] = field(default_factory=dict)

    def perform(self, steps: Steps[Sequence[str], str, T]) -> T:
        """Make the dry runs that a generator asks for, all of a round with one command; return its result.

        :raises PlanError: where the box cannot make them
        """
        try:
            requests = next(steps)
            while True:
                requests = steps.send(self._outputs(requests))
        except StopIteration as end:
            result: T = end.value
            return result

    def _outputs(self, requests: Sequence[Sequence[str]]) -> list[str]:
        missing = [key for key in dict.fromkeys(map(tuple, requests)) if key not in self._known]
        for start in range(0, len(missing), _MOST_A_COMMAND):
            some = missing[start : start + _MOST_A_COMMAND]
            self._known |= dict(zip(some, self._made(some), strict=True))
        return [self._known[tuple(request)] for request in requests]

    def _made(self, requests: Sequence[tuple[str, ...]]) -> Iterator[str]:
        box, environment = self.box, {"GGML_NO_BACKTRACE": "1"}
        if self.cards:
            environment |= simulation_environment(self.cards, box.library)
        read = [self.directory, *([box.library] if self.cards else ())]
        words = our_program("plan.dry_runs", [str(TIMEOUT_S), f"{box.release}/bin/{PROGRAM}"])
        line = sandboxed(dry_run_sandbox(box.build, box.release, read), words, environment, _COMMAND_S)
        done, output = run_line(line, box=box.host, stdin=json.dumps(requests))
        self.runs += len(requests)
        self.commands += 1
        found = outputs_of(str(output.stdout))
        if not done or set(found) != set(range(len(requests))):
            raise PlanError(_failure(box.host.name, str(output.stdout), str(output.stderr)))
        return (found[number] for number in range(len(requests)))


def outputs_of(text: str) -> dict[int, str]:
    """Number of a dry run -> what it printed, of the output of remote/plan/dry_runs.py."""
    parts = re.split(r"^run=(\d{1,9})$\n?", text, flags=re.MULTILINE)
    return {int(number): printed for number, printed in zip(parts[1::2], parts[2::2], strict=True)}


def _failure(name: str, output: str, errors: str) -> str:
    if "No module named" in errors:
        return f"llamarig's programs on {name} are older than this repository: run deploy.py there"
    lines = [line for line in (*output.splitlines()[:1], *errors.splitlines()[-2:]) if line.strip()]
    return f"dry runs on {name} failed: {' | '.join(lines) or 'no output'}"


@contextmanager
def placed_headers(
    box: DryRunBox, cards: tuple[SimulatedGpu, ...], headers: Mapping[str, tuple[bytes, int]]
) -> Iterator[Batches]:
    """Put headers on a box for as long as dry runs are made with them.

    :param headers: name of the file -> its bytes, and the size it is to have
    :raises PlanError: where that fails
    """
    directory = f"{layout.HEADERS}/.choose-{secrets.token_hex(4)}"
    packed = {name: (base64.b64encode(zlib.compress(data)).decode(), size) for name, (data, size) in headers.items()}
    # What a run that was killed has left is removed by a later one.
    old = f"find {layout.HEADERS} -maxdepth 1 -name '.choose-*' -mmin +1440 -exec rm -rf {{}} + 2>/dev/null"
    words = shlex.join(our_program("plan.place_headers", [directory]))
    try:
        done, output = run_line(f"{old}; cd {layout.PROGRAMS} && {words}", box=box.host, stdin=json.dumps(packed))
        if not done:
            raise PlanError(_failure(box.host.name, str(output.stdout), str(output.stderr)))
        yield Batches(box, directory, cards)
    finally:
        run_line(f"rm -rf {directory}", box=box.host)
