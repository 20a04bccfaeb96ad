"""Record the screens again: `.venv/bin/python -m tests.screens [NAME ...]`. Review the difference before a commit."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from tests.screens.screens import DIRECTORY, SCREENS, printed


def main() -> None:
    DIRECTORY.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as directory:
        for name in sys.argv[1:] or SCREENS:
            (DIRECTORY / f"{name}.txt").write_text(printed(SCREENS[name], Path(directory) / name))
            print(name, flush=True)


if __name__ == "__main__":
    main()
