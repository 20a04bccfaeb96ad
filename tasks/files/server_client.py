"""A few HTTP requests to a llama-server on this box. Standard library only, Python 3.9 or newer."""

from __future__ import annotations

import http.client
import json
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

LARGEST_ANSWER = 64 << 20
"""Bytes; far beyond what llama-server answers to the few requests here, and no strain on a box's memory."""


class NoAnswerError(OSError):
    """Whatever a server did instead of the answer it should have given."""

    def __init__(self, message: str, *, status: int = 0, answered: bool = False) -> None:
        super().__init__(message)
        self.status = status
        """Of HTTP, where it is not 200; else 0."""
        self.answered = answered
        """Whether something came back, only not what was wanted."""


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """llama-server sends none, and to whoever does the key must not go on."""

    def redirect_request(self, *args: Any) -> None:
        """Leave the redirect as the answer, which is then an error."""


class Server:
    """One running llama-server."""

    def __init__(self, address: str, key: str | None) -> None:
        self._address = address
        self._headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {key}"} if key else {})}
        # A proxy declared for the box has no business between a box and itself.
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), _NoRedirects())

    @classmethod
    def of_process(cls, pid: str, key: str | None) -> Server:
        """The server a process is, by the --host and --port on its own command line.

        :raises OSError: when the process is gone
        """
        words = Path(f"/proc/{pid}/cmdline").read_text(errors="replace").split("\0")
        said = {flag: words[words.index(flag) + 1] for flag in ("--host", "--port") if flag in words[:-1]}
        host = said.get("--host", "127.0.0.1")
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
        return cls(f"http://{f'[{host}]' if ':' in host else host}:{said.get('--port', '8080')}", key)

    def is_healthy(self) -> bool:
        """Whether /health answers 200."""
        try:
            with self._opener.open(f"{self._address}/health", timeout=5) as response:
                return bool(response.status == 200)
        except (OSError, http.client.HTTPException):
            return False

    def get(self, path: str, timeout: float = 30) -> dict[str, Any]:
        """JSON object of a path.

        :raises NoAnswerError: when the server does not answer with one, whatever else it does
        """
        return _object(self._json(urllib.request.Request(self._address + path, headers=self._headers), timeout))

    def get_list(self, path: str, timeout: float = 30) -> list[dict[str, Any]]:
        """JSON list of objects of a path.

        :raises NoAnswerError: when the server does not answer with one, whatever else it does
        """
        answer = self._json(urllib.request.Request(self._address + path, headers=self._headers), timeout)
        if not isinstance(answer, list):
            raise NoAnswerError(f"no list: {json.dumps(answer)[:200]}", answered=True)
        return [_object(item) for item in answer]

    def post(self, path: str, body: dict[str, Any], timeout: float) -> dict[str, Any]:
        """JSON object answered to a JSON request.

        :raises NoAnswerError: when the server does not answer with one, whatever else it does
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
            if response.length:  # bytes that were promised and did not come; a read up to a limit does not mind
                raise http.client.IncompleteRead(text, response.length)
            return json.loads(text)
        except urllib.error.HTTPError as error:
            message = f"HTTP {error.code}: {_start_of(error)}"
            raise NoAnswerError(message, status=error.code, answered=True) from None
        except (ValueError, RecursionError) as error:
            raise NoAnswerError(f"no JSON: {error}", answered=True) from None
        except http.client.HTTPException as error:
            # Broken off in the middle, or no HTTP at all. Its text may be a piece of the answer.
            raise NoAnswerError(f"no whole answer ({type(error).__name__}: {str(error)[:200]})") from None
        except NoAnswerError:
            raise
        except OSError as error:
            raise NoAnswerError(str(getattr(error, "reason", error))) from None


def _object(answer: Any) -> dict[str, Any]:
    if not isinstance(answer, dict):
        raise NoAnswerError(f"no object: {json.dumps(answer)[:200]}", answered=True)
    return answer


def _start_of(error: urllib.error.HTTPError) -> str:
    """What a refusal says, as far as it comes."""
    try:
        return error.read(200).decode(errors="replace")
    except (OSError, http.client.HTTPException):
        return "and nothing more"
