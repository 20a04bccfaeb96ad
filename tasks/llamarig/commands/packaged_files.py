"""The scripts, groups and inventory that come with this package: in it where it was built, else in its source tree."""

from __future__ import annotations

import runpy
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parents[1]
_BUILT = _PACKAGE / "template"
"""Where a wheel has them (pyproject.toml: force-include)."""
_SOURCE_TREE = _PACKAGE.parents[1]


def packaged(name: str) -> Path:
    """Path of a file or directory by its name in the source tree: ``tasks/audit.py``."""
    return (_BUILT if _BUILT.is_dir() else _SOURCE_TREE) / name


def scripts() -> list[str]:
    """Names of all commands: ``deploy.py``, ``tasks/adopt.py``, ..."""
    return ["deploy.py", *(f"tasks/{path.name}" for path in sorted(packaged("tasks").glob("*.py")))]


def groups() -> list[str]:
    """Names of the groups of boxes that are declared as examples."""
    stems = (path.stem for path in sorted(packaged("group_data").glob("*.py")))
    return [stem for stem in stems if stem != "all" and not stem.startswith("rehearsal")]


def run_script(file: str) -> None:
    """Run the command of this package that has the name of a script in a repository of the owner's.

    So such a repository gets the commands of the version that it depends on, without a change in its scripts.
    """
    path = Path(file)
    # Not pyinfra's local.include, which begins the name of every operation with the path of the script.
    runpy.run_path(str(packaged(path.name if path.parent.name != "tasks" else f"tasks/{path.name}")))
