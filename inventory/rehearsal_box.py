"""The disposable box of this machine: where its files are and which loopback ports it has.

LLAMARIG_REHEARSAL_DIR and LLAMARIG_REHEARSAL_PORT name another box than the usual one.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

ADDRESS = "127.0.0.1"
DEFAULT_PORT = 22022


def cache_directory() -> Path:
    """Return llamarig's own directory under the user's cache."""
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "llamarig"


@dataclass(frozen=True)
class RehearsalBox:
    """What an inventory and group_data need to know of the box.

    Two boxes may run at once if directory and port differ; they may share a cache.
    """

    directory: Path
    port: int = DEFAULT_PORT
    """Of its sshd."""
    cache: Path = field(default_factory=cache_directory)
    """Outlives the box. Read once: a later HOME does not change it."""

    @classmethod
    def from_environment(cls) -> Self:
        """Return the box that the two environment variables name, or the usual one.

        :raises ValueError: where the port is not a number from 1 to 65535
        """
        named = os.environ.get("LLAMARIG_REHEARSAL_DIR")
        directory = Path(named) if named else cache_directory() / "rehearsal"
        port_text = os.environ.get("LLAMARIG_REHEARSAL_PORT") or str(DEFAULT_PORT)
        if not (port_text.isascii() and port_text.isdigit() and 0 < int(port_text) < 65536):
            raise ValueError(f"LLAMARIG_REHEARSAL_PORT must be a port number, not {port_text!r}")
        return cls(directory=directory.expanduser().absolute(), port=int(port_text))

    @property
    def key(self) -> Path:
        """Private key that logs in as root; made and deleted with the box."""
        return self.directory / "id_ed25519"

    @property
    def known_hosts(self) -> Path:
        """The box's host key, for ssh."""
        return self.directory / "known_hosts"

    @property
    def disk(self) -> Path:
        """Disk of the virtual machine that the box is where no container can be booted; missing for a container."""
        return self.directory / "disk.img"

    @property
    def hub_port(self) -> int:
        """Port of the stand-in Hub; its second origin is one port further."""
        return self.port + 1

    @property
    def model_port(self) -> int:
        """Port of the model's server."""
        return self.port + 10

    @property
    def model_lock(self) -> Path:
        """The model lock of the rehearsal. Its models are made on this machine, so there is nothing to commit."""
        return self.directory / "models.lock.json"

    @property
    def bench_ledger(self) -> Path:
        """The timings of the rehearsal, of a model of random weights: nothing to commit either."""
        return self.directory / "bench.jsonl"
