"""Liveness probe: restarts a model server of this box that no longer completes requests. A timer runs it every minute.

A server with an API key that answers without it is stopped: it is open to everyone who reaches its port. One that is
placed on a GPU and found none, say at boot, serves from the CPU and is healthy: it is restarted once, and reported.

A server whose compute loop hangs still answers /health, from another thread. A server that is loading, asleep, or busy
and making progress is not disturbed. An idle one is sent a request for one token only after an hour without other
evidence that it works, because with a single slot that request evicts the user's cached prompt. A server that hides
its slots (slots=False) is not probed: busy and hung look the same there.

Each server is probed in a thread of its own, so that one that answers nonsense, or a byte a minute, takes no other's
turn.

No server is restarted or stopped while a switch is under way. A switch stops servers that a round still waits for: a
connection that it resets does not count as a hang.
"""

from __future__ import annotations

import json
import re
import sys
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Optional

from llamarig.remote.serve import model_units
from llamarig.remote.serve.model_units import key_of, run, state_of
from llamarig.remote.serve.open_servers import is_open
from llamarig.remote.serve.proof_requests import probing_request
from llamarig.remote.serve.switch_journal import JOURNAL, journal_lock
from llamarig.remote.shared.durable import replace_file
from llamarig.remote.shared.gpu_use import FIRST_LINES, no_gpu_line
from llamarig.remote.shared.printable import printable
from llamarig.remote.shared.record import Record
from llamarig.remote.shared.server_client import NoAnswerError, Server, arguments_of, object_of, objects_of
from llamarig.remote.shared.server_url import url_of

REQUEST_AFTER_S = 3600.0
"""Seconds after the last completion until an idle server is sent a request."""
ANSWER_WITHIN_S = 120.0
STRIKES = 3
"""Failed rounds before a restart: one batch of a long prompt can take more than a minute."""
RECORDS = Path("/var/lib/llamarig/proofs")
"""Directory with the lock of switches, and the journal of an unfinished one."""
_LOCK_WAIT_S = 5.0
"""Seconds for another thread to release that lock. A switch holds it for as long as it runs."""
_MOST_SLOTS = 256
"""llama.cpp's LLAMA_MAX_SEQ. More are not read, so that no answer makes the stored state large."""


@dataclass(frozen=True)
class Slot(Record):
    """Activity of a slot: its task, prompt tokens processed, and tokens generated; -1 where not reported."""

    busy: bool
    task: int
    prompt_tokens: int
    decoded: tuple[int, ...]


@dataclass(frozen=True)
class ServerState(Record):
    """What the last rounds found of a server process.

    ``slots``: None before the first round; ``strikes``: failed rounds in a row; ``worked_at``: time of the last
    evidence that it completes requests, None before there is any, in seconds on the box's monotonic clock, which no
    correction of the time moves; ``gpu``: whether it found the GPU that its model is placed on.
    """

    slots: Optional[tuple[Slot, ...]] = None
    strikes: int = 0
    worked_at: Optional[float] = None
    gpu: str = ""


_FOUND, _RESTARTING, _NONE_BEFORE, _NONE = "found or not needed", "restarting", "none before the restart", "none"
"""Values of ``ServerState.gpu``; empty before the server was ready. The last is kept: it is restarted only once."""


