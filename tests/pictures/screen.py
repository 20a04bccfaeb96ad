"""A command's screen: run in a terminal of a fixed width, and drawn as SVG with its colours."""

from __future__ import annotations

import fcntl
import io
import os
import pty
import re
import struct
import subprocess
import termios
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import MONOKAI
from rich.text import Text

COLUMNS = 110
"""Width of the terminal. Longer lines are wrapped between words, so that a picture stays readable at a page's width."""


@dataclass(frozen=True)
class Screen:
    """What a command wrote to its terminal, with the escape sequences of colours, and its exit code."""

    text: str
    code: int


def recorded(argv: Sequence[str | Path], cwd: Path, environment: Mapping[str, str]) -> Screen:
    """Run a command in a terminal of its own, without keyboard input.

    pyinfra colours what it prints only there. Its progress spinner is switched off: a picture has no motion.
    """
    ours, its = pty.openpty()
    fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", 50, COLUMNS, 0, 0))
    process = subprocess.Popen(
        argv,
        cwd=cwd,
        env={**environment, "TERM": "xterm-256color", "COLUMNS": str(COLUMNS), "PYINFRA_PROGRESS": "off"},
        stdin=subprocess.DEVNULL,
        stdout=its,
        stderr=its,
    )
    os.close(its)
    written = bytearray()
    with os.fdopen(ours, "rb", buffering=0) as terminal:
        while chunk := _read(terminal):
            written += chunk
    return Screen(written.decode(errors="replace").replace("\r\n", "\n"), process.wait())


def _read(terminal: io.FileIO) -> bytes:
    """The next bytes; none at the end, which Linux reports as an I/O error of the terminal."""
    try:
        return terminal.read(65536)
    except OSError:
        return b""


def svg(screen: str, title: str, name: str) -> str:
    """A picture of a terminal window with this text.

    :param screen: text with ANSI colours
    :param title: of the window: the command
    :param name: makes the picture's own identifiers, so that the same text is the same picture
    """
    console = Console(
        record=True,
        width=COLUMNS,
        height=25,  # without it, rich takes a terminal of TERM=dumb for 80 columns wide
        file=io.StringIO(),
        force_terminal=True,
        color_system="truecolor",
    )
    # Text.from_ansi drops a line feed at the end; empty lines before it would be drawn.
    console.print(Text.from_ansi(screen.strip("\n")), overflow="fold")
    picture = console.export_svg(title=title, theme=MONOKAI, unique_id=name)
    # Fonts from a third party's server: whoever looks at the page would be asked for them.
    picture = re.sub(r"\s*@font-face \{.*?\}\n", "\n", picture, flags=re.DOTALL)
    return re.sub(r"[ \t]+$", "", picture, flags=re.MULTILINE).rstrip("\n") + "\n"
