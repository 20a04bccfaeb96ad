from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.remote.front.front_box import FrontBox, front_box


@pytest.fixture
def box(tmp_path: Path) -> Iterator[FrontBox]:
    with front_box(tmp_path) as made:
        yield made
