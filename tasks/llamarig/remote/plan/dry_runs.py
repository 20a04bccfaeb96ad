"""Makes many dry runs, several at a time, for one request of the control machine.

    python3 -m llamarig.remote.plan.dry_runs SECONDS PROGRAM <requests.json

``requests.json``: a list of lists of arguments. Prints for each, in their order, ``run=`` and its number, then what
dry_run.py prints. They have the priority of jobs, below that of a server that answers.
"""

from __future__ import annotations

import json
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TextIO

from llamarig.remote.plan.dry_run import relevant_lines

MOST_AT_A_TIME = 8
"""A dry run on simulated cards takes some 100 MiB of RAM; together they have that of one (render/sandboxed_run.py)."""


def at_a_time() -> int:
    """How many dry runs go side by side: one for each CPU that this process may use."""
    return max(1, min(MOST_AT_A_TIME, len(os.sched_getaffinity(0))))


def make(seconds: float, program: str, requests: list[list[str]], output: TextIO) -> None:
    """Make the dry runs and print their output in the order of the requests."""
    with ThreadPoolExecutor(at_a_time()) as pool:
        results = pool.map(lambda arguments: relevant_lines(seconds, [program, *arguments]), requests)
        for number, lines in enumerate(results):
            print(f"run={number}", *lines, sep="\n", file=output)


def main(arguments: list[str]) -> int:
    """Read the requests on stdin, make them, and print what they printed."""
    seconds, program = arguments
    requests = json.load(sys.stdin)
    os.nice(10)
    if not Path(program).exists():
        print(f"error: {program} is not on the box")
        return 1
    make(float(seconds), program, requests, sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
