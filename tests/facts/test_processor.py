"""The fast cores of hybrid processors, by what the kernel says of them."""

from __future__ import annotations

from pathlib import Path

import pytest
from llamarig.facts.processor import Processor, ProcessorFound

DATA = Path(__file__).parent / "data"


def found(name: str) -> Processor:
    return ProcessorFound().process((DATA / name).read_text().splitlines())


def test_cores_that_are_alike() -> None:
    xeon = found("answers/ProcessorFound.vm_h200.txt")
    assert (xeon.name, xeon.cores) == ("Intel(R) Xeon(R) Processor", 16)
    assert (xeon.fast_cpus, xeon.fast_cores) == (frozenset(), 0)


def test_intels_performance_cores() -> None:
    hybrid = found("documented/ProcessorFound.i5_12600k.txt")
    assert (hybrid.fast_cpus, hybrid.fast_cores, hybrid.cores) == (frozenset(range(12)), 6, 10)


def test_arms_fast_cores_are_of_one_class_at_two_clocks() -> None:
    gb10 = found("documented/ProcessorFound.gb10.txt")
    assert gb10.name == "Cortex-X925, Cortex-A725"
    assert (gb10.fast_cpus, gb10.fast_cores) == (frozenset([*range(5, 10), *range(15, 20)]), 10)


@pytest.mark.parametrize("missing", ["== efficiency\n12-15", "== performance\n0-11"])
def test_one_kind_of_core_alone_is_no_hybrid(missing: str) -> None:
    """As where a hybrid's slow cores are switched off in the BIOS."""
    text = (DATA / "documented/ProcessorFound.i5_12600k.txt").read_text()
    assert missing in text
    assert ProcessorFound().process(text.replace(missing, missing.partition("\n")[0]).splitlines()).fast_cpus == set()
