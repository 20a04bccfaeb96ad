"""Room on the GPUs for dry runs that find none beside the servers: these are stopped meanwhile, and come back.

The box starts them again by itself, by a timer, also where this machine is gone meanwhile; after a boot, what starts at
boot serves.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from llamarig.engine.shell import run_line

TIMER = "llamarig_dry_runs"
"""Name of the transient timer. With an underscore, which no model's name has."""
AWAY_S = 300
"""Seconds for which the servers stay stopped at most, from the last time that the box was told to wait."""


@contextmanager
def servers_stopped(units: Sequence[str], away_s: int = AWAY_S) -> Iterator[Callable[[], None]]:
    """Stop these units while the block runs, and start them again after it.

    The block is given a function that it calls before each dry run: the time begins anew.

    :param away_s: seconds after which the box starts them by itself
    """
    names = shlex.join(units)
    again = f"systemctl stop {TIMER}.timer {TIMER}.service 2>/dev/null"
    timer = f"systemd-run --quiet --collect --on-active={away_s} --unit={TIMER} systemctl start --no-block {names}"

    def wait() -> None:
        if units:
            run_line(f"{again}; {timer} && systemctl stop {names}")

    try:
        wait()
        yield wait
    finally:
        if units:
            # Started first: where the connection breaks off between the two, the timer does the same again.
            run_line(f"systemctl start --no-block {names}; {again}; true")
