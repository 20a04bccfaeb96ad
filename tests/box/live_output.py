"""Show a command's output as it comes, with its progress as one updated line on a terminal and sparsely in a log."""

from __future__ import annotations

import queue
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TextIO

LOG_EVERY_S = 60.0
"""Between two progress lines of one step in a log, where a line cannot be updated."""
ERASE = "\r\033[K"

_PROGRESS = re.compile(r"^(?P<step>.*): \S.* \(\d+ %\)")
"""As of llamarig.engine.progress: `compiling: 33/300 objects (11 %), 2 min left`."""
_STARTS = re.compile(r"^--> Starting operation: (?P<name>.*?) *$")


class LiveOutput:
    """Writes lines to a stream, and beneath them, on a terminal, the one that says what runs now."""

    def __init__(self, stream: TextIO, *, is_terminal: bool) -> None:
        self._stream = stream
        self._is_terminal = is_terminal
        self._operation = self._progress = ""
        self._began = 0.0
        self._logged_step, self._logged_at = "", 0.0

    def line(self, text: str, now: float) -> None:
        """Write one line of output, without its end. ``now``: seconds of any steady clock."""
        if match := _PROGRESS.match(text):
            self._progress = text
            if self._is_terminal:
                self.tick(now)
            elif match["step"] != self._logged_step or now - self._logged_at >= LOG_EVERY_S:
                self._logged_step, self._logged_at = match["step"], now
                self._write(f"{text}\n")
            return
        self._progress = ""
        if match := _STARTS.match(text):
            self.begin(match["name"], now)
        elif text.startswith("-->"):
            self._operation = ""
        self._write(f"{ERASE if self._is_terminal else ''}{text}\n")
        if self._is_terminal:
            self.tick(now)

    def begin(self, operation: str, now: float) -> None:
        """Say, on a terminal, that this runs now."""
        self._operation, self._began = operation, now

    def tick(self, now: float) -> None:
        """Update the line that says what runs now; in a log, nothing."""
        if not self._is_terminal or not self._operation:
            return
        shown = self._progress or f"    {self._operation}: {now - self._began:.0f} s"
        # A line that wraps cannot be erased.
        self._write(f"{ERASE}{shown[: shutil.get_terminal_size().columns - 1]}")

    def end(self) -> None:
        """Erase the updated line."""
        if self._is_terminal:
            self._write(ERASE)

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()


def run_live(
    argv: Sequence[str | Path],
    *,
    cwd: Path,
    operation: str = "",
    shown: Callable[[str], str | None] = lambda line: line,
    **options: Any,
) -> int:
    """Run a command, show its output, and return its exit status. Ctrl-C reaches the command, which ends by itself.

    :param operation: what runs before the output says it
    :param shown: a line of output -> the line to show; None for none
    :param options: of subprocess.Popen
    """
    output = LiveOutput(sys.stdout, is_terminal=sys.stdout.isatty())
    output.begin(operation, time.monotonic())
    lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
    process = subprocess.Popen(
        argv, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", **options
    )

    def read() -> None:
        assert process.stdout is not None
        for line in process.stdout:
            lines.put(line.rstrip("\n"))
        lines.put(None)

    threading.Thread(target=read, daemon=True).start()
    interrupted = False
    while True:
        try:
            line = lines.get(timeout=1)
        except queue.Empty:
            output.tick(time.monotonic())
            continue
        except KeyboardInterrupt:
            if interrupted:
                process.kill()
            interrupted = True
            continue
        if line is None:
            break
        if (text := shown(line)) is not None:
            output.line(text, time.monotonic())
    output.end()
    return process.wait()
