"""Everything that is printed: messages of a host, and the streams that pyinfra and Python write to."""

from __future__ import annotations

import atexit
import re
import sys
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO, cast

import click
from pyinfra import logger
from pyinfra.api.host import Host

from llamarig.remote.shared.printable import printable

_COLOUR = re.compile(r"(\x1b\[(?:0|1|3[1-6])(?:;(?:0|1|3[1-6]))*m)")
"""What pyinfra and this package style text with: six colours, bold, and the end of both."""
_RESET = "\x1b[0m"
_CLEAR_LINE = "\x1b[K"


def say(host: Host, message: str, *, fg: str | None = None, log_func: Callable[[str], Any] = logger.info) -> None:
    """Log one line of a host, whatever its text came from.

    :param fg: a colour of `click.style`
    """
    text = printable(message)
    if fg is None:
        host.log(text, log_func=log_func)
    else:
        host.log_styled(text, fg=fg, log_func=log_func)


def announce(message: str, *, fg: str | None = None, log_func: Callable[[str], Any] = logger.info) -> None:
    """Log one line that is of no host, or of all."""
    text = printable(message)
    log_func(text if fg is None else click.style(text, fg=fg))


def announce_heading(message: str) -> None:
    """Log a heading as pyinfra does, with a blank line before it."""
    logger.info(f"\n--> {printable(message)}")


class PrintableStream:
    """A text stream that shows control characters instead of sending them to the terminal.

    Through it goes what no function of this package sees before: output of commands that pyinfra prints, tracebacks,
    messages of libraries. Line breaks, tabs and the colours that pyinfra uses pass, and its progress line.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write text, and return how much of it."""
        self._stream.write(text if text == _CLEAR_LINE else _shown(text))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write each of these texts."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def use_printable_streams() -> None:
    """Have this process print through PrintableStream, from now on."""
    if not isinstance(sys.stdout, PrintableStream):
        sys.stdout = cast("TextIO", PrintableStream(sys.stdout))
    if not isinstance(sys.stderr, PrintableStream):
        sys.stderr = cast("TextIO", PrintableStream(sys.stderr))


def keep_printable(file: Path) -> None:
    """Make a file printable at the end of this process, if it is written until then.

    pyinfra writes the traceback of an unexpected error to its own file, with whatever a box has sent.
    """
    before = _written(file)

    def rewrite() -> None:
        if _written(file) != before:
            with suppress(OSError):
                file.write_text(_shown(file.read_text(errors="replace")))

    atexit.register(rewrite)


def _written(file: Path) -> tuple[int, int]:
    try:
        found = file.stat()
    except OSError:
        return 0, 0
    return found.st_mtime_ns, found.st_ino


def _shown(text: str) -> str:
    if not isinstance(text, str):
        raise TypeError(f"write() argument must be str, not {type(text).__name__}")
    # A carriage return at the end is the progress line's; in the middle it would overwrite what is before it.
    body = text.removesuffix("\r")
    parts = _COLOUR.split(body)
    shown = "".join(
        part if number % 2 else "\n".join(printable(line) for line in part.split("\n"))
        for number, part in enumerate(parts)
    )
    if len(parts) > 1 and parts[-2] != _RESET:
        shown += _RESET  # a colour must not reach what is printed next
    return shown + text[len(body) :]
