"""What a rehearsal shows while it runs: one updated line on a terminal, few lines in a log."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest

from tests.box.live_output import ERASE, LOG_EVERY_S, LiveOutput, run_live

OPERATION = "--> Starting operation: Finished work "


def compiling(done: int) -> str:
    return f"    [rehearsal-box] build: compiling: {done}/300 objects ({done // 3} %), 4 min left"


def shown(*lines: tuple[float, str], is_terminal: bool) -> str:
    stream = io.StringIO()
    output = LiveOutput(stream, is_terminal=is_terminal)
    for now, line in lines:
        output.line(line, now)
    output.end()
    return stream.getvalue()


def test_on_a_terminal_progress_is_one_line_that_is_updated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    text = shown((0, OPERATION), (1, compiling(3)), (6, compiling(30)), (9, "    built"), is_terminal=True)
    assert text.count("\n") == 2, text
    assert f"{ERASE}{compiling(3)}{ERASE}{compiling(30)}{ERASE}    built\n" in text
    assert text.endswith(ERASE)


def test_a_progress_line_is_cut_to_the_terminals_width(monkeypatch: pytest.MonkeyPatch) -> None:
    """Regression: a line that wraps stays on the screen when it is updated."""
    monkeypatch.setenv("COLUMNS", "40")
    text = shown((0, OPERATION), (1, compiling(3)), is_terminal=True)
    assert max(len(part.strip("\n")) for part in text.split(ERASE)) < 40


def test_a_silent_operation_shows_how_long_it_has_run() -> None:
    stream = io.StringIO()
    output = LiveOutput(stream, is_terminal=True)
    output.line("--> Starting operation: Compilers and tools ", 0)
    output.tick(34)
    assert stream.getvalue().endswith(f"{ERASE}    Compilers and tools: 34 s")


def test_a_log_has_a_progress_line_a_minute_and_each_new_step_at_once() -> None:
    first, soon, later = (0, compiling(3)), (5, compiling(30)), (LOG_EVERY_S, compiling(90))
    other = (LOG_EVERY_S + 1, "    [rehearsal-box] Models: downloading x.gguf: 0.50 of 1.00 GiB (50 %)")
    text = shown((0, OPERATION), first, soon, later, other, is_terminal=False)
    assert text.splitlines() == [OPERATION, first[1], later[1], other[1]]


def test_a_commands_output_and_exit_status_are_passed_on(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    script = "import sys; print('out'); print('err', file=sys.stderr); sys.exit(3)"
    assert run_live([sys.executable, "-u", "-c", script], cwd=tmp_path) == 3
    assert capfd.readouterr().out.splitlines() == ["out", "err"]
