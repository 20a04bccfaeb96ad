"""Parse JSON from untrusted output."""

from __future__ import annotations

import json
from typing import Any


def json_object(text: str) -> dict[str, Any]:
    """Parse a JSON object; an empty one for invalid JSON, JSON nested too deeply, and any other value."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
