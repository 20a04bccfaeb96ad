"""What a dry run, a deploy and an audit say of a unit that differs from its declaration."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from llamarig.declare.rig import Rig
from llamarig.items.model_units import ServedModels, unit_query

from tests.items.converged_box import Box, converged_box, cpu_rig, write_lock_file


@pytest.fixture
def box(tmp_path: Path) -> Box:
    rig = cpu_rig(models=("m", "n"), model_lock=str(tmp_path / "lock.json"), plan_file=str(tmp_path / "plans.json"))
    write_lock_file(rig)
    return converged_box(rig)


def with_context(rig: Rig, context: int) -> Rig:
    models = [one.model_copy(update={"serve": one.serve.model_copy(update={"context": context})}) for one in rig.models]
    return rig.model_copy(update={"models": tuple(models)})


def test_a_unit_that_was_rolled_back_is_named_as_that(box: Box) -> None:
    before = converged_box(with_context(box.rig, 8192))
    unit = unit_query(box.rig)
    sha256 = re.findall("Directives=(.*)", before.outputs[unit])[0]
    box.outputs[unit] = before.outputs[unit].replace(
        "Health=200", f"RolledBackAt=2026-11-28 12:00 UTC\nRolledBackTo={sha256}\nHealth=200", 1
    )
    first, second = box.differences(ServedModels())
    assert str(first) == (
        "llamarig-m.service: rolled back at 2026-11-28 12:00 UTC, expected what is declared (--ctx-size 8192 -> 4096); "
        "deploy.py goes forward again; to stay, declare what it was before"
    )
    assert second.found == "ExecStart differs"


def test_a_dry_run_says_which_flags_change_and_how_long_the_model_is_away(box: Box) -> None:
    before = converged_box(with_context(box.rig, 8192))
    unit = unit_query(box.rig)
    box.outputs[unit] = before.outputs[unit].replace("Health=200", "Away=41.3\nHealth=200", 1)
    first, second = box.differences(ServedModels())
    assert first.plan == "m: --ctx-size 8192 -> 4096; restarts it (away about 41 s)"
    assert second.plan == "n: --ctx-size 8192 -> 4096; restarts it"


def test_what_follows_from_a_missing_release_is_foreseen(box: Box) -> None:
    build = box.rig.builds[0]
    source = build.source.model_copy(update={"commit": "4df29be" + "0" * 33})
    newer = box.rig.model_copy(update={"builds": (build.model_copy(update={"source": source}),)})
    seen = Box(newer, box.here, {unit_query(newer): box.outputs[unit_query(box.rig)]}).seen(ServedModels())
    assert list(ServedModels().foresee(newer, seen)) == [
        "m: llama.cpp 0c1e570 -> 4df29be; restarts it",
        "n: llama.cpp 0c1e570 -> 4df29be; restarts it",
    ]
