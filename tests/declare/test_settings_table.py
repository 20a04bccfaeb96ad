"""SETTINGS.md documents every field as it is declared."""

from __future__ import annotations

from pathlib import Path

from llamarig.declare import settings_table as module
from llamarig.declare.flags import rows
from llamarig.declare.model import Model
from llamarig.declare.settings_table import settings_table

LINES = [line for line in settings_table().splitlines() if line.startswith("| `")]


def test_the_file_is_up_to_date_with_the_fields() -> None:
    """Write it again with `python -m llamarig.declare.settings_table` after a field has changed."""
    assert (Path(module.__file__).parent / "SETTINGS.md").read_text() == settings_table()


def test_every_field_has_a_line_of_seven_columns() -> None:
    assert [line.split("`")[1] for line in LINES] == [row.path for row in rows(Model)]
    assert {line.replace("\\|", "").count("|") for line in LINES} == {8}


def test_a_line_has_flag_unit_default_source_and_whether_it_decides_memory() -> None:
    (line,) = (line for line in LINES if line.startswith("| `serve.ubatch` "))
    assert line.startswith("| `serve.ubatch` | `--ubatch-size` | tokens | 512 | llama.cpp: common/common.h | yes | ")
    (line,) = (line for line in LINES if line.startswith("| `serve.slots` "))
    assert line.startswith("| `serve.slots` | `--no-slots` | - | on | llama.cpp: common/common.h |  | ")
    (line,) = (line for line in LINES if line.startswith("| `serve.cache_ram_mib` "))
    assert "| MiB | 8192 |" in line
