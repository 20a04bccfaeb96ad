from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.remote.serve.switched_box import SwitchedBox


@pytest.fixture
def box(tmp_path: Path) -> Iterator[SwitchedBox]:
    box = SwitchedBox(tmp_path)
    yield box
    for started in (box.root / "pids").glob("*.service"):
        box.systemctl("stop", started.name)
