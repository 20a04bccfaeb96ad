"""Starts and stops the units of a box's models for the front, as root, one request a connection.

    unit_helper.py UNITS_FILE

The front is an unprivileged user and parses what strangers send. All that it can have done as root is in here: systemd
starts this program for each connection to a socket that only the front's group may open. A request is one line: a
verb, and for most a name of UNITS_FILE, a file of root's. No other unit can be named, and nothing of the request is
passed on.

    start NAME     start the unit of that model, and wait until it answers or has failed
    stop NAME      stop it
    key NAME       the key that its server wants
    gpus           memory of NVIDIA's cards, as nvidia-smi prints it

The answer is `ok` or `failed` on a line of its own, and then the key, the cards, or the reason.
Unit files call it by its path, so it must not be moved.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path

# Started by its path and with -I, which leaves out the directory that our programs are imported from.
sys.path.append(str(Path(__file__).resolve().parents[3]))

from llamarig.remote.serve.key_file import first_key
from llamarig.remote.serve.model_units import last_lines
from llamarig.remote.shared.deadline import run_within
from llamarig.remote.shared.printable import printable

_LONGEST_REQUEST = 200
"""Bytes: a verb and a name of at most 60 characters."""
_STARTS_WITHIN_S = 7200
"""Seconds; the unit's own TimeoutStartSec= ends a start long before."""
_STOPS_WITHIN_S = 300
_GPUS = ("nvidia-smi", "--query-gpu=name,memory.used,memory.total", "--format=csv,noheader,nounits")
_LINES_OF_REASON = 3


class RefusedError(Exception):
    """The request is none of those above, or names no unit of the file; the message says which."""


def answer(request: bytes, units: dict[str, dict[str, str]]) -> tuple[bool, str]:
    """Do what a request says; return whether that succeeded, and the text of the answer.

    :param units: name of a model -> ``unit``, and ``key_file`` if its server has a key
    :raises RefusedError: for any other request
    """
    words = request.decode("ascii", "replace").split()
    if words == ["gpus"]:
        return _gpus()
    if len(words) != 2 or words[0] not in ("start", "stop", "key"):
        raise RefusedError("no such request")
    verb, name = words
    if name not in units:
        raise RefusedError("no such model")
    if verb == "key":
        return _key(units[name].get("key_file", ""))
    return _switch(verb, units[name]["unit"])


def _switch(verb: str, unit: str) -> tuple[bool, str]:
    if verb == "start":
        # One that has failed too often in a row is started again, since a client asks for it.
        _systemctl("reset-failed", unit, within_s=_STOPS_WITHIN_S)
    problem = _systemctl(verb, unit, within_s=_STARTS_WITHIN_S if verb == "start" else _STOPS_WITHIN_S)
    if problem is None:
        return True, ""
    lines = [line.strip() for line in last_lines(unit) if line.strip()]
    return False, "; ".join(map(printable, lines[-_LINES_OF_REASON:] or [problem]))


def _systemctl(verb: str, unit: str, within_s: float) -> str | None:
    """Run systemctl; return what went wrong, None where nothing did."""
    try:
        done = run_within(["systemctl", verb, unit], within_s)
    except subprocess.TimeoutExpired:
        return f"systemctl {verb} does not end"
    except OSError as error:
        return f"systemctl cannot be run: {error.strerror}"
    return None if done.returncode == 0 else done.stderr.strip() or f"systemctl {verb} failed"


def _key(path: str) -> tuple[bool, str]:
    if not path:
        return True, ""
    try:
        return True, first_key(path)
    except OSError as error:
        return False, str(error)


def _gpus() -> tuple[bool, str]:
    try:
        done = run_within(_GPUS, 10)
    except (OSError, subprocess.TimeoutExpired):
        return False, ""
    return done.returncode == 0, done.stdout


def main(units_file: str) -> int:
    """Answer the request on standard input, on standard output."""
    units = json.loads(Path(units_file).read_text())
    try:
        succeeded, text = answer(sys.stdin.buffer.readline(_LONGEST_REQUEST), units)
    except RefusedError as error:
        succeeded, text = False, str(error)
    with contextlib.suppress(OSError):  # the front has been stopped meanwhile
        os.write(sys.stdout.fileno(), f"{'ok' if succeeded else 'failed'}\n{text}".encode("utf-8", "replace"))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
