"""The client returns an answer of the expected shape, or raises NoAnswerError."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from llamarig.remote.serve import probe_servers
from llamarig.remote.serve.server_client import NoAnswerError, Server

from tests.remote.serve.server_stand_in import server


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
def test_every_bad_answer_raises_the_same_error(mode: str, status: int, answered: bool) -> None:
    with serving(mode) as client, pytest.raises(NoAnswerError) as error:
        client.get("/props")
    assert (error.value.status, error.value.answered) == (status, answered)
    assert "sesame" not in str(error.value)


def test_a_request_to_an_ended_server_raises_no_answer_error() -> None:
    with serving("ok") as client:
        assert client.get("/props")["build_info"]
    with pytest.raises(NoAnswerError, match="refused"):
        client.get("/props")
    assert not client.is_healthy()


def test_slots_of_another_shape_are_not_a_hang() -> None:
    """Three rounds without an answer restart a server; an answer of another shape must not."""
    with serving("slots-object") as client:
        assert probe_servers.slots(client) is None
    with serving("ok") as client:
        assert probe_servers.slots(client) == ()
