"""HTTP client for a llama-server on this box: limits the size and the time of answers, and has one error for bad ones.

A server that has loaded a foreign model may answer anything: an endless body, a byte a minute, a redirect, JSON of
another shape. Its clients here run as root.
"""

from __future__ import annotations

import http.client
import io
import json
import socket
import ssl
import struct
import time
from collections.abc import Callable
from pathlib import Path
from threading import Lock
from typing import Any, TypeVar
from urllib.parse import urlsplit

from llamarig.remote.shared.server_url import url_of

T = TypeVar("T")

LARGEST_ANSWER = 8 << 20
"""Bytes; far more than llama-server's answers to the requests here."""
_SHOWN = 200
"""Most characters of an unexpected answer in a message."""
_MOST_DIGITS = 40
"""Of an integer in an answer: Python converts longer ones in quadratic time."""
_PARSING = Lock()
"""Held while an answer is parsed: 8 MiB may become 300 MiB, and the probe asks many servers at once."""
_RESET = struct.pack("ii", 1, 0)
"""SO_LINGER: on, 0 s."""


class NoAnswerError(OSError):
    """The server did not give the expected answer.

    ``status``: HTTP status of a response other than 2xx, else 0; ``answered``: whether a whole response came.
    """

    def __init__(self, message: str, *, status: int = 0, answered: bool = False) -> None:
        super().__init__(message)
        self.status = status
        self.answered = answered


def arguments_of(pid: str) -> list[str]:
    """Return the command line of a process.

    :raises OSError: when it has ended
    """
    return Path(f"/proc/{pid}/cmdline").read_text(errors="replace").rstrip("\0").split("\0")


class Server:
    """One running llama-server. No proxy is used and no redirect is followed, so the key goes to this server alone."""

    def __init__(self, address: str, key: str | None) -> None:
        """:param address: ``http://HOST:PORT/PREFIX``, or https"""
        url = urlsplit(address)
        self._host, self._port, self._prefix = url.hostname or "", url.port or 80, url.path
        self._tls = _unverified() if url.scheme == "https" else None
        self._headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {key}"} if key else {})}

    @classmethod
    def of_process(cls, pid: str, key: str | None) -> Server:
        """Return the server of a process, at the address of its command line.

        :param pid: may be empty, where systemd did not answer
        :raises OSError: when the process has ended, or is not known
        """
        if not pid:  # /proc//cmdline is the kernel's
            raise ProcessLookupError("systemd does not report the process of the server")
        return cls(url_of(arguments_of(pid)), key)

    def is_healthy(self) -> bool:
        """Whether /health answers 200 within 5 s."""
        try:
            return self._response("GET", "/health", None, 5)[0] == 200
        except NoAnswerError:
            return False

    def get(self, path: str, timeout: float = 30) -> dict[str, Any]:
        """Get a JSON object.

        :param timeout: seconds for connecting, the request and the whole answer together
        :raises NoAnswerError: when the server answers with anything else, or not in time
        """
        return self.take(path, object_of, timeout)

    def take(
        self, path: str, wanted: Callable[[Any], T], timeout: float = 30, *, body: dict[str, Any] | None = None
    ) -> T:
        """Get JSON, and keep what ``wanted`` returns of it; with the timeout and the errors of `get`.

        Of several threads one at a time has the whole answer in memory.

        :param wanted: may raise NoAnswerError for an answer of another shape
        :param body: posted, if given
        """
        if body is None:
            return self._json("GET", path, None, timeout, wanted)
        return self._json("POST", path, json.dumps(body).encode(), timeout, wanted)

    def succeeds(self, path: str, timeout: float = 30) -> bool:
        """Whether it is answered with success, whatever the content; with the timeout and the errors of `get`."""
        return 200 <= self._response("GET", path, None, timeout)[0] < 300

    def status(self, path: str, timeout: float = 30) -> int:
        """Get something and return the HTTP status alone; 0 where there is no answer in time."""
        try:
            return self._response("GET", path, None, timeout)[0]
        except NoAnswerError:
            return 0

    def text(self, path: str, timeout: float = 30) -> str:
        """Get a text; empty where the server does not answer with 200, or not in time."""
        try:
            status, content = self._response("GET", path, None, timeout)
        except NoAnswerError:
            return ""
        return content.decode(errors="replace") if status == 200 else ""

    def post(self, path: str, body: dict[str, Any], timeout: float) -> dict[str, Any]:
        """Post a JSON object and return the JSON object of the answer, with the timeout and the errors of `get`."""
        return self.take(path, object_of, timeout, body=body)

    def _json(self, method: str, path: str, body: bytes | None, timeout: float, wanted: Callable[[Any], T]) -> T:
        status, content = self._response(method, path, body, timeout)
        if not 200 <= status < 300:
            text = content[:_SHOWN].decode(errors="replace")
            raise NoAnswerError(f"HTTP {status}: {text or 'without a body'}", status=status, answered=True)
        with _PARSING:
            try:
                answer = json.loads(content.decode(), parse_int=_integer, parse_constant=_no_constant)
            except (ValueError, RecursionError) as error:
                raise NoAnswerError(f"not JSON: {str(error)[:_SHOWN]}", answered=True) from None
            return wanted(answer)

    def _response(self, method: str, path: str, body: bytes | None, timeout: float) -> tuple[int, bytes]:
        """Return status and body of the response.

        The request is without ``Connection: close``: the end that closes first keeps the connection in TIME-WAIT for
        60 s, and an older llama-server, which binds without SO_REUSEADDR, cannot take a port with such connections.

        :raises NoAnswerError: when there is no whole response of at most LARGEST_ANSWER bytes in time
        """
        deadline = time.monotonic() + timeout
        try:
            with _connect(self._host, self._port, deadline, self._tls) as connection:
                sender = http.client.HTTPConnection(self._host, self._port)
                sender.sock = connection
                sender.request(method, f"{self._prefix}{path}", body, self._headers)
                # HTTPResponse needs only makefile() of a socket, which _connect's connection has.
                with http.client.HTTPResponse(connection, method=method) as response:  # type: ignore[arg-type]
                    response.begin()
                    return response.status, _content(response)
        except http.client.HTTPException as error:
            # Cut off, or not HTTP. The error's text may contain a part of the answer.
            reason = f"an incomplete answer ({type(error).__name__}: {str(error)[:_SHOWN]})"
            raise NoAnswerError(reason) from None
        except NoAnswerError:
            raise
        except OSError as error:
            reason = str(error) if time.monotonic() < deadline else f"no whole answer within {timeout:g} s"
            raise NoAnswerError(reason) from None
        except ValueError:  # its text may contain the key
            raise NoAnswerError("a request or an answer that HTTP does not allow") from None