def probe(unit: str, pid: str, key: str | None, known: ServerState, now: float) -> ServerState:
    """Probe a server once; return its state after this round.

    :param known: its state after the last round
    :param now: seconds on the monotonic clock
    :raises OSError: when it has ended, or does not answer /props as a llama-server does
    """
    arguments = arguments_of(pid)
    server = Server(url_of(arguments), key)
    if not server.is_healthy():
        return replace(known, strikes=0)  # loading; or down, which systemd handles
    if known.gpu in ("", _NONE_BEFORE):
        known = replace(known, gpu=_look_for_gpu(unit, pid, known.gpu))
        if known.gpu == _RESTARTING:
            return known
    if server.take("/props", lambda answer: bool(object_of(answer).get("is_sleeping"))):
        return replace(known, strikes=0, worked_at=now)
    try:
        current = slots(server)
    except SilentError:
        return replace(known, strikes=known.strikes + 1)
    if current is None:
        return known
    if current != known.slots:
        # A token was generated or a request ended since the last round. The first round of an idle server proves
        # nothing yet.
        works = known.slots is not None or any(slot.busy for slot in current)
        return replace(known, slots=current, strikes=0, worked_at=now if works else known.worked_at)
    if any(slot.busy for slot in current):
        return replace(known, strikes=known.strikes + 1)  # busy without progress
    if known.worked_at is not None and now - known.worked_at < REQUEST_AFTER_S and not known.strikes:
        return known
    request = probing_request(arguments)
    try:
        server.take(request.path, lambda answer: bool(object_of(answer)), ANSWER_WITHIN_S, body=request.body)
    except NoAnswerError as error:
        if 400 <= error.status < 500:  # refused at once, for a key or a limit: not hung
            return replace(known, strikes=0, worked_at=now)
        print(f"{unit} answers /health but no {request.what} ({printable(str(error))})")
        return replace(known, strikes=known.strikes + 1)
    return replace(known, slots=current, strikes=0, worked_at=now)


class SilentError(Exception):
    """No answer to a request that the compute loop has to answer."""


def slots(server: Server) -> tuple[Slot, ...] | None:
    """Read the slots of a server; None where it hides them.

    :raises SilentError: when the compute loop does not answer, which it does between two batches
    """
    try:
        return server.take("/slots", _slots_of, ANSWER_WITHIN_S)
    except NoAnswerError as error:
        if error.answered:
            return None
        raise SilentError from None


def _slots_of(answer: Any) -> tuple[Slot, ...]:
    return tuple(
        Slot(
            busy=bool(slot.get("is_processing", False)),
            task=_number(slot.get("id_task")),
            prompt_tokens=_number(slot.get("n_prompt_tokens_processed")),
            decoded=tuple(_number(token.get("n_decoded")) for token in _objects(slot.get("next_token"))[:_MOST_SLOTS]),
        )
        for slot in objects_of(answer)[:_MOST_SLOTS]
    )


def _number(value: Any) -> int:
    """Return an integer of an answer; -1 for any other value."""
    return value if isinstance(value, int) else -1


def _objects(value: Any) -> list[dict[str, Any]]:
    """Return the objects in a list; an empty list for any other value."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _running_servers() -> dict[str, str]:
    """Return the PID of each running model unit. Only the names of units that are no model's have an underscore."""
    units = run(["systemctl", "list-units", "--plain", "--no-legend", "--state=active", "llamarig-*.service"])
    names = [line.split()[0] for line in units.splitlines() if line.strip()]
    models = [name for name in names if "_" not in name]
    found = {name: run(["systemctl", "show", name, "-p", "MainPID", "--value"]).strip() for name in models}
    return {name: pid for name, pid in found.items() if pid not in ("", "0")}


def main(state_file: Path) -> None:
    """Probe every server once."""
    servers = _running_servers()
    known = _stored(state_file)
    with ThreadPoolExecutor(max(1, len(servers))) as pool:
        probed = {unit: pool.submit(_state_after, unit, pid, known) for unit, pid in servers.items()}
    states = {f"{unit} {servers[unit]}": future.result() for unit, future in probed.items()}
    after = {process: state.to_json() for process, state in states.items() if state is not None}
    # Those between two starts too, or each of them would be restarted once more.
    without_gpu = {process: state for process, state in known.items() if _lacks_gpu(state)}
    after |= {process: state for process, state in without_gpu.items() if process.partition(" ")[0] not in servers}
    replace_file(state_file, json.dumps(after))


