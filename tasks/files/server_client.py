"""A few HTTP requests to a llama-server on this box. Standard library only, Python 3.9 or newer."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any


class Server:
    """One running llama-server."""

    def __init__(self, address: str, key: str | None) -> None:
        self._address = address
        self._headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {key}"} if key else {})}
        # A proxy declared for the box has no business between a box and itself.
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    @classmethod
    def of_process(cls, pid: str, key: str | None) -> Server:
        """The server a process is, by the --host and --port on its own command line.

        :raises OSError: when the process is gone
        """
        words = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
        said = {flag: words[words.index(flag) + 1] for flag in ("--host", "--port") if flag in words}
        host = said.get("--host", "127.0.0.1")
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
        return cls(f"http://{f'[{host}]' if ':' in host else host}:{said.get('--port', '8080')}", key)

    def is_healthy(self) -> bool:
        """Whether /health answers 200."""
        try:
            with self._opener.open(f"{self._address}/health", timeout=5) as response:
                return bool(response.status == 200)
        except OSError:
            return False

    def get(self, path: str, timeout: float = 30) -> Any:
        """JSON of a path.

        :raises OSError: when the server does not answer with one
        """
        return self._json(urllib.request.Request(self._address + path, headers=self._headers), timeout)

    def post(self, path: str, body: dict[str, Any], timeout: float) -> Any:
        """JSON answer to a JSON request.

        :raises OSError: when the server does not answer with one
        """
        data = json.dumps(body).encode()
        return self._json(urllib.request.Request(self._address + path, data=data, headers=self._headers), timeout)

    def _json(self, request: urllib.request.Request, timeout: float) -> Any:
        try:
            with self._opener.open(request, timeout=timeout) as response:
                answer: Any = json.loads(response.read())
        except urllib.error.HTTPError as error:
            raise OSError(f"HTTP {error.code}: {error.read(200).decode(errors='replace')}") from None
        except ValueError as error:
            raise OSError(f"no JSON: {error}") from None
        return answer
