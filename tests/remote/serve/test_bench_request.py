"""A timing has a second turn, whose prompt is the first one with its answer and 256 tokens more.

server_stand_in.py stands in for llama-server: it says that all but 300 tokens came out of its cache where a request
wants that. tests/box/test_bench.py times the real one.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

from llamarig.remote.serve.bench_request import TURN_ADDS

from tests.remote.serve.switched_box import UNIT, SwitchedBox

MEASURE = """
import json, sys
from pathlib import Path
from llamarig.remote.serve import bench_request, model_units
model_units.UNITS = Path(sys.argv[1])
print(json.dumps(bench_request.measure(sys.argv[2], int(sys.argv[3]), int(sys.argv[4])).to_json()))
"""


def measured(box: SwitchedBox, prompt: int, generated: int) -> dict[str, Any]:
    command = [sys.executable, "-B", "-c", MEASURE, str(box.units), UNIT, str(prompt), str(generated)]
    done = subprocess.run(command, env=box.environment, cwd=box.root, capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_the_second_turn_goes_on_with_the_first(box: SwitchedBox) -> None:
    box.serve(UNIT, "ms-50")
    found = measured(box, 1000, 20)
    assert (found["prompt_tokens"], found["generated_tokens"], found["alone"]) == (1000, 20, True)
    assert found["prompt_per_second"] == 2000 * 1000 / 50, "the first prompt is computed whole"
    assert found["turn_tokens"] == 1000 + 20 + TURN_ADDS
    assert found["turn_computed"] == 300
    assert found["turn_s"] == 0.025


def test_where_the_context_has_no_room_only_the_first_turn_is_timed(box: SwitchedBox) -> None:
    """The stand-in's slot holds 8192 tokens."""
    box.serve(UNIT, "ms-50")
    found = measured(box, 8000, 20)
    assert found["prompt_tokens"] == 8000
    assert "turn_s" not in found
    assert "problem" not in found


def test_a_prompt_that_a_slot_does_not_hold_is_refused(box: SwitchedBox) -> None:
    box.serve(UNIT, "ms-50")
    assert "a slot holds 8192 tokens" in measured(box, 8192, 20)["problem"]
