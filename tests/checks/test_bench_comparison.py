"""Statistics of timings, and their comparison with earlier ones."""

from __future__ import annotations

import importlib

import pytest
from llamarig.checks.bench_comparison import (
    compare_with_other_build,
    compare_with_previous,
    conditions_line,
    second_turn_line,
    speed,
    table,
    untried_settings,
)
from llamarig.facts.gpus import Gpus
from llamarig.records.bench_ledger import BenchEntry, TimedGpu, TokenRate
from llamarig.records.timing_changes import changed_conditions, changed_flags, release_of, speed_flags

from tests.checks.bench_entries import ARGUMENTS, RELEASE, entry
from tests.checks.example_boxes import gpus, rig


def test_speed_flags_leave_names_and_addresses_out() -> None:
    assert speed_flags(ARGUMENTS) == ("--model", "/m/x-00001-of-00003.gguf", "--ctx-size", "8192", "--jinja")
    assert release_of(ARGUMENTS) == RELEASE
    assert release_of([]) == release_of(["llama-server"]) == ""


@pytest.mark.parametrize(
    ("rates", "expected"),
    [
        ([76.9, 76.1, 77.0, 90.0, 76.8], (76.9, 76.1, 90.0)),  # one outlier does not change the median
        ([10.0, 20.0], (15.0, 10.0, 20.0)),
        ([1871.234567], (1871.2, 1871.2, 1871.2)),
    ],
)
def test_median_lowest_and_highest_rate(rates: list[float], expected: tuple[float, float, float]) -> None:
    assert speed(rates) == TokenRate(median=expected[0], lowest=expected[1], highest=expected[2])


@pytest.mark.parametrize(
    ("prompt", "generation", "slower"),
    [(1000, 50, False), (951, 47.6, False), (949, 50, True), (1000, 47.4, True), (2000, 47.4, True)],
)
def test_a_drop_of_either_speed_over_five_percent_is_slower(prompt: float, generation: float, slower: bool) -> None:
    found = compare_with_previous(entry(prompt, generation), [entry(1, 1, "2026-11-18"), entry(1000, 50)])
    assert found is not None
    assert found.is_slower is slower
    assert found.earlier.conditions.date.startswith("2026-11-20"), "the last one is compared"


@pytest.mark.parametrize(
    "other",
    [
        entry(box="b"),
        entry(model="y"),
        entry(release="8" * 40 + "-a6a0c45d"),
        entry(flags=("--ctx-size", "4096")),
        entry(conditions=entry().conditions.model_copy(update={"prompt_tokens": 16384})),
    ],
)
def test_only_the_same_configuration_is_compared(other: BenchEntry) -> None:
    assert compare_with_previous(entry(), [other]) is None


def test_other_builds_and_flags_are_compared_separately() -> None:
    older = entry(
        2000,
        69.6,
        "2026-10-01",
        release="8" * 40 + "-a6a0c45d",
        flags=("--model", "/m/x-00001-of-00003.gguf", "--ctx-size", "4096", "--fit", "on"),
    )
    now = entry(1000, 48.7)
    found = compare_with_other_build(now, [older])
    assert found is not None
    assert str(found) == "prompt -50.0 %, generation -30.0 %"
    assert changed_flags(now, older) == [
        "build 888888888888 -> 0c1e57098bba",
        "--ctx-size 4096 -> 8192",
        "--fit on -> not given",
        "--jinja not given -> given",
    ]
    assert compare_with_other_build(now, [entry()]) is None


def test_changed_conditions_are_listed() -> None:
    then = entry().conditions
    now = then.model_copy(
        update={
            "driver": "590.1",
            "ram_mts": 2133,
            "cards": (TimedGpu(name="RTX 4090", uuid="GPU-1", power_limit_w=300),),
            "beside": ("tiny",),
        }
    )
    assert changed_conditions(then, then) == []
    assert changed_conditions(now, then) == [
        "driver 580.159.04 -> 590.1",
        "RAM 3600 MT/s -> 2133 MT/s",
        "power limit of RTX 4090 450 W -> 300 W",
        "beside it nothing -> tiny",
    ]
    without = then.model_copy(update={"cards": ()})
    assert changed_conditions(without, then) == ["cards RTX 4090 at 450 W -> none"]


