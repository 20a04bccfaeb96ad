"""The Hub of the rehearsal: make the tiny model and serve it from a background process that outlives the rehearsal."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

from tests.box.host import BoxError, say
from tests.box.paths import ADDRESS, Rehearsal

REPOSITORY = "llamarig/Tiny-Qwen3-Next-GGUF"
SEED = 20260


def make_model(rehearsal: Rehearsal) -> Path:
    """Return the directory of the tiny model's files; make them from a fixed seed if they are missing."""
    directory = rehearsal.hub_directory / REPOSITORY / "F16"
    if not directory.exists():
        part = directory.with_suffix(".part")
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        # It needs numpy, which a bare python3 lacks; that one stops the Hub when it destroys the box.
        from tests.box.tiny_model import write_shards

        write_shards(part, "Tiny-Qwen3-Next-F16", seed=SEED)
        part.rename(directory)
    return directory


def start(rehearsal: Rehearsal) -> None:
    """Make the model if it is missing, and serve it until `stop` or a reboot of this machine."""
    make_model(rehearsal)
    if is_up(rehearsal):
        return
    stop(rehearsal)
    say(f"Starting the stand-in for the Hugging Face Hub on {ADDRESS}:{rehearsal.hub_port}.")
    command = [sys.executable, "-m", "tests.box.serve_hub", "--root", str(rehearsal.hub_directory)]
    command += ["--port", str(rehearsal.hub_port), "--cdn-port", str(rehearsal.hub_port + 1)]
    with (rehearsal.directory / "hub.log").open("w") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
    _pid_file(rehearsal).write_text(str(process.pid))
    deadline = time.monotonic() + 20
    while not is_up(rehearsal):
        if process.poll() is not None or time.monotonic() > deadline:
            raise BoxError(f"The stand-in Hub did not start: see {rehearsal.directory / 'hub.log'}.")
        time.sleep(0.1)


def stop(rehearsal: Rehearsal) -> None:
    """Stop the server, unless its process id belongs to another program by now."""
    try:
        pid = int(_pid_file(rehearsal).read_text())
        if b"tests.box.serve_hub" in Path(f"/proc/{pid}/cmdline").read_bytes():
            os.kill(pid, signal.SIGTERM)
    except (OSError, ValueError):
        pass  # it was never started, or has ended
    _pid_file(rehearsal).unlink(missing_ok=True)


def is_up(rehearsal: Rehearsal) -> bool:
    """Return whether the Hub answers and has the tiny model."""
    url = f"http://{ADDRESS}:{rehearsal.hub_port}/api/models/{REPOSITORY}"
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=2) as response:
            return bool(response.status == 200)
    except OSError:
        return False


def _pid_file(rehearsal: Rehearsal) -> Path:
    return rehearsal.directory / "hub.pid"
