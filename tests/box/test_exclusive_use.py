"""A second test run may not use what the first one holds."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.box.exclusive_use import exclusive_use


def test_a_second_run_fails_at_once_and_may_go_on_after_the_first(tmp_path: Path) -> None:
    box = tmp_path / "box"
    with exclusive_use(box):
        second = exclusive_use(box, ", or choose another box")
        with pytest.raises(pytest.fail.Exception, match=r"using .*/box\. Wait for its end, or choose another box\."):
            second.__enter__()
    with exclusive_use(box):
        pass
