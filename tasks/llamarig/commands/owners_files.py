"""Mistakes in the Python files of an owner (inventory, group_data, scripts), each as one message."""

from __future__ import annotations

import traceback
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from click import ClickException

PACKAGE = Path(__file__).resolve().parents[1]


class OwnersMistakeError(SystemExit):
    """An error in a file of the owner's. Ends the run with its message and exit code 1."""


def syntax_errors(files: Iterable[Path]) -> list[str]:
    """One line for each file that is no Python, with the place in it. Files that are not there are left out."""
    return [found for file in dict.fromkeys(files) if file.is_file() and (found := _syntax_error(file))]


def _syntax_error(file: Path) -> str:
    try:
        compile(file.read_bytes(), str(file), "exec")
    except SyntaxError as error:
        shown = f" in `{error.text.strip()}`" if error.text and error.text.strip() else ""
        return f"{file}:{error.lineno}: no valid Python: {error.msg}{shown}; nothing was done"
    except (OSError, ValueError) as error:
        return f"{file}: cannot be read as Python ({error}); nothing was done"
    return ""


def python_files(inventory: str, operations: Sequence[str], group_data: Sequence[str]) -> Iterator[Path]:
    """The files that pyinfra runs: inventory, group data, and the scripts named on the command line."""
    yield from (Path(name) for name in (inventory, *operations) if name.endswith(".py"))
    for place in (Path("group_data"), Path(inventory).parent / "group_data", *map(Path, group_data)):
        yield from [place] if place.suffix == ".py" else sorted(place.glob("*.py"))


@contextmanager
def errors_as_messages() -> Iterator[None]:
    """Turn an error of the owner's own Python code into one message, where pyinfra would print a traceback.

    :raises OwnersMistakeError: in place of pyinfra's error
    """
    try:
        yield
    except ClickException as error:
        # The class by its name: importing pyinfra_cli patches the standard library for gevent.
        if type(error).__name__ == "UnexpectedExternalError" and (message := _mistake(error)):
            raise OwnersMistakeError(message) from None
        raise


def _mistake(error: Any) -> str:
    """The error with the owner's file and line; empty where code of this package is at fault."""
    frames = traceback.extract_tb(error.exception.__traceback__)
    if any(PACKAGE in Path(frame.filename).resolve().parents for frame in frames):
        return ""
    file = next((frame for frame in reversed(frames) if frame.filename == str(error.filename)), None)
    at = f"{error.filename}:{file.lineno}" if file is not None else str(error.filename)
    line = f" in `{file.line}`" if file is not None and file.line else ""
    return f"{at}: {type(error.exception).__name__}: {error.exception}{line}; nothing was done"
