"""Address, port and key of a declared server: those that clients use now."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from typing import Any

from llamarig.adopt.launch import Note, Port

PORT = 8080
"""llama-server's own default (common/common.h, pinned commit)."""
KEYS = "/etc/llamarig/keys"
_NAMES = {"localhost": "127.0.0.1", "*": "0.0.0.0"}


def key_path(name: str) -> str:
    """Where the key file of a model lies on its box."""
    return f"{KEYS}/{name}"


def complete_address(values: dict[str, Any], ports: Sequence[Port] | None, name: str) -> list[Note]:
    """Set the fields host, port and api_key_file, from those that the flags have set.

    :param values: fields of serve
    :param ports: that a container publishes; None for anything else
    """
    notes = _published(values, ports)
    host = str(values.pop("host", "127.0.0.1"))
    address = _NAMES.get(host, host)
    try:
        loopback = ipaddress.ip_address(address).is_loopback
    except ValueError:
        return [
            *notes,
            Note(f"--host {host}", "is no IP address of the box: declare one as serve.host; 127.0.0.1 holds"),
        ]
    if address != "127.0.0.1":
        values["host"] = address
    if not loopback and "api_key_file" not in values:
        path = key_path(name)
        values["api_key_file"] = path
        notes.append(
            Note(
                f"--host {host}",
                f"a server that others can reach needs a key: on the box, `openssl rand -hex 32 | sudo install -D "
                f"-m 600 /dev/stdin {path}`; or leave out host and api_key_file",
            )
        )
    return notes


def _published(values: dict[str, Any], ports: Sequence[Port] | None) -> list[Note]:
    inside = int(values.get("port", PORT))
    values["port"] = inside
    if ports is None:
        return []
    port = next((port for port in ports if port.inside == inside), None)
    if port is None:
        values.pop("host", None)
        return [Note("ports", "the container publishes none, so the declared server listens on loopback")]
    values |= {"host": port.host, "port": port.port}
    if port.port == inside:
        return []
    return [Note(f"port {inside} of the container", f"published as {port.port}, which is declared")]
