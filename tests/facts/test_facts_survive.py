"""Whatever a box answers, a fact never raises: truncated, empty, in another language, or garbage."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.facts.gpus import Gpus
from tasks.facts.machine import MachineState
from tasks.facts.measured import MemoryBandwidthMeasured, ReadSpeedMeasured, RequestTimed
from tasks.facts.ram import MemoryModules, parse
from tasks.facts.strays import LlamaStrays
from tasks.planning.ram.speed import judge

DATA = Path(__file__).parent / "data"
FACTS: dict[str, Callable[[list[str]], Any]] = {
    "dmidecode": lambda lines: judge(MemoryModules().process(lines).modules),
    "machine": MachineState().process,
    "gpu": Gpus().process,
    "strays": LlamaStrays().process,
    "bandwidth": MemoryBandwidthMeasured().process,
    "disk": ReadSpeedMeasured().process,
    "timing": RequestTimed().process,
}
CAPTURED = {
    **{
        kind: [path.read_text() for path in sorted((DATA / kind).glob("*.txt"))]
        for kind in ("dmidecode", "machine", "gpu", "strays")
    },
    "bandwidth": ["bytes 61471719424 seconds 2.0148"],
    "disk": ["104857600 bytes (105 MB, 100 MiB) copied, 0.0517 s, 2.0 GB/s"],
    "timing": [
        '{"prompt_tokens": 2048, "generated_tokens": 128, "prompt_per_second": 1871.2, "generation_per_second": 76.9, '
        '"alone": true}'
    ],
}


def test_every_kind_has_a_capture() -> None:
    assert CAPTURED.keys() == FACTS.keys()
    assert all(CAPTURED.values())


@pytest.mark.parametrize("kind", FACTS)
def test_empty(kind: str) -> None:
    FACTS[kind]([])
    FACTS[kind]([""])


@pytest.mark.parametrize("kind", FACTS)
@given(data=st.data())
def test_truncated_anywhere(kind: str, data: st.DataObject) -> None:
    text = data.draw(st.sampled_from(CAPTURED[kind]))
    FACTS[kind](text[: data.draw(st.integers(0, len(text)))].splitlines())


@pytest.mark.parametrize("kind", FACTS)
@given(data=st.data())
def test_with_lines_of_garbage_in_it(kind: str, data: st.DataObject) -> None:
    lines = data.draw(st.sampled_from(CAPTURED[kind])).splitlines()
    for _ in range(data.draw(st.integers(1, 5))):
        lines.insert(data.draw(st.integers(0, len(lines))), data.draw(st.text(max_size=80)))
    FACTS[kind](lines)


@pytest.mark.parametrize("kind", FACTS)
@given(data=st.data())
def test_with_every_number_another(kind: str, data: st.DataObject) -> None:
    text = data.draw(st.sampled_from(CAPTURED[kind]))
    digits = data.draw(st.text("0123456789٣²", min_size=1, max_size=25))
    old = data.draw(st.sampled_from("0123456789"))
    FACTS[kind](text.replace(old, digits).splitlines())


@pytest.mark.parametrize("kind", FACTS)
@given(st.lists(st.text(max_size=60), max_size=30))
def test_nothing_but_garbage(kind: str, lines: list[str]) -> None:
    FACTS[kind](lines)


def test_localized_dmidecode_reads_as_nothing_rather_than_wrong() -> None:
    """Ours asks with LC_ALL=C; a wrapper that does not would be read as no modules, and said to be."""
    german = ["Handle 0x0012, DMI type 17, 92 bytes", "Speichergerät", "\tGröße: 16 GB", "\tGeschwindigkeit: 4800 MT/s"]
    ram = parse(german)
    assert ram.modules == ()
    assert ram.slots == 1
