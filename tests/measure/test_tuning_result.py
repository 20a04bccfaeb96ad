"""The result of tuning a model, from samples to the lines that its owner reads."""

from __future__ import annotations

import json

import pytest
from llamarig.measure.candidates import Candidate
from llamarig.measure.tuning_result import (
    conditions_of,
    conditions_words,
    parts_of,
    promising,
    report_lines,
    speed_of,
    tuning_of,
    verdict_line,
    workload_words,
)
from llamarig.records.tuning import Tuning, TuningConditions
from llamarig.remote.measure.conditions import Conditions
from llamarig.remote.measure.paired_difference import Rule, compare
from llamarig.remote.measure.replay import Replayed
from llamarig.remote.measure.search import CURRENT, Finals, Sample, Screened, Screening
from llamarig.remote.measure.tune_job import TakenSample

from tests.measure.test_candidates import rig_of

MODEL = rig_of().models[0]
UBATCH = Candidate("ubatch", "ubatch 2048", {"ubatch": 2048})
THREADS = Candidate("threads", "threads 6", {"threads": 6})
AT = TuningConditions(date="2026-11-28T19:00:00Z", release="0c1e57098bba-1", cards=("RTX 4090",), repeated=2)


def taken(candidate: str, seconds: float, *, counts: bool = True, disturbed: str = "") -> TakenSample:
    replayed = Replayed(
        seconds=seconds,
        first_token_s=seconds / 4,
        turn_first_token_s=(1.0, 3.0),
        prompt_per_second=1000 / seconds,
        generation_per_second=50.0,
        depth=4096,
    )
    sample = Sample(candidate, replayed=replayed, disturbed=(disturbed,) if disturbed else ())
    return TakenSample(sample, Conditions(other_load=0.02, gpu_mhz=(2500,)), counts=counts)


def result(*pairs: tuple[float, float], complete: bool = True) -> Tuning:
    samples = [one for now, other in pairs for one in (taken(CURRENT, now), taken(UBATCH.name, other))]
    found = Finals({UBATCH.name: compare(pairs, Rule())}, {UBATCH.name: list(pairs)})
    return tuning_of(MODEL, [UBATCH], found, samples, (), ["priority 2 (no --prio)"], AT, complete=complete)


WON = result(*[(60.0 + number / 10, 50.0) for number in range(4)])


def test_a_winner_is_proposed_with_what_it_replaces() -> None:
    assert (WON.verdict, WON.settings, WON.replaced) == ("faster", {"ubatch": 2048}, {"ubatch": 512})
    assert WON.faster == pytest.approx(0.203, abs=0.001)
    assert WON.before is not None
    assert WON.after is not None
    assert (WON.before.seconds, WON.after.seconds) == (60.15, 50.0)


def test_without_a_winner_nothing_is_proposed() -> None:
    equal = result(*[(60.0 + number % 2 / 10, 60.0) for number in range(4)])
    assert (equal.verdict, equal.settings) == ("nothing better", {})
    assert "nothing better than what you have" in verdict_line("m", equal)


def test_before_the_first_look_nothing_is_decided_and_the_result_can_be_stored() -> None:
    early = result((60.0, 50.0), complete=False)
    assert (early.verdict, early.settings, early.low, early.high) == ("undecided", {}, None, None)
    assert json.loads(early.model_dump_json())["pairs"] == 1


def test_nothing_promising_is_nothing_better() -> None:
    found = tuning_of(MODEL, [], Finals(), [taken(CURRENT, 60)], (), [], AT, complete=True)
    assert found.verdict == "nothing better"
    assert found.before is not None


def test_a_difference_that_stays_unclear_is_nothing_better() -> None:
    """After the last look nothing more is timed: what did not clear the threshold by then is no winner."""
    unclear = result(*[(60.0 + 5 * (number % 2), 60.0) for number in range(20)])
    assert (unclear.verdict, unclear.pairs) == ("nothing better", 20)


def test_the_report_has_every_number_and_its_conditions() -> None:
    text = "\n".join(report_lines("m", WON))
    for words in ("20.3 % faster", "ubatch 2048", "60.1 s in all", "50.0 s in all", "at 4096 tokens", "no --prio"):
        assert words in text
    assert "RTX 4090" in text
    assert "2 disturbed samples repeated" in text


def test_speeds_are_medians_of_what_was_not_disturbed() -> None:
    samples = [taken("a", 10), taken("a", 12), taken("a", 11), taken("a", 90, disturbed="load"), taken("b", 1)]
    found = speed_of("a", samples)
    assert found is not None
    assert (found.seconds, found.turn_first_token_s) == (11, 2)
    assert speed_of("c", samples) is None


def test_each_part_is_shown_the_best_first() -> None:
    screening = Screening({UBATCH.name: Screened(0.2, 2), THREADS.name: Screened(None, 0, "does not start")})
    other = Candidate("batch", "batch 4096", {"batch": 4096})
    parts = parts_of([THREADS, UBATCH, other], screening)
    assert [part.setting for part in parts] == ["ubatch 2048", "threads 6", "batch 4096"]
    assert parts[1].remark == "does not start"
    assert parts[2].remark == "not tried: the time was over"
    assert promising([THREADS, UBATCH, other], screening) == [(UBATCH, 0.2)]


def test_conditions_are_those_of_the_samples() -> None:
    samples = [taken("a", 10), taken("a", 10, counts=False), taken("a", 11)]
    found = conditions_of(samples, "2026-11-28T19:00:00Z", "0c1e57098bba-1", "6.12.0", "580.1", ["RTX 4070"])
    assert (found.gpu_mhz, found.other_load, found.repeated) == ((2500,), 0.02, 1)
    assert "GPU clocks 2500 MHz" in conditions_words(found)


def test_of_a_recording_not_even_its_name_is_stored() -> None:
    private = (
        rig_of()
        .models[0]
        .model_copy(
            update={"workload": MODEL.workload.model_copy(update={"preset": None, "recording": "secret.jsonl"})}
            if MODEL.workload
            else {}
        )
    )
    assert workload_words(private) == "recording"
