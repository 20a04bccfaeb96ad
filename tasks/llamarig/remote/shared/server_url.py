"""The URL by which a llama-server is reached from its own box."""

from __future__ import annotations

_ANY_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "::1"}


def server_url(host: str, port: int | str) -> str:
    """URL of a server, from its --host and --port; over loopback where it listens on every address."""
    address = _ANY_ADDRESS.get(host, host)
    return f"http://{f'[{address}]' if ':' in address else address}:{port}"
