"""The SSH connection, without the wait that paramiko leaves in it."""

from __future__ import annotations

import socket

from pyinfra.context import host


def send_at_once() -> None:
    """Switch Nagle's algorithm off on the connection to this host.

    paramiko leaves it on, which costs about 40 ms a command against the receiver's delayed acknowledgement (measured on
    loopback: 44 ms with it, 2.8 ms without). pyinfra has no setting for it.
    """
    client = getattr(host.connector, "client", None)
    transport = client.get_transport() if client is not None else None
    if transport is not None and isinstance(transport.sock, socket.socket):
        transport.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
