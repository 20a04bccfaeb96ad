"""What `llamarig adopt` prints for each file in cases/: `.venv/bin/python -m tests.adopt.golden` writes golden/ anew.

The cases are command lines as people have posted them since 2023, written anew; the first seven are the boxes that the
groups of group_data/ are for.
"""

from __future__ import annotations

import contextlib
import io
from pathlib import Path

from llamarig.commands.adopt import adopt

HERE = Path(__file__).parent
CASES = sorted((HERE / "cases").iterdir())
SEPARATOR = "--- standard error\n"


def printed(case: Path) -> str:
    """Standard output and standard error of a case."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = adopt([str(case)])
    assert code == 0, f"{case.name}: {err.getvalue()}"
    return f"{out.getvalue()}{SEPARATOR}{err.getvalue()}"


def golden(case: Path) -> Path:
    """The file that holds what is printed."""
    return HERE / "golden" / f"{case.name}.txt"


def main() -> None:
    for case in CASES:
        golden(case).write_text(printed(case))


if __name__ == "__main__":
    main()