def _stored(state_file: Path) -> dict[str, Any]:
    """Return the stored states, by unit and PID; none from a missing or damaged file."""
    try:
        states = json.loads(state_file.read_text())
    except (OSError, ValueError):
        return {}
    return states if isinstance(states, dict) else {}


def _state_after(unit: str, pid: str, known: dict[str, Any]) -> ServerState | None:
    """Probe a server, and restart it if it hangs; return its state, None where there is none to remember."""
    if is_open(pid):
        reason = "has an API key and answers without it, so everyone can use it: stopping it. Run deploy.py"
        _unless_switched(unit, pid, "stop", reason)
        return None
    before = ServerState.from_stored(known.get(f"{unit} {pid}"))
    if not before.gpu and any(_lacks_gpu(known[process]) for process in known if process.startswith(f"{unit} ")):
        before = replace(before, gpu=_NONE_BEFORE)
    try:
        state = probe(unit, pid, key_of(unit), before, time.monotonic())
    except OSError as error:  # it has ended in between, or refuses even /props
        print(f"{unit} was not probed: {printable(str(error))}")
        return None
    except Exception:  # whatever this server made of us, the others' states have to be stored
        print(f"{unit} was not probed:", traceback.format_exc(), sep="\n")
        return None
    if state.strikes < STRIKES:
        return state
    # Only where it still runs. The loop that hangs also handles SIGTERM, so systemd kills it after TimeoutStopSec.
    reason = f"has completed nothing for {STRIKES} rounds although /health answers 200: restarting it"
    return None if _unless_switched(unit, pid, "try-restart", reason) else state


def _unless_switched(unit: str, pid: str, command: str, reason: str) -> bool:
    """Tell systemd to stop or restart the unit whose process was probed; return False while a switch is under way.

    :param reason: why, then what is done about it, with a colon between them
    """
    try:
        with journal_lock(RECORDS, wait_s=_LOCK_WAIT_S):
            # An interrupted switch is undone soon, and then decides what serves. An open server does not wait for that.
            if command != "stop" and (RECORDS / JOURNAL).exists():
                raise BlockingIOError
            if state_of(unit)["MainPID"] == pid:
                print(f"{unit} {reason}")
                run(["systemctl", command, "--no-block", unit])
    except OSError as error:
        why = "a switch is under way" if isinstance(error, BlockingIOError) else f"{error.strerror}: {error.filename}"
        print(f"{unit} {reason.rpartition(': ')[0]}: left alone in this round ({why})")
        return False
    return True


def _lacks_gpu(stored: Any) -> bool:
    """Whether a process is known to have found no GPU."""
    return ServerState.from_stored(stored).gpu in (_RESTARTING, _NONE_BEFORE, _NONE)


def _look_for_gpu(unit: str, pid: str, before: str) -> str:
    """Look whether a server that is ready has found its GPU; restart it if it has not, but only once.

    By its log alone: another user's open devices are hidden from this program, which has no capability.

    :param before: value of ``gpu``
    :returns: its new value
    """
    text = (model_units.UNITS / unit).read_text()
    # A build without GPUs has no devices at all (PrivateDevices=).
    wanted = re.search(r"^DevicePolicy=closed$", text, re.MULTILINE) and not re.search(r"--n-gpu-layers 0\b", text)
    line = no_gpu_line(model_units.log_of(unit, first=FIRST_LINES)) if wanted else ""
    if not line:
        return _FOUND
    on_cpu = f"serves from the CPU, although its model is placed on a GPU ({printable(line)})"
    if before == _NONE_BEFORE:
        print(f"{unit} {on_cpu}, also after a restart: see whether the driver works (nvidia-smi, vulkaninfo, rocminfo)")
        return _NONE
    return _RESTARTING if _unless_switched(unit, pid, "try-restart", f"{on_cpu}: restarting it") else ""


if __name__ == "__main__":
    main(Path(sys.argv[1]))
