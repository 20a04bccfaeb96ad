"""Python interpreters of this machine, and programs that are not Python, read with the fact's command."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from llamarig.facts.interpreters import Interpreter, Interpreters


def read(*paths: Path | str) -> list[Interpreter]:
    fact = Interpreters()
    command = fact.command([str(path) for path in paths])
    output = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=True).stdout
    found = fact.process(output.splitlines())
    return [found[str(path)] for path in paths]


def script(path: Path, text: str) -> Path:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def test_version_and_completeness_of_a_usable_python() -> None:
    (found,) = read(sys.executable)
    assert found == Interpreter((sys.version_info.major, sys.version_info.minor), complete=True)
    assert found.is_usable


def test_a_missing_or_crashing_python_is_unusable(tmp_path: Path) -> None:
    missing, crashing = read(tmp_path / "nowhere", script(tmp_path / "crashing", "kill -SEGV $$"))
    assert missing == crashing == Interpreter()
    assert not missing.is_usable
    assert str(missing) == "no Python that runs"


def test_an_old_or_incomplete_python_is_unusable(tmp_path: Path) -> None:
    old = script(tmp_path / "old", "echo version=3.8; echo complete=yes")
    # Like Debian without python3-venv: no ensurepip.
    small = script(
        tmp_path / "small", f"shift 2; exec {sys.executable} -S -c \"import sys; sys.modules['ensurepip'] = None; $1\""
    )
    first, second = read(old, small)
    assert first == Interpreter((3, 8), complete=True)
    assert not first.is_usable
    assert second == Interpreter((sys.version_info.major, sys.version_info.minor), complete=False)
    assert not second.is_usable
    assert str(second).endswith("without venv, ensurepip or ssl")


def test_garbage_is_read_as_no_python() -> None:
    fact = Interpreters()
    assert fact.process(["version=3.13", "complete=yes"]) == {}
    assert fact.process(["path=/p", "version=3.x", "version=", "nonsense"]) == {"/p": Interpreter()}
