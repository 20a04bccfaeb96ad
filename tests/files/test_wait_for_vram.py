"""A unit waits as long as GPU memory is being given back, and never longer than it says.

nvidia-smi is played by a script: there is no such GPU here. What it prints is nvidia-smi's format.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).parents[2] / "tasks" / "files" / "wait_for_vram.py"


def run(directory: Path, script: str | None) -> tuple[str, int]:
    """What the program said, and how often it asked."""
    asked = directory / "asked"
    if script is not None:
        fake = directory / "nvidia-smi"
        fake.write_text(f"#!/bin/sh\necho >>{asked}\n{script}\n")
        fake.chmod(0o755)
    done = subprocess.run(
        [sys.executable, "-I", "-B", str(PROGRAM)],
        env={"PATH": f"{directory}:/usr/bin:/bin" if script is not None else str(directory)},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return done.stdout, len(asked.read_text()) if asked.exists() else 0


def falling(directory: Path, *samples: str) -> str:
    """Prints one sample more at every call, and the last one ever after."""
    for index, sample in enumerate(samples):
        (directory / f"sample{index}").write_text(sample)
    count = directory / "count"
    return (
        f"n=$(cat {count} 2>/dev/null || echo 0); echo $((n + 1)) >{count}; "
        f"test -f {directory}/sample$n || n={len(samples) - 1}; cat {directory}/sample$n"
    )


def test_without_nvidia_smi_nothing_is_waited_for(tmp_path: Path) -> None:
    assert run(tmp_path, None) == ("", 0)


@pytest.mark.parametrize("script", ["exit 9", "echo 'No devices were found'", "echo '[N/A]'"])
def test_without_an_answer_nothing_is_waited_for(tmp_path: Path, script: str) -> None:
    assert run(tmp_path, script) == ("", 1)


def test_memory_at_rest_is_waited_for_two_polls(tmp_path: Path) -> None:
    assert run(tmp_path, falling(tmp_path, "900\n300\n", "905\n300\n")) == ("", 3)


def test_memory_that_is_being_given_back_is_waited_for(tmp_path: Path) -> None:
    said, asked = run(tmp_path, falling(tmp_path, "22000\n300\n", "15000\n300\n", "700\n300\n"))
    assert said.startswith("waited ")
    assert "21300 MiB" in said
    assert asked == 5


def test_the_wait_ends_even_if_the_memory_never_rests(tmp_path: Path) -> None:
    text = PROGRAM.read_text().replace("LONGEST_S = 30.0", "LONGEST_S = 2.0")
    shorter = tmp_path / "wait.py"
    shorter.write_text(text)
    (tmp_path / "nvidia-smi").write_text(
        f"#!/bin/sh\nn=$(cat {tmp_path}/n 2>/dev/null || echo 90000); n=$((n - 100)); echo $n | tee {tmp_path}/n\n"
    )
    (tmp_path / "nvidia-smi").chmod(0o755)
    done = subprocess.run(
        [sys.executable, str(shorter)],
        env={"PATH": f"{tmp_path}:/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "still being given back after 2 s" in done.stdout
