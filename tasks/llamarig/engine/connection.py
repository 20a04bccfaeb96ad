"""What every command does first on a box: settings of the connection that pyinfra does not offer, and root's rights."""

from __future__ import annotations

import os
import socket
import sys
from contextlib import suppress

from gevent import GreenletExit
from pyinfra.api.command import StringCommand
from pyinfra.context import host, state

from llamarig.engine.refuse import report
from llamarig.engine.shell import run_line

_NO_PASSWORD = "sudo -n true 2>/dev/null && echo free; true"
_WHO = "id -u; id -un"


def set_tcp_nodelay() -> None:
    """Set TCP_NODELAY on the connection to this host.

    paramiko leaves Nagle's algorithm on. Together with delayed acknowledgements it costs about 40 ms a command
    (measured on loopback: 44 ms with it, 2.8 ms without).
    """
    client = getattr(host.connector, "client", None)
    transport = client.get_transport() if client is not None else None
    if transport is not None and isinstance(transport.sock, socket.socket):
        transport.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def require_root(*, or_any_user: bool = False) -> None:
    """Fail this host with one message if its commands do not run as root; the other hosts continue.

    :param or_any_user: accept a login without sudo, whose user may be another one: an audit says what it could not read
    :raises GreenletExit: to end the preparation of this host, which pyinfra does in a greenlet of its own
    """
    if or_any_user and not _uses_sudo():
        return
    if problem := _why_not_root():
        this = state.inventory.get_host(host.name)
        report(this, problem)
        state.fail_hosts({this})  # type: ignore[no-untyped-call]  # pyinfra gives it no types
        raise GreenletExit


def _uses_sudo() -> bool:
    return bool(host.data.get("_sudo") or state.config.SUDO)


def _why_not_root() -> str:
    uses_sudo = _uses_sudo()
    password = host.data.get("_sudo_password") or state.config.SUDO_PASSWORD
    if uses_sudo and not password and not has_terminal():
        _, output = host.run_shell_command(StringCommand(_NO_PASSWORD))
        if "free" not in output.stdout_lines:
            return (
                "sudo wants a password on this box, and there is no terminal to enter it at: run this in a terminal, or"
                " allow it without one on the box (visudo: USER ALL=(ALL) NOPASSWD: ALL)"
            )
    succeeded, output = run_line(_WHO)
    user, *name = output.stdout_lines or [""]
    if succeeded and user == "0":
        return ""
    if uses_sudo:
        why = output.stderr_lines[-1] if output.stderr_lines else f"its commands run as {''.join(name) or 'nobody'}"
        return f"sudo does not give root's rights on this box ({why}): let this user use sudo there, or log in as root"
    return (
        f"you log in as {''.join(name) or 'another user'}, who is not root: give the host "
        '{"_sudo": True} in the inventory, or log in as root ("ssh_user": "root")'
    )


def has_terminal() -> bool:
    """Whether a question can be answered: at standard input, or at the terminal that this process belongs to."""
    with suppress(OSError, ValueError, AttributeError):
        if sys.stdin.isatty():
            return True
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError:
        return False
    return True
