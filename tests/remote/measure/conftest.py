from __future__ import annotations

from tests.remote.serve.conftest import box

__all__ = ["box"]
