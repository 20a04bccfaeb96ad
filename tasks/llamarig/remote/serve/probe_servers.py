"""Liveness probe: restarts a model server of this box that no longer completes requests. A timer runs it every minute.

A server with an API key that answers without it is stopped: it is open to everyone who reaches its port.

A server whose compute loop hangs still answers /health, from another thread. A server that is loading, asleep, or busy
and making progress is not disturbed. An idle one is sent a request for one token only after an hour without other
evidence that it works, because with a single slot that request evicts the user's cached prompt. A server that hides
its slots (slots=False) is not probed: busy and hung look the same there.

Each server is probed in a thread of its own, so that one that answers nonsense, or a byte a minute, takes no other's
turn.
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
from llamarig.remote.serve.key_file import first_key
from llamarig.remote.serve.model_units import run
from llamarig.remote.serve.open_servers import is_open
from llamarig.remote.shared.durable import replace_file
from llamarig.remote.shared.printable import printable
from llamarig.remote.shared.record import Record
from llamarig.remote.shared.server_client import NoAnswerError, Server

REQUEST_AFTER_S = 3600.0
"""Seconds after the last completion until an idle server is sent a request."""
ANSWER_WITHIN_S = 120.0
STRIKES = 3
"""Failed rounds before a restart: one batch of a long prompt can take more than a minute."""
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
    correction of the time moves.
    """

    slots: Optional[tuple[Slot, ...]] = None
    strikes: int = 0
    worked_at: Optional[float] = None


def probe(unit: str, pid: str, key: str | None, known: ServerState, now: float) -> ServerState:
    """Probe a server once; return its state after this round.

    :param known: its state after the last round
    :param now: seconds on the monotonic clock
    :raises OSError: when it has ended, or does not answer /props as a llama-server does
    """
    server = Server.of_process(pid, key)
    if not server.is_healthy():
        return replace(known, strikes=0)  # loading; or down, which systemd handles
    if server.get("/props").get("is_sleeping"):
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
        return ServerState(slots=current, worked_at=now if works else known.worked_at)
    if any(slot.busy for slot in current):
        return replace(known, strikes=known.strikes + 1)  # busy without progress
    if known.worked_at is not None and now - known.worked_at < REQUEST_AFTER_S and not known.strikes:
        return known
    try:
        server.post("/completion", {"prompt": "1", "n_predict": 1, "cache_prompt": False}, timeout=ANSWER_WITHIN_S)
    except NoAnswerError as error:
        if 400 <= error.status < 500:  # refused at once, for a key or a limit: not hung
            return replace(known, strikes=0, worked_at=now)
        print(f"{unit} answers /health but no completion ({printable(str(error))})")
        return replace(known, strikes=known.strikes + 1)
    return ServerState(slots=current, worked_at=now)


class SilentError(Exception):
    """No answer to a request that the compute loop has to answer."""


def slots(server: Server) -> tuple[Slot, ...] | None:
    """Read the slots of a server; None where it hides them.

    :raises SilentError: when the compute loop does not answer, which it does between two batches
    """
    try:
        answer = server.get_list("/slots", timeout=ANSWER_WITHIN_S)
    except NoAnswerError as error:
        if error.answered:
            return None
        raise SilentError from None
    return tuple(
        Slot(
            busy=bool(slot.get("is_processing", False)),
            task=_number(slot.get("id_task")),
            prompt_tokens=_number(slot.get("n_prompt_tokens_processed")),
            decoded=tuple(_number(token.get("n_decoded")) for token in _objects(slot.get("next_token"))[:_MOST_SLOTS]),
        )
        for slot in answer[:_MOST_SLOTS]
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


def key_of(unit: str) -> str | None:
    """Return the first API key of the unit's key file; None for a unit without one.

    :raises OSError: for a missing file, or one without a usable key
    """
    text = (model_units.UNITS / unit).read_text()
    found = re.search(r"^LoadCredential=api-key:(.+)$", text, re.MULTILINE)
    return None if found is None else first_key(found[1])


def main(state_file: Path) -> None:
    """Probe every server once."""
    servers = _running_servers()
    known = _stored(state_file)
    with ThreadPoolExecutor(max(1, len(servers))) as pool:
        probed = {unit: pool.submit(_state_after, unit, pid, known) for unit, pid in servers.items()}
    states = {f"{unit} {servers[unit]}": future.result() for unit, future in probed.items()}
    after = {process: state.to_json() for process, state in states.items() if state is not None}
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
        print(f"{unit} has an API key and answers without it, so everyone can use it: stopping it. Run deploy.py")
        run(["systemctl", "stop", unit])
        return None
    before = ServerState.from_stored(known.get(f"{unit} {pid}"))
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
    print(f"{unit} has completed nothing for {STRIKES} rounds although /health answers 200: restarting it")
    # SIGTERM is handled by the loop that hangs.
    run(["systemctl", "kill", "--signal=KILL", unit])
    run(["systemctl", "restart", "--no-block", unit])
    return None


if __name__ == "__main__":
    main(Path(sys.argv[1]))
