"""Uploads: the command is run here as a box would run it, in a directory of its own."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import time
from pathlib import Path

import pytest
from llamarig.engine.upload import upload
from pyinfra.api.command import StringCommand


def sent(command: StringCommand) -> str:
    text = command.connector_arguments["_stdin"]
    assert isinstance(text, str)
    return text


def run(command: StringCommand, stdin: str | None = None, path: str = "") -> subprocess.CompletedProcess[str]:
    """Run an upload as pyinfra does, with its stdin or another one."""
    return subprocess.run(
        ["sh", "-c", command.get_raw_value()],
        input=sent(command) if stdin is None else stdin,
        env={**os.environ, "PATH": f"{path}{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("name", ["llamarig-a.service", "with 'quotes\" and $(spaces)"])
@pytest.mark.parametrize("content", ["", "é\n", "no newline at the end", bytes(range(256)) * 1000])
def test_every_content_arrives_as_it_is(tmp_path: Path, name: str, content: str | bytes) -> None:
    path = tmp_path / name
    done = run(upload(content, str(path)))
    assert (done.returncode, done.stderr) == (0, "")
    assert path.read_bytes() == (content.encode() if isinstance(content, str) else content)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("arrives", [0, 100, -5])
def test_a_connection_that_breaks_leaves_the_old_file_and_nothing_else(tmp_path: Path, arrives: int) -> None:
    path = tmp_path / "llamarig-a.service"
    path.write_text("old")
    command = upload("new" * 1000, str(path))
    done = run(command, sent(command)[:arrives])
    assert done.returncode == 1
    assert f"{path} did not arrive whole, and is as it was: run this again" in done.stderr
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def children(pid: int) -> list[str]:
    pids = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [Path(f"/proc/{child}/comm").read_text().strip() for child in pids]


def test_a_stopped_upload_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "llamarig-a.service"
    path.write_text("old")
    command = ["sh", "-c", upload("new", str(path)).get_raw_value()]
    with subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True) as process:
        deadline = time.monotonic() + 60
        while "base64" not in children(process.pid):
            assert time.monotonic() < deadline, "it reads no content"
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(60)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_program_that_has_the_old_file_open_keeps_its_content(tmp_path: Path) -> None:
    path = tmp_path / "program.py"
    path.write_text("old")
    with path.open() as reader:
        assert run(upload("new", str(path))).returncode == 0
        assert reader.read() == "old"


def test_the_mode_is_set_before_the_rename_and_others_read_no_part_of_it(tmp_path: Path) -> None:
    bin_directory, directory = tmp_path / "bin", tmp_path / "etc"
    bin_directory.mkdir()
    directory.mkdir()
    for name, look in (("base64", 'stat -c "%a" "$part" >&2'), ("mv", 'stat -c "%a %U" "$2" >&2')):
        program = bin_directory / name
        # `part` is a variable of the script and not of the environment: the pattern finds the same file.
        program.write_text(f'#!/bin/sh\npart=$(ls -d {directory}/.*.part)\n{look}\nexec /usr/bin/{name} "$@"\n')
        program.chmod(0o755)
    done = run(upload("x", str(directory / "job.json"), mode="640"), path=f"{bin_directory}:")
    owner = subprocess.run(["id", "-un"], capture_output=True, text=True, check=True).stdout
    assert done.stderr == f"600\n640 {owner}"
    assert stat.S_IMODE((directory / "job.json").stat().st_mode) == 0o640


def test_a_directory_at_the_target_is_not_written_into(tmp_path: Path) -> None:
    (tmp_path / "unit").mkdir()
    assert run(upload("x", str(tmp_path / "unit"))).returncode != 0
    assert list((tmp_path / "unit").iterdir()) == []
