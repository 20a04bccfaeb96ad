"""No fact raises, whatever the output of its command: truncated, empty, in another language, or garbage."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from llamarig.checks.ram_speed import judge
from llamarig.facts.ram import MemoryModules, parse
from llamarig.facts.releases import Releases
from pyinfra.api.facts import FactBase

from tests.facts.captures import DATA, answers, captured, facts

Fact = type[FactBase[Any]]

FACTS = facts()
EACH = pytest.mark.parametrize("fact", FACTS, ids=lambda fact: fact.__name__)
FEW = settings(max_examples=25, deadline=None)
# Python raises for numbers of more than 4300 digits, and for deeply nested JSON.
ODD = ("٣²", "9" * 4301, "[" * 100_000, '{"a":' * 100_000, "\0", "\ud800", "=", "\t", "== ", "@@llamarig 7")
GARBAGE = st.text(max_size=80) | st.sampled_from(ODD)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=5), inner, max_size=2),
    max_leaves=3,
)


def read(fact: Fact, lines: list[str]) -> Any:
    """Result of the fact, after what callers compute from it."""
    result = fact().process(lines)
    if fact is MemoryModules:
        judge(result)
    if fact is Releases:
        assert all(isinstance(release.flags, frozenset) for release in result.values())
    return result


def test_every_fact_has_a_unique_name_and_a_capture() -> None:
    assert [name for name, count in Counter(fact.__name__ for fact in FACTS).items() if count > 1] == []
    assert [fact.__name__ for fact in FACTS if not captured(fact)] == [], (
        "run the fact's command on a box and save its output as tests/facts/data/answers/<Fact>.<box>.txt"
    )
    names = {fact.__name__ for fact in FACTS}
    of_facts = [*DATA.glob("answers/*"), *DATA.glob("documented/*")]
    assert {file.name for file in of_facts if file.name.split(".")[0] not in names} == set()


@EACH
def test_a_capture_gives_another_result_than_the_default(fact: Fact) -> None:
    nothing = fact().default() if hasattr(fact, "default") else None
    assert all(read(fact, text.splitlines()) != nothing for text in answers(fact))


@EACH
def test_empty_output_does_not_raise(fact: Fact) -> None:
    read(fact, [])
    read(fact, [""])


@EACH
@FEW
@given(data=st.data())
def test_truncated_output_does_not_raise(fact: Fact, data: st.DataObject) -> None:
    text = data.draw(st.sampled_from(answers(fact)))
    read(fact, text[: data.draw(st.integers(0, len(text)))].splitlines())


@EACH
@FEW
@given(data=st.data())
def test_output_with_inserted_garbage_does_not_raise(fact: Fact, data: st.DataObject) -> None:
    """Insert lines of garbage, and replace the ends of lines."""
    lines = data.draw(st.sampled_from(answers(fact))).splitlines()
    for _ in range(data.draw(st.integers(1, 5))):
        place = data.draw(st.integers(0, len(lines) - 1))
        if data.draw(st.booleans()):
            lines.insert(place, data.draw(GARBAGE))
        else:
            kept = data.draw(st.integers(0, len(lines[place])))
            lines[place] = lines[place][:kept] + data.draw(GARBAGE)
    read(fact, lines)


@EACH
@FEW
@given(data=st.data())
def test_output_with_replaced_digits_does_not_raise(fact: Fact, data: st.DataObject) -> None:
    text = data.draw(st.sampled_from(answers(fact)))
    digits = data.draw(st.text("0123456789٣²", min_size=1, max_size=25))
    old = data.draw(st.sampled_from("0123456789"))
    read(fact, text.replace(old, digits).splitlines())


@EACH
@FEW
@given(st.lists(GARBAGE, max_size=20))
def test_garbage_does_not_raise(fact: Fact, lines: list[str]) -> None:
    read(fact, lines)


def with_json(fact: Fact) -> list[list[str]]:
    return [text.splitlines() for text in answers(fact) if "{" in text]


@pytest.mark.parametrize("fact", [fact for fact in FACTS if with_json(fact)], ids=lambda fact: fact.__name__)
@settings(FEW, max_examples=100)
@given(data=st.data())
def test_json_with_another_type_of_value_does_not_raise(fact: Fact, data: st.DataObject) -> None:
    """Replace one value of the JSON by one of another type, or remove it."""
    lines = list(data.draw(st.sampled_from(with_json(fact))))
    number = data.draw(st.sampled_from([number for number, line in enumerate(lines) if "{" in line]))
    before, brace, after = lines[number].partition("{")
    whole = value = json.loads(brace + after)
    while True:
        keys = list(value) if isinstance(value, dict) else list(range(len(value)))
        key = data.draw(st.sampled_from(keys))
        if isinstance(value[key], dict | list) and value[key] and data.draw(st.booleans()):
            value = value[key]
            continue
        break
    if data.draw(st.booleans()):
        value[key] = data.draw(JSON)
    else:
        del value[key]
    lines[number] = before + json.dumps(whole)
    read(fact, lines)


def test_translated_dmidecode_is_read_as_no_modules() -> None:
    """The command sets LC_ALL=C; a wrapper may not."""
    german = ["Handle 0x0012, DMI type 17, 92 bytes", "Speichergerät", "\tGröße: 16 GB", "\tGeschwindigkeit: 4800 MT/s"]
    ram = parse(german)
    assert ram.modules == ()
    assert ram.slots == 1
