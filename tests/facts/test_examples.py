"""Every fact shows an example of its output in its docstring, and the example is real."""

from __future__ import annotations

import inspect
import re
from typing import Any

import pytest
from pyinfra.api.facts import FactBase

from tests.facts.captures import answers, facts

_INDENT = " " * 4


def example(fact: type[FactBase[Any]]) -> list[str]:
    """Lines of the literal blocks in a fact's docstring."""
    lines: list[str] = []
    is_block = False
    # From Python 3.13 on the compiler removes the indentation of docstrings.
    for line in inspect.cleandoc(fact.__doc__ or "").splitlines():
        if not line.startswith(_INDENT):
            is_block = line.endswith("::") or (is_block and not line.strip())
        elif is_block:
            lines.append(line.strip())
    return lines


def pattern(line: str) -> str:
    """Regular expression of an example's line, in which dots stand for what was left out, and spaces for tabs too."""
    parts = (r"\s+".join(map(re.escape, part.split())) for part in line.split("..."))
    return r"\s*.*\s*".join(parts)


@pytest.mark.parametrize("fact", facts(), ids=lambda fact: fact.__name__)
def test_the_docstring_shows_real_output(fact: type[FactBase[Any]]) -> None:
    lines = example(fact)
    assert lines, "add a few lines of tests/facts/data to the fact's docstring, in a literal block"
    output = [line for text in answers(fact) for line in text.splitlines()]
    assert [line for line in lines if not any(re.search(pattern(line), real) for real in output)] == []
