"""Compares what a started server holds in pinned memory with what it should hold.

Runs on the box as part of a switch. Its log does not say it: a refused pinned allocation is a debug line, after which
the weights are ordinary memory.
"""

from __future__ import annotations

import re
from pathlib import Path

from tasks.planning.pinned_pages import PRICE, is_pageable


def shared_mib(pid: str) -> int | None:
    """MiB of shared memory that a process has in RAM (RssShmem); None where the kernel does not tell."""
    try:
        found = re.search(r"^RssShmem:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    except OSError:
        return None
    return int(found[1]) // 1024 if found else None


def not_pinned(pid: str, pinned_mib: int | None) -> str:
    """What its owner should know of weights that are not pinned; empty where they are, or where nothing is expected.

    :param pinned_mib: MiB of weights that should be pinned
    """
    shared = shared_mib(pid)
    if not pinned_mib or shared is None or not is_pageable(shared, pinned_mib):
        return ""
    return (
        f"its weights in RAM are not pinned ({shared} MiB of shared memory, {pinned_mib} MiB of weights), {PRICE}; "
        "restart it when memory is free"
    )
