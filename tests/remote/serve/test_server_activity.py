"""What tasks/status.py learns of a server: its slots, its queue, and the speed of the last request in its log."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

from tests.remote.serve.switched_box import UNIT, SwitchedBox

RUN = """
import sys
from pathlib import Path
from llamarig.remote.serve import model_units, server_activity
model_units.UNITS = Path(sys.argv[1])
server_activity.main()
"""
# As the pinned llama-server logs a request.
LOG = """\
prompt eval time =      38.03 ms /     7 tokens (    5.43 ms per token,   184.06 tokens per second)
       eval time =     102.25 ms /     7 tokens (   14.61 ms per token,    68.46 tokens per second)
      total time =     140.28 ms /    14 tokens
"""


def activity(box: SwitchedBox) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-B", "-c", RUN, str(box.units)], env=box.environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def served(box: SwitchedBox, mode: str) -> dict[str, Any]:
    box.serve(UNIT, mode)
    for log in (box.root / "logs").iterdir():
        log.write_text(LOG)
    found: dict[str, Any] = activity(box)[UNIT]
    return found


def test_the_last_request_and_the_slots_of_a_server(box: SwitchedBox) -> None:
    found = served(box, "slots-stuck")
    assert found == {
        "ready": True,
        "context": 8192,
        "busy": 1,
        "prompt_per_second": 184.06,
        "generation_per_second": 68.46,
    }


def test_a_box_without_a_running_server_has_none(box: SwitchedBox) -> None:
    assert activity(box) == {}


def test_answers_of_another_shape_are_no_error(box: SwitchedBox) -> None:
    assert served(box, "slots-of-nonsense")["ready"]
