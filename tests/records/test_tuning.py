"""Proposals of the tuner in the plan file: accepted ones change what is declared, until the owner edits it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from llamarig import declare as d
from llamarig.declare.model import Model
from llamarig.records.plan_file import accept_tuning, read_plan_file, record_tuning
from llamarig.records.tuning import (
    AcceptedSettings,
    Tuning,
    TuningConditions,
    accepted_with,
    as_tuned,
    declared,
    with_accepted,
    with_settings,
)

from tests.measure.test_candidates import rig_of

CONDITIONS = TuningConditions(date="2026-11-28T19:00:00Z", release="0c1e57098bba-1")


def model(**serve: Any) -> Model:
    return rig_of(**serve).models[0]


def proposal(settings: dict[str, Any], replaced: dict[str, Any]) -> Tuning:
    return Tuning(
        verdict="faster", workload="agent", settings=settings, replaced=replaced, faster=0.1, conditions=CONDITIONS
    )


@pytest.mark.parametrize(
    "settings",
    [
        {"ubatch": 1024},
        {"threads": 6, "threads_batch": 7},
        {"environment.GGML_CUDA_GRAPH_OPT": "1"},
        {"speculation": {"types": ["ngram-mod"]}},
        {"build": "vulkan"},
        {"op_offload": False, "load_mode": "mlock"},
    ],
)
def test_settings_are_applied_and_can_be_taken_back(settings: dict[str, Any]) -> None:
    before = model()
    after = with_settings(before, settings)
    assert after != before
    for name in settings:
        assert declared(after, name) is not None
    assert with_settings(after, {name: declared(before, name) for name in settings}) == before


def test_settings_that_may_not_be_declared_together_are_refused() -> None:
    with pytest.raises(ValueError, match="CPU list"):
        with_settings(model(), {"cpu_affinity": "nonsense"})


def test_an_accepted_setting_holds_until_its_declared_value_is_edited() -> None:
    accepted = AcceptedSettings(settings={"ubatch": 1024, "threads": 6}, replaced={"ubatch": 512, "threads": None})
    tuned = as_tuned(model(), accepted)
    assert (tuned.serve.ubatch, tuned.serve.threads) == (1024, 6)
    edited = as_tuned(model(ubatch=256), accepted)
    assert (edited.serve.ubatch, edited.serve.threads) == (256, 6)


def test_what_cannot_be_declared_any_more_is_not_applied() -> None:
    gone = AcceptedSettings(settings={"no_such_field": 1, "ubatch": 1024}, replaced={"no_such_field": 0, "ubatch": 512})
    assert as_tuned(model(), gone).serve.ubatch == 1024
    unknown = AcceptedSettings(settings={"build": "gone"}, replaced={"build": "main"})
    assert with_accepted(rig_of(), {"m": unknown}) == rig_of()


def test_a_second_proposal_is_added_to_what_was_accepted() -> None:
    first = accepted_with(None, proposal({"ubatch": 1024}, {"ubatch": 512}))
    second = accepted_with(first, proposal({"ubatch": 2048, "threads": 6}, {"ubatch": 1024, "threads": None}))
    tuned = as_tuned(model(), second)
    assert (tuned.serve.ubatch, tuned.serve.threads) == (2048, 6)


def test_a_proposal_changes_nothing_until_it_is_accepted(tmp_path: Path) -> None:
    path = str(tmp_path / "plans.json")
    record_tuning(path, "box", "m", proposal({"ubatch": 1024}, {"ubatch": 512}), None)
    assert read_plan_file(path).tuned["box"]["m"].accepted is None
    assert accept_tuning(path, "box", "m") is not None
    accepted = read_plan_file(path).tuned["box"]["m"].accepted
    assert as_tuned(model(), accepted).serve.ubatch == 1024
    # A later result without a winner leaves it accepted.
    nothing = Tuning(verdict="nothing better", workload="agent", conditions=CONDITIONS)
    record_tuning(path, "box", "m", nothing, None)
    assert read_plan_file(path).tuned["box"]["m"].accepted == accepted
    assert accept_tuning(path, "box", "m") is None


def test_there_is_nothing_to_accept_without_a_proposal(tmp_path: Path) -> None:
    path = str(tmp_path / "plans.json")
    assert accept_tuning(path, "box", "m") is None
    assert not Path(path).exists()


def test_a_workload_is_a_preset_or_a_recording() -> None:
    assert d.workload(preset="chat").preset == "chat"


@pytest.mark.parametrize("wrong", [{}, {"preset": "chat", "recording": "a.jsonl"}, {"recording": "a.txt"}])
def test_a_workload_that_is_neither_or_both_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(d.DeclarationError):
        d.workload(**wrong)
