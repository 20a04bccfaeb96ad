"""The plan file: plans and measurements of several boxes in one file."""

from __future__ import annotations

import json
from pathlib import Path

from llamarig.records import store
from llamarig.records.plan_file import (
    MeasuredPlacement,
    PlanFile,
    Proposal,
    read_plan_file,
    record_measurement,
    record_plan,
    record_proposals,
)

from tests.placement.planned_box import planned

MEASURED = MeasuredPlacement(shards=("1" * 64,), release="r", flags=("--ctx-size", "4096"), left_mib=(-20,))


def test_plans_and_measurements_of_all_boxes_are_kept(tmp_path: Path) -> None:
    path = str(tmp_path / "inventory/plans.json")
    assert read_plan_file(path) == PlanFile()
    record_plan(path, "a", "m", planned())
    record_measurement(path, "a", "n", MEASURED)
    record_plan(path, "b", "m", planned(context=1024))
    assert read_plan_file(path) == PlanFile(
        boxes={"a": {"m": planned()}, "b": {"m": planned(context=1024)}}, measured={"a": {"n": MEASURED}}
    )


def test_a_plan_file_without_a_schema_version_differs_only_in_it_when_written(tmp_path: Path) -> None:
    path = tmp_path / "plans.json"
    plans = PlanFile(boxes={"a": {"m": planned()}}, measured={"a": {"n": MEASURED}})
    old = json.dumps(plans.model_dump(mode="json", exclude_defaults=True), indent=1, sort_keys=True) + "\n"
    path.write_text(old)
    assert read_plan_file(str(path)) == plans
    store.write(str(path), plans)
    assert path.read_text() == old.replace("\n}\n", ',\n "schema_version": 1\n}\n')


def test_proposals_are_added_to_a_plan_that_is_there(tmp_path: Path) -> None:
    path = tmp_path / "plans.json"
    proposals = (Proposal(placement=planned().placement, reason="out of memory", missing_mib=(20,)),)
    assert not record_proposals(str(path), "a", "m", proposals)
    assert not path.exists()
    record_plan(str(path), "a", "m", planned())
    assert record_proposals(str(path), "a", "m", proposals)
    assert read_plan_file(str(path)).boxes["a"]["m"] == planned(proposals=proposals)
    assert not record_proposals(str(path), "a", "m", proposals)