def test_clocks_kernels_and_throttling_may_explain_another_speed() -> None:
    then = entry().conditions

    def changes(card: dict[str, int | None], now_card: dict[str, int | None], **now: object) -> list[str]:
        (before,), (after,) = ([each.model_copy(update=update) for each in then.cards] for update in (card, now_card))
        earlier = then.model_copy(update={"cards": (before,), "kernel": "6.12.57"})
        return changed_conditions(then.model_copy(update={"cards": (after,), "kernel": "6.12.57", **now}), earlier)

    assert changes({"clock_mhz": 2500}, {"clock_mhz": 2400}) == []
    assert changes({"clock_mhz": 2500}, {"clock_mhz": 2100}) == ["clock of RTX 4090 2500 -> 2100 MHz"]
    assert changes({"clock_mhz": None}, {"clock_mhz": 2100}) == [], "an older entry has no clock"
    assert changes({}, {}, kernel="6.18.1") == ["kernel 6.12.57 -> 6.18.1"]
    assert changes({}, {}, kernel="") == []
    assert changes({}, {}, throttled=("GPU 0: too hot",)) == ["slowed down by nothing -> GPU 0: too hot"]


def test_the_second_turn_is_told_with_what_was_computed() -> None:
    assert second_turn_line(entry()) == ""
    timed = entry(second_turn={"seconds": 0.4215, "tokens": 2432, "computed": 260})
    assert second_turn_line(timed) == (
        "x: second turn: 0.421 s to its first token; 260 of 2432 tokens were computed, the others came out of the cache"
    )


def test_amd_cards_are_told_of_the_graphics_queue() -> None:
    box_d = importlib.import_module("group_data.rx7900xt").rig
    radeon = "0000:03:00.0|Radeon|21458059264|83886080|16.0 GT/s PCIe|16.0 GT/s PCIe||16|16||0|0|315000000|315000000"
    amd = Gpus().process(["== nvidia", "none", "== amd", radeon])
    (hint,) = untried_settings(rig(box_d), ["qwen3-coder-ud-q4"], amd)
    assert 'qwen3-coder-ud-q4: environment={"GGML_VK_ALLOW_GRAPHICS_QUEUE": "1"} gave 1 to 5 % more tokens/s' in hint
    assert untried_settings(rig(box_d), [], amd) == [], "not timed"
    assert untried_settings(rig(box_d), ["qwen3-coder-ud-q4"], gpus()) == [], "an NVIDIA card"
    tried = {**box_d["models"][0], "serve": {**box_d["models"][0]["serve"]}}
    tried["serve"]["environment"] = {"GGML_VK_ALLOW_GRAPHICS_QUEUE": "1"}
    assert untried_settings(rig({**box_d, "models": [tried]}), ["qwen3-coder-ud-q4"], amd) == []


def test_the_driver_of_amd_cards_is_that_of_kernel_and_mesa() -> None:
    state = Gpus().process(["== linux", "6.12.57+deb13-amd64", "== mesa", "25.0.7-2"])
    assert state.amd_driver == "Linux 6.12.57+deb13-amd64, Mesa 25.0.7-2"


def test_the_table_shows_speeds_and_changes() -> None:
    before, now = entry(1900, 80), entry(1871, 70)
    assert table([(now, compare_with_previous(now, [before])), (entry(model="other"), None)]) == [
        "model  depth     prompt t/s           generation t/s    change since the last run",
        "x      2048+128  1,871 (1,871-1,871)  70.0 (70.0-70.0)  2026-11-20: prompt -1.5 %, generation -12.5 %  SLOWER",
        "other  2048+128  1,000 (1,000-1,000)  50.0 (50.0-50.0)  no earlier run",
    ]
    assert conditions_line(now) == (
        "x: 5 runs after one to warm up; 2026-11-20T10:00:00Z; driver 580.159.04; RTX 4090 at 450 W; RAM 3600 MT/s; "
        "llama.cpp 0c1e57098bba"
    )
