"""Clients that mean harm: each is refused or bounded, and the others are served meanwhile."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.remote.front.front_box import FrontBox, front_box

POST = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"


@pytest.fixture(scope="module")
def attacked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FrontBox]:
    with front_box(tmp_path_factory.mktemp("attacked"), max_body_mib=1) as box:
        box.ask("a")
        yield box


@pytest.fixture(autouse=True)
def _others_are_served(attacked: FrontBox) -> Iterator[None]:
    yield
    assert attacked.ask("a")[0] == 200
    assert "Traceback" not in attacked.log()


def send(box: FrontBox, data: bytes, seconds: float = 10) -> bytes:
    """What comes back for these bytes, until the front closes the connection or the time is over."""
    answer = b""
    with socket.create_connection(("127.0.0.1", box.port), timeout=seconds) as connection:
        try:
            connection.sendall(data)
            while piece := connection.recv(65536):
                answer += piece
        except (TimeoutError, ConnectionError):
            pass
    return answer


def statuses(answer: bytes) -> list[int]:
    return [int(part[1:4]) for part in answer.split(b"HTTP/1.1")[1:] if part[1:4].isdigit()]


@pytest.mark.parametrize(
    "smuggled",
    [
        b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /metrics HTTP/1.1\r\nHost: a\r\n\r\n",
        b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n{    }",
        b"Content-Length: +5\r\n\r\n{   }",
        b"Content-Length: -1\r\n\r\n",
        b"Content-Length: 5, 5\r\n\r\n{   }",
        b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
        b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
        b"Transfer-Encoding: chunked\r\n\r\n-1\r\n\r\n",
        b"Transfer-Encoding: chunked\r\n\r\n0x5\r\n{   }\r\n0\r\n\r\n",
        b"X: 1\r\n Content-Length: 5\r\n\r\n{   }",
        b"X\x00Y: 1\r\n\r\n",
        b"X: 1\nContent-Length: 5\r\n\r\n{   }",
    ],
)
def test_a_request_of_two_meanings_is_refused(attacked: FrontBox, smuggled: bytes) -> None:
    """Of a message that two servers could read differently, none reaches the model, and no second one is seen in it."""
    before = attacked.noted()
    found = statuses(send(attacked, POST + smuggled, seconds=3))
    assert found in ([400], [])
    assert attacked.noted() == before


@pytest.mark.parametrize(
    "head",
    [
        b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 100_000 + b"\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: localhost\r\n" + b"X: a\r\n" * 10_000 + b"\r\n",
    ],
)
def test_huge_headers_are_refused(attacked: FrontBox, head: bytes) -> None:
    """The answer may be lost: what of the request is still unread resets the connection."""
    assert statuses(send(attacked, head)) in ([400], [])


def test_headers_that_never_end_are_cut_off(attacked: FrontBox) -> None:
    """After 60 s at most, whatever trickles in; here only that they keep nobody waiting."""
    with socket.create_connection(("127.0.0.1", attacked.port)) as slow:
        slow.sendall(b"GET /health HTTP/1.1\r\nHost: local")
        began = time.monotonic()
        assert attacked.get("/health")[0] == 200
        assert time.monotonic() - began < 2


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"{", 400),
        (b"[" * 100_000, 400),
        (b'{"a":' * 100_000, 400),
        (b'{"model": "\xff\xfe"}', 400),
        (b'{"model": "\\ud800"}', 400),
        (b'{"model": 7}', 400),
        (b'{"model": {"a": 1}}', 400),
        (b'{"model": "a\\u0000"}', 404),
        (b'{"model": "../../etc/passwd"}', 404),
        (b'{"model": "a; systemctl stop ssh"}', 404),
        (b'{"model": "' + b"x" * 100_000 + b'"}', 400),
        (b'{"model": "a"}' + b" " * (1 << 20), 413),
    ],
)
def test_a_bad_body_is_refused_in_words(attacked: FrontBox, body: bytes, status: int) -> None:
    found, _, content = attacked.request("POST", "/v1/chat/completions", body)
    assert found == status
    assert json.loads(content)["error"]["message"]


def test_model_names_with_every_character_are_unknown(attacked: FrontBox) -> None:
    for code in [*range(0x180), 0x202E, 0xFFFF, 0x1F600]:
        status, answer = attacked.ask(f"x{chr(code)}y")
        assert status == 404, hex(code)
        assert "no model is called" in answer["error"]["message"]


def test_a_chunked_body_without_an_end_is_bounded(attacked: FrontBox) -> None:
    chunk = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
    assert statuses(send(attacked, POST + b"Transfer-Encoding: chunked\r\n\r\n" + chunk * 40)) == [413]


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "evil.example"}, 421),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Content-Encoding": "gzip"}, 415),
    ],
)
def test_strangers_pages_and_encodings_are_refused(attacked: FrontBox, headers: dict[str, str], status: int) -> None:
    head = b"".join(f"{name}: {value}\r\n".encode() for name, value in headers.items())
    host = b"" if "Host" in headers else b"Host: localhost\r\n"
    body = b'{"model": "a"}'
    request = b"POST /v1/chat/completions HTTP/1.1\r\n" + host + head + b"Content-Length: %d\r\n\r\n" % len(body) + body
    answer = send(attacked, request + b"", seconds=3)
    assert statuses(answer)[:1] == [status]
    assert b"Access-Control-Allow-Origin" not in answer


@pytest.mark.parametrize(
    "path", ["/upstream/../metrics", "/upstream/a%2f..%2f..", "/upstream//x", "/upstream/", "//", "/%00"]
)
def test_odd_paths_reach_nothing(attacked: FrontBox, path: str) -> None:
    before = attacked.noted()
    answer = send(attacked, f"DELETE {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode(), 3)
    assert statuses(answer) in ([404], [400])
    assert attacked.noted() == before


def test_many_connections_that_say_nothing_keep_nobody_out(attacked: FrontBox) -> None:
    silent = [socket.create_connection(("127.0.0.1", attacked.port)) for _ in range(300)]
    try:
        assert attacked.ask("a")[0] == 200
    finally:
        for connection in silent:
            connection.close()


def test_a_full_queue_is_429(tmp_path: Path) -> None:
    with front_box(tmp_path, queue_length=1, longest_wait_s=60) as box:
        box.ask("a")
        with box.stream("a", chunks=100, pause=0.1) as first, box.stream("a", chunks=100, pause=0.1) as second:
            assert first.read1()
            assert second.read1()
            with box.stream("a") as third:
                assert third.read1().startswith(b": waiting for a slot of a")
                status, headers, content = box.request("POST", "/v1/chat/completions", b'{"model": "a"}')
                assert status == 429
                assert int(headers["retry-after"]) >= 1
                assert json.loads(content)["error"]["message"] == "1 requests wait for a already"
                status, _, content = box.request("POST", "/v1/messages", b'{"model": "a"}')
                assert json.loads(content)["error"]["type"] == "rate_limit_error"
