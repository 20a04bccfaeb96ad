"""The liveness probe stops a server with an API key that answers without it, and no other one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from llamarig.remote.serve.open_servers import is_open

from tests.remote.serve.switched_box import UNIT, SwitchedBox, wait_for

KEY = "sesame-0123456789"


@contextmanager
def running(box: SwitchedBox, mode: str, *flags: str) -> Iterator[str]:
    """Process ID of a server, which stops with the box."""
    (box.units / UNIT).write_text(box.text(mode, *flags))
    box.systemctl("daemon-reload")
    box.systemctl("start", UNIT)
    wait_for(lambda: box.listens())
    shown = dict(line.split("=", 1) for line in box.systemctl("show", UNIT).splitlines())
    yield shown["MainPID"]


@pytest.mark.parametrize(
    ("mode", "has_key", "expected"),
    [
        ("open", True, True),
        ("ok", True, False),
        ("forbidden", True, False),
        ("ok", False, False),
        ("hangs", True, False),
    ],
)
def test_a_keyed_server_that_answers_without_the_key_is_open(
    box: SwitchedBox, tmp_path: Path, mode: str, has_key: bool, expected: bool
) -> None:
    key_file = tmp_path / "key"
    key_file.write_text(KEY)
    with running(box, mode, *(["--api-key-file", str(key_file)] if has_key else [])) as pid:
        assert is_open(pid) == expected


def test_an_empty_key_file_opens_a_server(box: SwitchedBox, tmp_path: Path) -> None:
    """As with llama-server; a unit of this version does not start with such a file."""
    (tmp_path / "key").touch()
    with running(box, "ok", "--api-key-file", str(tmp_path / "key")) as pid:
        assert is_open(pid)


def test_a_process_that_has_ended_is_not_open() -> None:
    assert not is_open("0")
