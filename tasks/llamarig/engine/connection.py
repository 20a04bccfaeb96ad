"""Settings of the SSH connection that pyinfra does not offer."""

from __future__ import annotations

import socket

from pyinfra.context import host


def set_tcp_nodelay() -> None:
    """Set TCP_NODELAY on the connection to this host.

    paramiko leaves Nagle's algorithm on. Together with delayed acknowledgements it costs about 40 ms a command
    (measured on loopback: 44 ms with it, 2.8 ms without).
    """
    client = getattr(host.connector, "client", None)
    transport = client.get_transport() if client is not None else None
    if transport is not None and isinstance(transport.sock, socket.socket):
        transport.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
