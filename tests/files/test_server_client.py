"""Whatever a server answers, whoever asks it gets an answer of the shape asked for, or one kind of error."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tasks.files import probe_servers
from tasks.files.server_client import NoAnswerError, Server
from tests.files.server_stand_in import server


@contextmanager
def serving(mode: str) -> Iterator[Server]:
    with server(0, mode) as http:
        http.daemon_threads = True
        threading.Thread(target=http.serve_forever, args=(0.05,), daemon=True).start()
        try:
            yield Server(f"http://127.0.0.1:{http.server_address[1]}", "sesame")
        finally:
            http.shutdown()


@pytest.mark.parametrize(
    ("mode", "status", "answered"),
    [
        ("props-500", 500, True),
        ("props-redirect", 302, True),
        ("props-no-json", 0, True),
        ("props-deep", 0, True),
        ("props-list", 0, True),
        ("props-number", 0, True),
        ("props-reset", 0, False),
        ("props-incomplete", 0, False),
        ("props-bad-status", 0, False),
    ],
)
def test_every_bad_answer_is_one_kind_of_error(mode: str, status: int, answered: bool) -> None:
    with serving(mode) as asked, pytest.raises(NoAnswerError) as error:
        asked.get("/props")
    assert (error.value.status, error.value.answered) == (status, answered)
    assert "sesame" not in str(error.value)


def test_one_that_is_gone() -> None:
    with serving("ok") as asked:
        assert asked.get("/props")["build_info"]
    with pytest.raises(NoAnswerError, match="refused"):
        asked.get("/props")
    assert not asked.is_healthy()


def test_slots_of_another_shape_are_not_taken_for_a_hang() -> None:
    """Three rounds of silence restart a server; one whose /slots nobody understands is let alone."""
    with serving("slots-object") as asked:
        assert probe_servers.slots(asked) is None
    with serving("ok") as asked:
        assert probe_servers.slots(asked) == []