class _TimedConnection(io.RawIOBase):
    """What http.client needs of a socket, with one deadline for all that is sent and received.

    A socket's own timeout is for each call, so a server that sends a byte a minute would never reach it. Closing resets
    the connection, which leaves no TIME-WAIT at either end, even where the server has closed first.
    """

    def __init__(self, connected: socket.socket, deadline: float) -> None:
        super().__init__()
        self._socket, self._deadline = connected, deadline

    def sendall(self, data: bytes) -> None:
        self._socket.settimeout(_until(self._deadline))
        self._socket.sendall(data)  # its timeout is for the whole of it

    def makefile(self, mode: str) -> io.BufferedReader:
        return io.BufferedReader(self)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self._socket.settimeout(_until(self._deadline))
        return self._socket.recv_into(buffer)

    def close(self) -> None:
        self._socket.close()
        super().close()


def _connect(host: str, port: int, deadline: float, tls: ssl.SSLContext | None) -> _TimedConnection:
    connected = socket.create_connection((host, port), _until(deadline))
    connected.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if tls is not None:
        try:
            connected = tls.wrap_socket(connected)
        except (OSError, ValueError):
            connected.close()
            raise
    return _TimedConnection(connected, deadline)


def _unverified() -> ssl.SSLContext:
    """Without checking the certificate: the request stays on the box, at an address that it may not name."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _until(deadline: float) -> float:
    """Return the seconds until then, which a socket takes as its timeout.

    :raises TimeoutError: when there are none; to a socket, 0 would mean not to block
    """
    remaining = deadline - time.monotonic()
    if remaining <= 0:
        raise TimeoutError("timed out")
    return remaining


def _content(response: http.client.HTTPResponse) -> bytes:
    """Read the body of a response.

    :raises NoAnswerError: when it is too large
    :raises http.client.IncompleteRead: when it ends early
    """
    content = response.read(LARGEST_ANSWER + 1)
    if len(content) > LARGEST_ANSWER:
        raise NoAnswerError(f"an answer of more than {LARGEST_ANSWER >> 20} MiB", answered=True)
    if response.length:  # fewer bytes than Content-Length: a read with a limit does not raise by itself
        raise http.client.IncompleteRead(content, response.length)
    return content


def object_of(answer: Any) -> dict[str, Any]:
    """Return an answer that is an object.

    :raises NoAnswerError: for any other
    """
    if not isinstance(answer, dict):
        raise NoAnswerError(f"not an object: {_start(answer)}", answered=True)
    return answer


def objects_of(answer: Any) -> list[dict[str, Any]]:
    """Return an answer that is a list of objects.

    :raises NoAnswerError: for any other
    """
    if not isinstance(answer, list):
        raise NoAnswerError(f"not a list: {_start(answer)}", answered=True)
    return [object_of(item) for item in answer]


def _start(answer: Any) -> str:
    return json.dumps(answer)[:_SHOWN]


def _integer(text: str) -> int:
    if len(text) > _MOST_DIGITS:
        raise ValueError(f"an integer of {len(text)} digits")
    return int(text)


def _no_constant(text: str) -> None:
    raise ValueError(f"{text} is no JSON")
