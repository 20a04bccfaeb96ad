"""Kernel messages about GPUs and killed processes."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from llamarig.facts.kernel_messages import GpuMessage, KernelLog, KernelMessages, KilledProcess, shown_time

from tests.facts.captures import DATA

DOCUMENTED = (DATA / "documented/KernelMessages.gpus.txt").read_text().splitlines()


def test_messages_of_both_drivers() -> None:
    log = KernelMessages().process(DOCUMENTED)
    assert log.readable
    assert log.gpu == (
        GpuMessage("79", "0000:01:00", 1795842009),
        GpuMessage("45", "0000:01:00", 1795842010),
        GpuMessage("8", "0000:02:00", 1795842011),
        GpuMessage("ring timeout", "0000:03:00.0", 1795842012, "comp_1.0.0"),
        GpuMessage("ring timeout", "", 1795842013, "gfx"),
        GpuMessage("page fault", "0000:03:00.0", 1795842014),
        GpuMessage("VRAM lost", "0000:03:00.0", 1795842015),
        GpuMessage("MES hang", "0000:03:00.0", 1795842015),
        GpuMessage("MES hang", "", 1795842015),
        GpuMessage("command submission", "", 1795842016),
    )


def test_every_message_that_is_understood_is_among_those_that_are_searched(tmp_path: Path) -> None:
    """The journal is a stand-in, since a container shows no kernel messages; the command is the box's."""
    (tmp_path / "lines").write_text("\n".join(line for line in DOCUMENTED if " kernel: " in line) + "\n")
    program = tmp_path / "journalctl"
    program.write_text(f"#!/bin/sh\ncat {tmp_path}/lines\n")
    program.chmod(0o755)
    path = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    command = ["sh", "-c", KernelMessages().command()]
    output = subprocess.run(command, env=path, stdout=subprocess.PIPE, text=True, check=True).stdout
    assert KernelMessages().process(output.splitlines()) == KernelMessages().process(DOCUMENTED)


def test_a_killed_process_has_its_unit_and_its_memory() -> None:
    captured = (DATA / "answers/KernelMessages.vm_debian12.txt").read_text().splitlines()
    (kill,) = KernelMessages().process(captured).kills
    assert (kill.name, kill.unit, kill.of_limit) == ("python3", "llamarig-tiny.service", True)
    assert 50 * 1024 < kill.resident_kib < 80 * 1024
    (kill,) = KernelMessages().process([*DOCUMENTED]).kills
    assert kill == KilledProcess(92787, "llama-server", 1795842018, 63_000_000 + 1024, "llamarig-big.service")


def test_a_container_shows_no_messages() -> None:
    assert KernelMessages().process(["== readable", "0", "", "== messages"]) == KernelLog(readable=False)
    assert KernelMessages().process(["== readable", "1", "", "== messages"]) == KernelLog(readable=True)


def test_times_are_shown_in_utc() -> None:
    assert shown_time(1795842009) == "2026-11-28 05:00 UTC"
