"""Runs hf_transfer on one file, in a process of its own that may be killed at any moment.

hf_transfer holds Python's global lock while it works, ends for no signal, and deletes its file when it fails. So it
works on a hard link of the partial file. The child gets its order on stdin, as JSON, because a signed URL is a secret
for an hour and a command line is public; its stdout is a dot for each chunk, then one JSON object: the outcome.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import resource
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from llamarig.remote.download.transfer import (
    CancelledError,
    HfTransferError,
    HfTransferStalledError,
    RangeIgnoredError,
    Transfer,
    without_signature,
)

_MIB = 1024**2
_MEMORY_BESIDE_CHUNKS = 256 * _MIB
_PR_SET_PDEATHSIG = 1
_CHUNKS_TO_TELL = 4
"""Chunks of a file of which one answer that is too long stands out (see ``_wrote_once``)."""


def link_of(part: Path) -> Path:
    """The name that hf_transfer works on, and deletes when it fails."""
    return part.with_name(f"{part.name}.hf_transfer")


def hf_transfer(transfer: Transfer, lock: int, cancelled: threading.Event, progress: Callable[[int], None]) -> bool:
    """Download a whole file; returns whether each byte was surely written only once.

    :param lock: descriptor that the process keeps open while it lives: the model store's lock
    :param progress: called with the number of bytes received so far
    :raises HfTransferError: for any failure; what came may be in the file
    :raises HfTransferStalledError: when no chunk came within ``patience_s``
    :raises RangeIgnoredError: when the server sent more than the file's size; nothing that came is kept
    :raises CancelledError: when ``cancelled`` is set
    """
    part = Path(transfer.part)
    process = subprocess.Popen(
        [sys.executable, "-B", "-m", "llamarig.remote.download.hf_transfer_process"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        bufsize=0,
        env=_environment(transfer.proxy),
        pass_fds=[lock],
    )
    assert process.stdin is not None
    assert process.stdout is not None
    with process:
        try:
            process.stdin.write(json.dumps({**asdict(transfer), "parent": os.getpid()}).encode() + b"\n")
            outcome = _read_output(process.stdout.fileno(), transfer, cancelled, progress)
        except BrokenPipeError:
            outcome = {}  # it ended at once; its exit status says so
        finally:
            process.kill()
            link_of(part).unlink(missing_ok=True)
    if process.returncode == -signal.SIGXFSZ:
        # It had the answer in memory before it wrote it, so a file that is lost here is smaller than that.
        part.unlink()
        raise RangeIgnoredError("the server sent more than the requested range")
    if "error" in outcome:
        raise HfTransferError(f"hf_transfer: {outcome['error']}")
    if process.returncode:
        raise HfTransferError(f"hf_transfer ended with status {process.returncode}")
    return bool(outcome.get("wrote_once"))


def _read_output(
    output: int, transfer: Transfer, cancelled: threading.Event, progress: Callable[[int], None]
) -> dict[str, Any]:
    """Follow the process to its end; returns the outcome it printed."""
    printed, last = b"", time.monotonic()
    while True:
        readable, _, _ = select.select([output], [], [], 0.2)
        if cancelled.is_set():
            raise CancelledError
        if readable:
            data = os.read(output, 65536)
            if not data:
                break
            printed, last = printed + data, time.monotonic()
            progress(min(transfer.size, transfer.chunk * printed.count(b".")))
        elif time.monotonic() - last > transfer.patience_s:
            raise HfTransferStalledError(f"no chunk came within {transfer.patience_s} s")
    text = printed.lstrip(b".").decode(errors="replace")
    return dict(json.loads(text)) if text.endswith("}\n") else {}


def _environment(proxy: str | None) -> dict[str, str]:
    """The declared proxy and no other; hf_transfer takes it from the environment alone."""
    kept = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    # One thread takes in more than one core hashes (1.7 GiB/s, measured); each more costs CPU time and gains nothing.
    kept["TOKIO_WORKER_THREADS"] = "1"
    # Buffers of a chunk's size come and go all the time. Given back to the system, each costs its page faults again
    # (three quarters of the CPU time of a whole download); in several arenas, they leave holes that grow.
    kept.update(MALLOC_ARENA_MAX="1", MALLOC_MMAP_THRESHOLD_=str(32 * _MIB), MALLOC_TRIM_THRESHOLD_=str(256 * _MIB))
    names = ("http_proxy", "https_proxy", "HTTPS_PROXY") if proxy else ()
    return {**kept, **{name: proxy for name in names if proxy}}


# --- in the child ---------------------------------------------------------------------------------------------------


def main() -> None:
    """Carry out the order on stdin."""
    order = json.loads(sys.stdin.readline())
    parent = order.pop("parent")
    transfer = Transfer(**order)
    _limit_process(transfer, parent)
    try:
        _download(transfer)
        outcome: dict[str, Any] = {"wrote_once": _wrote_once(transfer)}
    except Exception as error:  # hf_transfer raises bare Exception for whatever went wrong
        outcome = {"error": without_signature(str(error))}
    os.write(1, json.dumps(outcome).encode() + b"\n")
    sys.exit("error" in outcome)


def _limit_process(transfer: Transfer, parent: int) -> None:
    """Let the kernel limit memory and file size, whatever a server sends, and end this process with its parent."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit(1)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (transfer.size, transfer.size))
    # Python would make an error of it, and hf_transfer a second attempt, over what it has spoiled already.
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    # A chunk is in memory once as it arrives and once as it is written.
    memory = 2 * transfer.connections * transfer.chunk + _MEMORY_BESIDE_CHUNKS
    resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))


def _download(transfer: Transfer) -> None:
    import hf_transfer

    link = link_of(Path(transfer.part))
    os.link(transfer.part, link)
    hf_transfer.download(
        url=transfer.url,
        filename=str(link),
        max_files=transfer.connections,
        chunk_size=transfer.chunk,
        parallel_failures=min(3, transfer.connections),
        max_retries=3,
        headers=transfer.headers,
        callback=lambda size: os.write(1, b"."),
    )


def _wrote_once(transfer: Transfer) -> bool:
    """Whether no byte of the file was written twice, so that what was hashed meanwhile is what is there now.

    hf_transfer writes whatever a server sends for a chunk. A whole file instead of a chunk ends the process at the
    file's size limit, unless it is the first chunk: then the kernel has counted nearly twice the file's size. What else
    a process writes (requests, wake-ups) is below 16 KiB a chunk.
    """
    try:
        counted = re.search(r"^wchar: (\d+)$", Path("/proc/self/io").read_text(), re.MULTILINE)
    except OSError:
        return False
    size = transfer.size
    return counted is not None and size >= _CHUNKS_TO_TELL * transfer.chunk and int(counted[1]) < size + size // 16


if __name__ == "__main__":
    main()
