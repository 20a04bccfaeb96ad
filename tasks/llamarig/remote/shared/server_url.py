"""The URL by which a llama-server is reached from its own box."""

from __future__ import annotations

from collections.abc import Sequence

_ANY_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "::1"}


def server_url(host: str, port: int | str, *, prefix: str = "", tls: bool = False) -> str:
    """URL of a server, without a slash at its end; over loopback where it listens on every address.

    :param host: as --host, ``port`` as --port, ``prefix`` as --api-prefix
    :param tls: whether it has a certificate
    """
    address = _ANY_ADDRESS.get(host, host)
    return f"{'https' if tls else 'http'}://{f'[{address}]' if ':' in address else address}:{port}{prefix}"


def url_of(arguments: Sequence[str]) -> str:
    """URL of the server with this command line."""
    flags = {flag: arguments[index + 1] for index, flag in enumerate(arguments[:-1])}
    return server_url(
        flags.get("--host", "127.0.0.1"),
        flags.get("--port", "8080"),
        prefix=flags.get("--api-prefix", ""),
        tls="--ssl-cert-file" in flags,
    )
