from __future__ import annotations

import pytest

from tasks.operations import once
from tasks.operations.audit_run import RUN, Run


@pytest.fixture
def audit_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each audit is a process of its own, which only looks and has read nothing yet."""
    for name, value in vars(Run()).items():
        monkeypatch.setattr(RUN, name, value)
    monkeypatch.setattr(once, "_READ", {})
    monkeypatch.setitem(once._RUN, "only looks", True)
