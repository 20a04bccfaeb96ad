"""group_data/README.md documents every field of every declaration, as it is declared."""

from __future__ import annotations

import re

import pytest
from llamarig import declare
from llamarig.declare.base import Declaration, constructor, declarations
from llamarig.declare.field_reference import field_reference, meanings
from llamarig.declare.flags import rows, setting_of
from llamarig.declare.lint_rules import LINT_RULES
from llamarig.declare.model import Model
from llamarig.declare.rig import Rig
from llamarig.declare.risky_flags import RISKY_FLAGS

from tests.field_reference import README, MarkerError, with_reference

ALL = declarations(Rig)
REFERENCE = field_reference()


def fields(declaration: type[Declaration]) -> list[str]:
    return [name for name in declaration.model_fields if name != "kind"]


def section(name: str) -> str:
    """The text below the heading of a declaration, up to the next one."""
    (text,) = re.findall(rf"^### {name}\n(.*?)(?=^### |\Z)", REFERENCE, re.MULTILINE | re.DOTALL)
    return str(text)


def line(declaration: str, field: str) -> str:
    (found,) = (each for each in section(declaration).splitlines() if each.startswith(f"| `{field}` |"))
    return found


def test_the_readme_is_up_to_date() -> None:
    """After a field has changed: `.venv/bin/python -m tests.field_reference`."""
    assert with_reference(README.read_text(), REFERENCE) == README.read_text()


def test_every_constructor_has_its_section() -> None:
    constructors = {name for name in dir(declare) if callable(getattr(declare, name)) and f"### {name}\n" in REFERENCE}
    assert constructors == {constructor(each) for each in ALL}
    public = {name for name, value in vars(declare).items() if getattr(value, "__name__", "") == "construct"}
    assert {name.lstrip("_") for name in public} == constructors


@pytest.mark.parametrize("declaration", ALL, ids=constructor)
def test_every_field_has_its_line_in_the_order_of_the_declaration(declaration: type[Declaration]) -> None:
    documented = re.findall(r"^\| `(\w+)` \|", section(constructor(declaration)), re.MULTILINE)
    assert documented == fields(declaration)


@pytest.mark.parametrize("declaration", ALL, ids=constructor)
def test_every_field_says_what_it_does(declaration: type[Declaration]) -> None:
    assert [name for name in fields(declaration) if not meanings(declaration).get(name)] == []


def test_every_setting_of_a_model_is_shown() -> None:
    assert len(list(rows(Model))) == sum(
        setting_of(info) is not None for each in ALL for info in each.model_fields.values()
    )


def test_a_line_has_type_default_unit_flag_memory_meaning_and_source() -> None:
    cells = line("serve", "ubatch").split(" | ")
    assert cells[:6] == ["| `ubatch`", "`int`, at least 32", "`512`", "tokens", "`--ubatch-size`", "yes"]
    assert cells[7] == "llama.cpp: common/common.h |"
    # Of a switch only the other value is rendered.
    assert " | `bool` | `True` | - | `--no-slots` |  | " in line("serve", "slots")
    assert " | 8192 | MiB | " in line("serve", "cache_ram_mib")
    assert line("build", "backend").startswith('| `backend` | `"cuda"`, `"cpu"`, `"vulkan"`, `"hip"` | `"cuda"` | - | ')
    assert "tuple of [gpu_card](#gpu_card)" in line("host_policy", "gpus")
    assert " | `float`, 30 to 1500 | none | W | " in line("gpu_card", "power_limit_w")
    assert " | MB/s | " in line("hub", "max_mb_s")
    assert " | required | " in line("model", "name")


def test_every_line_of_a_table_has_as_many_cells_as_its_heading() -> None:
    for table in re.findall(r"(?:^\|.*\n)+", REFERENCE, re.MULTILINE):
        assert len({each.replace("\\|", "").count("|") for each in table.splitlines()}) == 1


def test_links_lead_to_sections() -> None:
    assert set(re.findall(r"\]\(#(\w+)\)", REFERENCE)) <= {constructor(each) for each in ALL}


def test_every_lint_and_every_risky_flag_is_named() -> None:
    names = [*LINT_RULES, *(risky.name for risky in RISKY_FLAGS)]
    assert [name for name in names if f"| `{name}` |" not in REFERENCE] == []


def test_only_what_is_between_the_markers_is_replaced() -> None:
    text = README.read_text()
    other = with_reference(text, "| other |\n")
    assert "| other |" in other
    assert "### rig\n" not in other
    assert with_reference(other, REFERENCE) == with_reference(text, REFERENCE)


def test_a_document_without_markers_is_refused() -> None:
    with pytest.raises(MarkerError):
        with_reference("no markers", "")
