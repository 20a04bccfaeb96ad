"""Compares a started server's pinned memory with what it should have.

Runs on the box as part of a switch. llama-server's log does not show it: a refused pinned allocation is only a debug
line, and the weights are then in pageable memory.
"""

from __future__ import annotations

import re
from pathlib import Path

from llamarig.remote.shared.pinned_pages import PRICE, is_pageable


def shared_mib(pid: str) -> int | None:
    """Return the shared memory of a process in RAM (RssShmem) in MiB; None where the kernel does not report it."""
    try:
        found = re.search(r"^RssShmem:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    except OSError:
        return None
    return int(found[1]) // 1024 if found else None


def pageable_warning(pid: str, pinned_mib: int | None) -> str:
    """Return a warning where the server's weights should be pinned and are not; else an empty text.

    :param pinned_mib: MiB of weights that should be pinned, None where none should
    """
    shared = shared_mib(pid)
    if not pinned_mib or shared is None or not is_pageable(shared, pinned_mib):
        return ""
    return (
        f"its weights in RAM are not pinned ({shared} MiB of shared memory, {pinned_mib} MiB of weights), {PRICE}; "
        "restart it when memory is free"
    )
