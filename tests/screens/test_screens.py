"""The screens of all commands are the recorded ones: a change of words shows in the difference of a text file."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.screens.screens import DIRECTORY, SCREENS, printed, recorded


@pytest.mark.parametrize("name", SCREENS)
def test_the_screen_is_the_recorded_one(name: str, tmp_path: Path) -> None:
    shown = printed(SCREENS[name], tmp_path / name)
    assert "Traceback" not in shown
    path = DIRECTORY / f"{name}.txt"
    assert shown == (path.read_text() if path.exists() else ""), (
        "review the difference, then record it: .venv/bin/python -m tests.screens"
    )


def test_no_screen_is_left_over() -> None:
    assert {name for name, _ in recorded()} == set(SCREENS)
