"""What the front can have done as root: start and stop the units of a file of root's, and no others."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from llamarig.remote.front.unit_helper import RefusedError, answer

from tests.remote.front.front_box import HELPER

UNITS = {"a": {"unit": "llamarig-a.service", "key_file": "/nowhere"}, "b": {"unit": "llamarig-b.service"}}


def run(tmp_path: Path, request: bytes, units: str = '{"a": {"unit": "llamarig-a.service"}}') -> tuple[str, list[str]]:
    """The answer of the program, and how it called systemctl."""
    (tmp_path / "units.json").write_text(units)
    calls = tmp_path / "calls"
    calls.touch()
    for program in ("systemctl", "journalctl"):
        (tmp_path / program).write_text(f'#!/bin/sh\necho {program} "$@" >>{calls}\n')
        (tmp_path / program).chmod(0o755)
    command = [sys.executable, "-I", "-B", str(HELPER), str(tmp_path / "units.json")]
    environment = {**os.environ, "PATH": f"{tmp_path}:/usr/bin:/bin"}
    done = subprocess.run(command, input=request, capture_output=True, env=environment, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.decode(), calls.read_text().splitlines()


def test_it_starts_and_stops_a_listed_unit(tmp_path: Path) -> None:
    assert run(tmp_path, b"start a\n") == (
        "ok\n",
        ["systemctl reset-failed llamarig-a.service", "systemctl start llamarig-a.service"],
    )
    assert run(tmp_path, b"stop a\n")[1][2:] == ["systemctl stop llamarig-a.service"]


REFUSED = [
    *(b"", b"\n", b"start\n", b"start \n", b"restart a\n", b"start a a\n", b"start b\n", b"start ssh.service\n"),
    *(b"start llamarig-a.service\n", b"start llamarig-a\n", b"stop ../a\n", b"start --all\n", b"start a;reboot\n"),
    *(
        b"start $(reboot)\n",
        b"start a\x00b\n",
        b"start \xff\n",
        b"start " + b"a" * 10_000,
        b"daemon-reload\n",
        b"gpus a\n",
    ),
    *(b"isolate rescue.target\n", b"key ../../etc/shadow\n", b"key /etc/shadow\n", b'start {"unit": "ssh.service"}\n'),
]


@pytest.mark.parametrize("request_line", REFUSED, ids=map(repr, map(bytes.strip, (each[:40] for each in REFUSED))))
def test_it_touches_no_other_unit(request_line: bytes) -> None:
    """Nothing that is refused comes as far as systemctl: the name is looked up, and never passed on."""
    with pytest.raises(RefusedError):
        answer(request_line[:200], {"a": UNITS["a"]})


@pytest.mark.parametrize("request_line", [b"start ssh.service\n", b"start a;reboot\n", b"start " + b"a" * 10_000])
def test_a_refused_request_starts_no_program(tmp_path: Path, request_line: bytes) -> None:
    output, calls = run(tmp_path, request_line)
    assert (output.startswith("failed\n"), calls) == (True, [])


def test_a_key_that_cannot_be_read_is_told_without_its_content(tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text("secret with spaces \n")
    key.chmod(0o600)
    assert answer(b"key a", {"a": {"unit": "u", "key_file": str(key)}})[0] is False
    assert "secret" not in answer(b"key a", {"a": {"unit": "u", "key_file": str(key)}})[1]
    assert answer(b"key b", UNITS) == (True, "")
