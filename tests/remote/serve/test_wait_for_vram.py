"""A unit waits while GPU memory is being released, up to a limit. A script stands in for nvidia-smi."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).parents[3] / "tasks/llamarig/remote/serve/wait_for_vram.py"


def run(directory: Path, script: str | None) -> tuple[str, int]:
    """Output of the program, and the number of times it ran nvidia-smi."""
    calls = directory / "calls"
    if script is not None:
        fake = directory / "nvidia-smi"
        fake.write_text(f"#!/bin/sh\necho >>{calls}\n{script}\n")
        fake.chmod(0o755)
    done = subprocess.run(
        [sys.executable, "-I", "-B", str(PROGRAM)],
        env={"PATH": f"{directory}:/usr/bin:/bin" if script is not None else str(directory)},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return done.stdout, len(calls.read_text()) if calls.exists() else 0


def falling(directory: Path, *samples: str) -> str:
    """A script that prints the next sample at every call, and repeats the last one."""
    for index, sample in enumerate(samples):
        (directory / f"sample{index}").write_text(sample)
    count = directory / "count"
    return (
        f"n=$(cat {count} 2>/dev/null || echo 0); echo $((n + 1)) >{count}; "
        f"test -f {directory}/sample$n || n={len(samples) - 1}; cat {directory}/sample$n"
    )


def test_there_is_no_wait_without_nvidia_smi(tmp_path: Path) -> None:
    assert run(tmp_path, None) == ("", 0)


@pytest.mark.parametrize("script", ["exit 9", "echo 'No devices were found'", "echo '[N/A]'"])
def test_there_is_no_wait_when_nvidia_smi_fails(tmp_path: Path, script: str) -> None:
    assert run(tmp_path, script) == ("", 1)


def test_steady_memory_is_polled_twice_more(tmp_path: Path) -> None:
    assert run(tmp_path, falling(tmp_path, "900\n300\n", "905\n300\n")) == ("", 3)


def test_the_program_waits_while_memory_is_released(tmp_path: Path) -> None:
    output, calls = run(tmp_path, falling(tmp_path, "22000\n300\n", "15000\n300\n", "700\n300\n"))
    assert output.startswith("waited ")
    assert "21300 MiB" in output
    assert calls == 5


def test_the_wait_is_limited(tmp_path: Path) -> None:
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
    assert "still being released after 2 s" in done.stdout
