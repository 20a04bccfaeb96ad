"""What several timings come to, and what they are held against."""

from __future__ import annotations

import pytest

from tasks.planning.bench import (
    changed_conditions,
    changed_flags,
    compared,
    compared_with_another,
    conditions_line,
    release_of,
    speed,
    speed_flags,
    table,
)
from tasks.spec.bench_ledger import BenchEntry, Card, Conditions, Speed

RELEASE = "0c1e57098bba43ac29e6e3b677cdceebdd22334f-a6a0c45d"
ARGUMENTS = [
    f"/opt/llamarig/llama.cpp/{RELEASE}/bin/llama-server",
    *("--model", "/m/x-00001-of-00003.gguf", "--alias", "x", "--host", "0.0.0.0", "--port", "8080"),
    *("--api-key-file", "/run/credentials/llamarig-x.service/api-key", "--ctx-size", "8192", "--jinja"),
]


def entry(prompt: float = 1000, generation: float = 50, date: str = "2026-11-20", **changed: object) -> BenchEntry:
    conditions = Conditions(
        date=f"{date}T10:00:00Z",
        driver="580.159.04",
        cards=(Card(name="RTX 4090", uuid="GPU-1", power_limit_w=450),),
        ram_mts=3600,
        prompt_tokens=2048,
        generated_tokens=128,
    )
    fields: dict[str, object] = {
        "box": "a",
        "model": "x",
        "release": RELEASE,
        "flags": speed_flags(ARGUMENTS),
        "runs": 5,
        "prompt": speed([prompt]),
        "generation": speed([generation]),
        "conditions": conditions,
    }
    return BenchEntry.model_validate({**fields, **changed})


def test_what_a_speed_may_depend_on() -> None:
    assert speed_flags(ARGUMENTS) == ("--model", "/m/x-00001-of-00003.gguf", "--ctx-size", "8192", "--jinja")
    assert release_of(ARGUMENTS) == RELEASE
    assert release_of([]) == release_of(["llama-server"]) == ""


@pytest.mark.parametrize(
    ("rates", "expected"),
    [
        ([76.9, 76.1, 77.0, 90.0, 76.8], (76.9, 76.1, 90.0)),  # one run that was disturbed moves no median
        ([10.0, 20.0], (15.0, 10.0, 20.0)),
        ([1871.234567], (1871.2, 1871.2, 1871.2)),
    ],
)
def test_medians(rates: list[float], expected: tuple[float, float, float]) -> None:
    assert speed(rates) == Speed(median=expected[0], lowest=expected[1], highest=expected[2])


@pytest.mark.parametrize(
    ("prompt", "generation", "slower"),
    [(1000, 50, False), (951, 47.6, False), (949, 50, True), (1000, 47.4, True), (2000, 47.4, True)],
)
def test_a_drop_over_five_percent_of_either_is_one(prompt: float, generation: float, slower: bool) -> None:
    found = compared(entry(prompt, generation), [entry(1, 1, "2026-11-18"), entry(1000, 50)])
    assert found is not None
    assert found.is_slower is slower
    assert found.earlier.conditions.date.startswith("2026-11-20"), "the last one counts"


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
def test_only_like_is_held_against_like(other: BenchEntry) -> None:
    assert compared(entry(), [other]) is None


def test_another_build_or_other_flags_are_told_apart() -> None:
    older = entry(
        2000,
        69.6,
        "2026-10-01",
        release="8" * 40 + "-a6a0c45d",
        flags=("--model", "/m/x-00001-of-00003.gguf", "--ctx-size", "4096", "--fit", "on"),
    )
    now = entry(1000, 48.7)
    found = compared_with_another(now, [older])
    assert found is not None
    assert str(found) == "prompt -50.0 %, generation -30.0 %"
    assert changed_flags(now, older) == [
        "build 888888888888 -> 0c1e57098bba",
        "--ctx-size 4096 -> 8192",
        "--fit on -> not given",
        "--jinja not given -> given",
    ]
    assert compared_with_another(now, [entry()]) is None


def test_changed_conditions_are_named() -> None:
    then = entry().conditions
    now = then.model_copy(
        update={
            "driver": "590.1",
            "ram_mts": 2133,
            "cards": (Card(name="RTX 4090", uuid="GPU-1", power_limit_w=300),),
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


def test_the_table() -> None:
    before, now = entry(1900, 80), entry(1871, 70)
    assert table([(now, compared(now, [before])), (entry(model="other"), None)]) == [
        "model  depth     prompt t/s           generation t/s    against the last time",
        "x      2048+128  1,871 (1,871-1,871)  70.0 (70.0-70.0)  2026-11-20: prompt -1.5 %, generation -12.5 %  SLOWER",
        "other  2048+128  1,000 (1,000-1,000)  50.0 (50.0-50.0)  the first of its kind",
    ]
    assert conditions_line(now) == (
        "x: 5 runs after one to warm up; 2026-11-20T10:00:00Z; driver 580.159.04; RTX 4090 at 450 W; RAM 3600 MT/s; "
        "llama.cpp 0c1e57098bba"
    )
