"""Asks every running model server of this box for a sign of life, and restarts one that has stopped completing.

A server whose compute loop hangs still answers /health: that answer comes from another thread. Run every minute by a
timer. It never disturbs a server that works: one that is loading, asleep, or busy and getting on is left alone, and an
idle one is asked for a token only when nothing else has shown for an hour that it completes, because with one slot a
question costs its owner the cached prompt. One that hides its slots (slots=False) is not probed: nothing would tell
busy from hung. Standard library only, Python 3.9 or newer.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from tasks.files.key_file import first_key
from tasks.files.server_client import NoAnswerError, Server

ASK_EVERY_S = 3600.0
"""An idle server is asked for a token this long after the last sign that it completes."""
ANSWER_WITHIN_S = 120.0
STRIKES = 3
"""Rounds without a sign of life before a restart: one batch of a long prompt can take more than a minute."""


def probe(unit: str, pid: str, key: str | None, known: dict[str, Any], now: float) -> dict[str, Any]:
    """What is known of a server after this round; ``strikes`` counts the rounds in which it did not complete.

    :param known: what was known after the last one, empty for a process never seen before
    """
    server = Server.of_process(pid, key)
    if not server.is_healthy():
        return {**known, "strikes": 0}  # loading; or down, which is systemd's business
    if server.get("/props").get("is_sleeping"):
        return {**known, "strikes": 0, "asked": now}
    try:
        seen = slots(server)
    except SilentError:
        return {**known, "strikes": known.get("strikes", 0) + 1}
    if seen is None:
        return known
    if seen != known.get("slots"):
        # Since the last round a token came or a request ended. The first look at an idle server shows nothing yet.
        alive = "slots" in known or any(slot[0] for slot in seen)
        return {"slots": seen, "strikes": 0, "asked": now if alive else known.get("asked", 0.0)}
    if any(slot[0] for slot in seen):
        return {**known, "strikes": known.get("strikes", 0) + 1}  # busy, and not one token further
    if now - known.get("asked", 0.0) < ASK_EVERY_S and not known.get("strikes"):
        return known
    try:
        server.post("/completion", {"prompt": "1", "n_predict": 1, "cache_prompt": False}, timeout=ANSWER_WITHIN_S)
    except NoAnswerError as error:
        if 400 <= error.status < 500:  # refused by a key or a rule, at once: not hung
            return {**known, "strikes": 0, "asked": now}
        print(f"{unit} answers /health but no completion ({error})")
        return {**known, "strikes": known.get("strikes", 0) + 1}
    return {"slots": slots(server), "strikes": 0, "asked": now}


class SilentError(Exception):
    """No answer where only the compute loop can give one."""


def slots(server: Server) -> list[list[Any]] | None:
    """Of each slot whether it works, on what, and how far it is; None where the server does not tell (slots=False).

    :raises SilentError: when the compute loop does not answer between two batches
    """
    try:
        answer = server.get_list("/slots", timeout=ANSWER_WITHIN_S)
    except NoAnswerError as error:
        if error.answered:
            return None
        raise SilentError from None
    return [
        [
            slot.get("is_processing", False),
            slot.get("id_task", -1),
            slot.get("n_prompt_tokens_processed", 0),
            [token.get("n_decoded", 0) for token in _objects(slot.get("next_token"))],
        ]
        for slot in answer
    ]


def _objects(value: Any) -> list[dict[str, Any]]:
    """The objects of a list, none where it is no list."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def running_servers() -> dict[str, str]:
    """Unit -> process id, of the model servers that are running."""
    units = run(["systemctl", "list-units", "--plain", "--no-legend", "--state=active", "llamarig-*.service"])
    names = [line.split()[0] for line in units.splitlines() if line.strip() and "llamarig-job-" not in line]
    found = {name: run(["systemctl", "show", name, "-p", "MainPID", "--value"]).strip() for name in names}
    return {name: pid for name, pid in found.items() if pid not in ("", "0")}


def key_of(unit: str) -> str | None:
    """The first API key of the file that the unit is given; None where it is given none.

    :raises OSError: when the file is gone, or holds no usable key
    """
    text = Path(f"/etc/systemd/system/{unit}").read_text()
    found = re.search(r"^LoadCredential=api-key:(.+)$", text, re.MULTILINE)
    return None if found is None else first_key(found[1])


def run(command: list[str]) -> str:
    """Standard output of a command."""
    return subprocess.run(command, capture_output=True, text=True, errors="replace").stdout


def main(state_file: Path) -> None:
    """One round over all servers."""
    state: dict[str, Any] = json.loads(state_file.read_text()) if state_file.exists() else {}
    after: dict[str, Any] = {}
    for unit, pid in running_servers().items():
        process = f"{unit} {pid}"
        try:
            known = probe(unit, pid, key_of(unit), state.get(process, {}), time.time())
        except OSError as error:  # gone in between, or it refuses even /props
            print(f"{unit} was not probed: {error}")
            continue
        if known.get("strikes", 0) < STRIKES:
            after[process] = known
            continue
        print(f"{unit} has not completed anything for {STRIKES} rounds while /health says it is well: restarting it")
        # It would not hear SIGTERM: its loop is what hangs.
        run(["systemctl", "kill", "--signal=KILL", unit])
        run(["systemctl", "restart", "--no-block", unit])
    part = state_file.with_suffix(".part")
    part.write_text(json.dumps(after))
    part.replace(state_file)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
