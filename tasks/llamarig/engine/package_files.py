"""The files of this package that boxes get: its programs, and the requirements locks of their Python packages."""

from __future__ import annotations

import hashlib
from pathlib import Path

from llamarig.engine.control_machine import SentFile
from llamarig.render import layout

_PACKAGE = Path(__file__).parents[1]


def programs() -> dict[str, SentFile]:
    """Path on the box -> every file of llamarig.remote, and the package's own ``__init__.py``."""
    files = [_PACKAGE / "__init__.py", *sorted((_PACKAGE / "remote").rglob("*"))]
    return {
        f"{layout.PROGRAMS}/llamarig/{path.relative_to(_PACKAGE)}": SentFile(
            str(path), hashlib.sha256(path.read_bytes()).hexdigest()
        )
        for path in files
        if path.suffix in (".py", ".cpp")
    }


def requirements() -> dict[str, str]:
    """File name -> text of each lock in items/locks."""
    return {path.name: path.read_text() for path in sorted((_PACKAGE / "items/locks").glob("*.txt"))}
