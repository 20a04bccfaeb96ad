"""Prints what the model servers of this box do now, as a line of JSON: unit -> Activity.

    python3 -m llamarig.remote.serve.server_activity

Nothing is started, stopped or asked to compute.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from typing import Optional

from llamarig.remote.serve.model_units import key_of, loaded_bytes, log_of, run, state_of
from llamarig.remote.serve.proof_requests import nested
from llamarig.remote.shared.record import Record
from llamarig.remote.shared.server_client import NoAnswerError, Server, arguments_of, objects_of

_LINES = 2000
"""Last lines of a log that are searched for the speed of a request, which logs some 15."""
# tools/server/server-context.cpp (print_timings), pinned commit and those of the year before it.
_SPEED = re.compile(r"(prompt )?\beval time = .*?([\d.]+) tokens per second")
_WAITING = re.compile(r"^llamacpp:requests_deferred (\d+)", re.MULTILINE)


@dataclass(frozen=True)
class Activity(Record):
    """What a server does. ``context``: tokens of a slot; ``busy``: slots with a request, -1 where it hides its slots;
    ``waiting``: requests that wait for one, None where the server has no metrics; ``prompt_per_second`` and
    ``generation_per_second``: tokens, of the last request in its log, 0 before there is one; ``loaded_mib``: of a
    model that is loading.
    """

    ready: bool = False
    asleep: bool = False
    context: int = 0
    slots: int = 0
    busy: int = -1
    waiting: Optional[int] = None
    prompt_per_second: float = 0.0
    generation_per_second: float = 0.0
    loaded_mib: int = 0


def activity(unit: str, pid: str) -> Activity:
    """Find out what one server does."""
    arguments, server = arguments_of(pid), Server.of_process(pid, key_of(unit))
    if not server.is_healthy():
        return Activity(loaded_mib=loaded_bytes(pid) >> 20)
    found = _with_speed(Activity(ready=True), log_of(unit, "-n", str(_LINES)))
    properties = server.get("/props", timeout=5)
    context, slots = nested(properties, "default_generation_settings", "n_ctx"), properties.get("total_slots")
    found = replace(found, context=_number(context), slots=_number(slots), asleep=bool(properties.get("is_sleeping")))
    if found.asleep:
        return found  # a question about its slots would wake it
    try:
        busy = sum(bool(slot.get("is_processing")) for slot in server.take("/slots", objects_of, timeout=5))
        found = replace(found, busy=busy)
    except NoAnswerError:
        pass
    if "--metrics" in arguments and (waiting := _WAITING.search(server.text("/metrics", timeout=5))) is not None:
        found = replace(found, waiting=int(waiting[1]))
    return found


def _with_speed(found: Activity, lines: list[str]) -> Activity:
    """With the speeds of the last request that the log has."""
    prompt = generation = 0.0
    for line in lines:
        if (match := _SPEED.search(line)) is not None:
            if match[1]:
                prompt = float(match[2])
            else:
                generation = float(match[2])
    return replace(found, prompt_per_second=prompt, generation_per_second=generation)


def _number(value: object) -> int:
    return value if isinstance(value, int) else 0


def main() -> None:
    """Print the activity of every server whose process can be asked."""
    units = run(
        ["systemctl", "list-units", "--plain", "--no-legend", "--state=active,activating", "llamarig-*.service"]
    )
    found = {}
    for unit in (line.split()[0] for line in units.splitlines() if line.strip()):
        pid = state_of(unit)["MainPID"]
        if "_" in unit or pid in ("", "0"):  # a job, or a start that waits for GPU memory
            continue
        try:
            found[unit] = activity(unit, pid).to_json()
        except (OSError, ValueError):  # it has ended, or answers nonsense
            found[unit] = Activity().to_json()
    print(json.dumps(found))


if __name__ == "__main__":
    main()
