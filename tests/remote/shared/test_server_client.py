"""The client returns an answer of the expected shape, or raises NoAnswerError."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from llamarig.remote.serve import probe_servers
from llamarig.remote.shared.server_client import NoAnswerError, Server

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
        ("props-chunks", 0, False),
        ("props-endless", 0, True),
        ("props-endless-500", 0, True),
        ("props-latin-1", 0, True),
        ("props-utf-16", 0, True),
        ("props-digits", 0, True),
        ("props-nan", 0, True),
    ],
)
def test_every_bad_answer_raises_the_same_error(mode: str, status: int, answered: bool) -> None:
    with serving(mode) as client, pytest.raises(NoAnswerError) as error:
        client.get("/props")
    assert (error.value.status, error.value.answered) == (status, answered)
    assert "sesame" not in str(error.value)
    assert len(str(error.value)) < 300


def test_a_byte_now_and_then_does_not_extend_the_deadline() -> None:
    began = time.monotonic()
    with serving("props-drip") as client, pytest.raises(NoAnswerError, match="no whole answer within 1 s") as error:
        client.get("/props", timeout=1)
    assert 0.9 < time.monotonic() - began < 5
    assert not error.value.answered


def test_a_server_that_does_not_read_the_request_does_not_extend_the_deadline() -> None:
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        client = Server(f"http://127.0.0.1:{deaf.getsockname()[1]}", None)
        with pytest.raises(NoAnswerError, match="no whole answer within 1 s"):
            client.post("/completion", {"prompt": "x" * (64 << 20)}, timeout=1)


def test_a_key_that_no_header_can_carry_is_not_in_the_message() -> None:
    with pytest.raises(NoAnswerError) as error:
        Server("http://127.0.0.1:9", "sesame\nopen").get("/props")
    assert "sesame" not in str(error.value)


@pytest.mark.parametrize("protocol", ["HTTP/1.0", "HTTP/1.1"])
def test_no_connection_keeps_the_port_from_a_server_that_binds_as_older_ones_do(protocol: str) -> None:
    """They bind without SO_REUSEADDR. With HTTP/1.0 the server hangs up first, with 1.1 it waits for the client to."""
    http = server(0, "ok")
    # typeshed gives the attribute to BaseHTTPRequestHandler alone, and the server's class by its base.
    http.RequestHandlerClass.protocol_version = protocol  # type: ignore[attr-defined]  # of the handler's class
    threading.Thread(target=http.serve_forever, args=(0.05,), daemon=True).start()
    address = http.server_address[:2]
    client = Server(f"http://127.0.0.1:{address[1]}", None)
    assert client.is_healthy()
    assert client.get("/props")["build_info"]
    assert client.post("/completion", {}, timeout=10)["usage"]
    http.shutdown()
    http.server_close()
    with socket.socket() as older:
        older.bind(address)


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
