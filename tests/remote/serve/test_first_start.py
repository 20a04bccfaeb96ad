"""The start of a planned model, and the step down that it takes when GPU memory is short."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest
from llamarig.remote.serve.first_start import next_step_down
from llamarig.remote.shared.jobs import StartRecord, StepDown
from llamarig.remote.shared.unit_directives import directives_sha256

from tests.remote.serve.switched_box import UNIT, SwitchedBox

STEPS = [
    StepDown(what="5", placement={}, frees_mib={"CUDA0": 0, "CUDA1": 1260}, text="", check=()),
    StepDown(what="11", placement={}, frees_mib={"CUDA0": 1300, "CUDA1": 0}, text="", check=()),
    StepDown(what="11 + 5", placement={}, frees_mib={"CUDA0": 1300, "CUDA1": 1260}, text="", check=()),
    StepDown(what="10", placement={}, frees_mib={"CUDA0": 2600, "CUDA1": 0}, text="", check=()),
]


@pytest.mark.parametrize(
    ("freed", "missing", "expected"),
    [
        ({}, {}, None),
        ({}, {"CUDA0": 1.0}, "11"),
        ({}, {"CUDA1": 900.0}, "5"),
        ({}, {"CUDA0": 1800.0}, "10"),
        ({}, {"CUDA0": 300.0, "CUDA1": 300.0}, "11 + 5"),
        ({}, {"CUDA0": 1.0, "CUDA1": 1.0}, "5"),  # which of the two is unknown
        ({"CUDA0": 0, "CUDA1": 1260}, {"CUDA0": 1.0, "CUDA1": 1.0}, "11 + 5"),  # it was the other one, or both
        ({"CUDA0": 1300, "CUDA1": 0}, {"CUDA0": 1.0}, "10"),
        ({"CUDA0": 1300, "CUDA1": 0}, {"CUDA1": 700.0}, "11 + 5"),
        ({}, {"CUDA0": 9000.0}, None),
        ({"CUDA0": 2600, "CUDA1": 0}, {"CUDA0": 1.0}, None),
    ],
)
def test_the_smallest_step_that_frees_what_is_missing(
    freed: dict[str, int], missing: dict[str, float], expected: str | None
) -> None:
    step = next_step_down(STEPS, freed, missing)
    assert (step and step.what) == expected


def plan(*steps: str) -> dict[str, Any]:
    """A plan for one GPU, with steps down to units of these texts; each frees 1,000 MiB more."""
    return {
        "predicted_mib": {"CUDA0": 9000},
        "margins_mib": {"CUDA0": 384},
        "tolerance_mib": 64,
        "most_back_offs": 3,
        "rungs": [
            {
                "what": f"{12 - number} whole layers",
                "placement": {"gpu": [12 - number]},
                "frees_mib": {"CUDA0": 1000 * number},
                "text": text,
                "check": ["/bin/true"],
            }
            for number, text in enumerate(steps, 1)
        ],
    }


def record(box: SwitchedBox) -> StartRecord:
    return StartRecord.from_json(json.loads((box.records / f"{UNIT}.json").read_text()))


def test_a_start_with_room_is_compared_with_its_plan(box: SwitchedBox) -> None:
    ended = box.switch(box.text("new"), plan=plan())
    assert ended.startswith(f"done: {UNIT} answers"), ended
    assert "its memory was not compared with the plan, because its log does not show it" in ended
    assert (record(box).backed_off, record(box).took_mib) == (None, {})
    assert record(box).job.plan is not None


def test_the_log_is_read_again_while_journald_is_behind(box: SwitchedBox) -> None:
    """The server answers already; a stand-in for journalctl shows its lines at the fifth call."""
    log = "load_tensors: CUDA0 model buffer size = 8999.00 MiB\nmain: model loaded"
    box.program("journalctl", f"echo >>{box.root}/calls; test $(wc -l <{box.root}/calls) -lt 5 || echo '{log}'")
    ended = box.switch(box.text("new"), plan=plan())
    assert "it took what was predicted, within 64 MiB per GPU: CUDA0 " in ended, ended
    assert record(box).took_mib == {"CUDA0": 8999.0}


def test_a_start_without_room_steps_down_and_records_it(box: SwitchedBox) -> None:
    text, first, second = box.text("crashes"), box.text("crashes", "--port", str(box.port)), box.text("new")
    ended = box.switch(text, plan=plan(first, second))
    assert ended.startswith(f"done: {UNIT} answers"), ended
    reason = "CUDA0 lacks an unknown amount: CUDA error: out of memory (so this stand-in says)"
    assert f"GPU memory was short ({reason}; then {reason}), so it serves with 10 whole layers" in ended
    assert box.answers() == "new"
    started = record(box)
    assert (started.text, started.job.text, started.job.plan, started.job.check) == (
        second,
        second,
        None,
        ("/bin/true",),
    )
    assert started.backed_off == started.job.backed_off
    assert started.backed_off is not None
    assert started.backed_off.of == hashlib.sha256(text.encode()).hexdigest()
    assert started.backed_off.of_directives == directives_sha256(text)
    assert started.backed_off.placement == {"gpu": [10]}
    assert not (box.units / "runtime" / f"{UNIT}.d").exists(), "later starts log as usual"


@pytest.mark.parametrize(
    ("steps", "most", "message"),
    [(0, 3, "and there is no step down"), (1, 3, "after 1 step down"), (3, 2, "after 2 steps down")],
)
def test_a_start_that_no_step_helps_restores_the_old_server(
    box: SwitchedBox, steps: int, most: int, message: str
) -> None:
    old = box.serve(UNIT, "old")
    ended = box.switch(box.text("crashes"), plan={**plan(*[box.text("crashes")] * steps), "most_back_offs": most})
    assert ended.startswith(f"failed: {UNIT} ended while loading (exit 1); GPU memory is short ("), ended
    assert message in ended
    assert f"{UNIT} serves again as before" in ended
    assert (box.answers(), (box.units / UNIT).read_text()) == ("old", old)


def test_a_failure_that_is_not_about_memory_takes_no_step(box: SwitchedBox) -> None:
    box.serve(UNIT, "old")
    ended = box.switch(box.text("props-500"), plan=plan(box.text("new")))
    assert "HTTP 500" in ended
    assert "GPU memory" not in ended
    assert box.answers() == "old"
