"""HTTP client for a llama-server on this box."""

from __future__ import annotations

import http.client
import json
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from llamarig.remote.shared.server_url import server_url

LARGEST_ANSWER = 64 << 20
"""Bytes; far more than llama-server's answers to the requests here, and small beside a box's memory."""


class NoAnswerError(OSError):
    """The server did not give the expected answer.

    ``status``: HTTP status of an error response, else 0; ``answered``: whether any response came.
    """

    def __init__(self, message: str, *, status: int = 0, answered: bool = False) -> None:
        super().__init__(message)
        self.status = status
        self.answered = answered


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Follows no redirects: llama-server sends none, and the API key must not go to another server."""

    def redirect_request(self, *args: Any) -> None:
        """Return no new request, so that the redirect is an error."""


class Server:
    """One running llama-server."""

    def __init__(self, address: str, key: str | None) -> None:
        self._address = address
        self._headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {key}"} if key else {})}
        # The server is on this box: a proxy from the environment must not be used.
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), _NoRedirects())

    @classmethod
    def of_process(cls, pid: str, key: str | None) -> Server:
        """Return the server of a process, from --host and --port of its command line.

        :raises OSError: when the process has ended
        """
        words = Path(f"/proc/{pid}/cmdline").read_text(errors="replace").split("\0")
        flags = {flag: words[words.index(flag) + 1] for flag in ("--host", "--port") if flag in words[:-1]}
        return cls(server_url(flags.get("--host", "127.0.0.1"), flags.get("--port", "8080")), key)

    def is_healthy(self) -> bool:
        """Whether /health answers 200."""
        try:
            with self._opener.open(f"{self._address}/health", timeout=5) as response:
                return bool(response.status == 200)
        except (OSError, http.client.HTTPException):
            return False

    def get(self, path: str, timeout: float = 30) -> dict[str, Any]:
        """Get a JSON object.

        :raises NoAnswerError: when the server answers with anything else, or not at all
        """
        return _object(self._json(urllib.request.Request(self._address + path, headers=self._headers), timeout))

    def get_list(self, path: str, timeout: float = 30) -> list[dict[str, Any]]:
        """Get a JSON list of objects.

        :raises NoAnswerError: when the server answers with anything else, or not at all
        """
        answer = self._json(urllib.request.Request(self._address + path, headers=self._headers), timeout)
        if not isinstance(answer, list):
            raise NoAnswerError(f"not a list: {json.dumps(answer)[:200]}", answered=True)
        return [_object(item) for item in answer]

    def post(self, path: str, body: dict[str, Any], timeout: float) -> dict[str, Any]:
        """Post a JSON object and return the JSON object of the answer.

        :raises NoAnswerError: when the server answers with anything else, or not at all
        """
        data = json.dumps(body).encode()
        request = urllib.request.Request(self._address + path, data=data, headers=self._headers)
        return _object(self._json(request, timeout))

    def _json(self, request: urllib.request.Request, timeout: float) -> Any:
        try:
            with self._opener.open(request, timeout=timeout) as response:
                text = response.read(LARGEST_ANSWER + 1)
            if len(text) > LARGEST_ANSWER:
                raise NoAnswerError(f"an answer of more than {LARGEST_ANSWER >> 20} MiB", answered=True)
            if response.length:  # fewer bytes than Content-Length: a read with a limit does not raise by itself
                raise http.client.IncompleteRead(text, response.length)
            return json.loads(text)
        except urllib.error.HTTPError as error:
            message = f"HTTP {error.code}: {_start_of(error)}"
            raise NoAnswerError(message, status=error.code, answered=True) from None
        except (ValueError, RecursionError) as error:
            raise NoAnswerError(f"not JSON: {error}", answered=True) from None
        except http.client.HTTPException as error:
            # Cut off, or not HTTP. The error's text may contain a part of the answer.
            raise NoAnswerError(f"an incomplete answer ({type(error).__name__}: {str(error)[:200]})") from None
        except NoAnswerError:
            raise
        except OSError as error:
            raise NoAnswerError(str(getattr(error, "reason", error))) from None


def _object(answer: Any) -> dict[str, Any]:
    if not isinstance(answer, dict):
        raise NoAnswerError(f"not an object: {json.dumps(answer)[:200]}", answered=True)
    return answer


def _start_of(error: urllib.error.HTTPError) -> str:
    """Return the first 200 bytes of an error response, as far as they arrive."""
    try:
        return error.read(200).decode(errors="replace")
    except (OSError, http.client.HTTPException):
        return "without a body"
