"""Where the rehearsal box keeps its files and which port it answers on. Importing this does nothing else."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, field
from pathlib import Path

ADDRESS = "127.0.0.1"
HOSTNAME = "rehearsal"
DEFAULT_PORT = 22022


@dataclass(frozen=True)
class Rehearsal:
    """One disposable box: a state directory, the loopback port of its sshd, and the cache that outlives it.

    Two boxes may run at once if directory and port differ; they may share a cache.
    """

    directory: Path
    port: int = DEFAULT_PORT
    cache: Path = field(default_factory=lambda: cache_directory())
    """llamarig's own directory under the user's cache when the box was named: a later HOME does not change it."""

    @classmethod
    def from_environment(cls) -> Rehearsal:
        """Return the box that LLAMARIG_REHEARSAL_DIR and LLAMARIG_REHEARSAL_PORT name, or the usual one.

        Raises ValueError where the port is not a number from 1 to 65535.
        """
        named = os.environ.get("LLAMARIG_REHEARSAL_DIR")
        directory = Path(named) if named else cache_directory() / "rehearsal"
        port_text = os.environ.get("LLAMARIG_REHEARSAL_PORT") or str(DEFAULT_PORT)
        if not (port_text.isascii() and port_text.isdigit() and 0 < int(port_text) < 65536):
            raise ValueError(f"LLAMARIG_REHEARSAL_PORT must be a port number, not {port_text!r}")
        return cls(directory=directory.expanduser().absolute(), port=int(port_text))

    @property
    def root(self) -> Path:
        """The box's file system."""
        return self.directory / "root"

    @property
    def unfinished_root(self) -> Path:
        """Where the file system grows; only its last step, a rename, makes it `root`."""
        return self.directory / "root.part"

    @property
    def key(self) -> Path:
        """Private key that logs in as root; thrown away with the box."""
        return self.directory / "id_ed25519"

    @property
    def public_key(self) -> Path:
        return self.directory / "id_ed25519.pub"

    @property
    def host_key(self) -> Path:
        """The box's own sshd key, kept out here so that it outlives a rebuilt `root`."""
        return self.directory / "ssh_host_ed25519_key"

    @property
    def known_hosts(self) -> Path:
        return self.directory / "known_hosts"

    @property
    def pid_file(self) -> Path:
        """The process id of systemd-nspawn, while the box is up."""
        return self.directory / "box.pid"

    @property
    def console_log(self) -> Path:
        """What the box wrote to its console since it last started."""
        return self.directory / "console.log"

    @property
    def build_cache(self) -> Path:
        """ccache and source archives of the box; kept when the box is thrown away."""
        return self.cache / "build-cache"

    @property
    def hub_directory(self) -> Path:
        """Repositories of the stand-in Hub."""
        return self.directory / "hub"

    @property
    def hub_port(self) -> int:
        """Where the stand-in Hub listens on this host's loopback; its second origin one port further."""
        return self.port + 1

    @property
    def model_lock(self) -> Path:
        """The rehearsal's model lock; its models are made on this machine, so it is nothing to commit."""
        return self.directory / "models.lock.json"

    @property
    def bench_ledger(self) -> Path:
        """The rehearsal's timings: of a model of random weights, so nothing to commit either."""
        return self.directory / "bench.jsonl"

    @property
    def bootstrap_log(self) -> Path:
        return self.directory / "bootstrap.log"

    @property
    def lock(self) -> Path:
        return self.directory / "lock"

    @property
    def marker(self) -> Path:
        """Says that the directory is ours, so `destroy` may delete it."""
        return self.directory / ".llamarig-rehearsal"

    @property
    def machine_name(self) -> str:
        """Name for systemd-nspawn, which refuses two machines of one name on a host."""
        return f"llamarig-{self._digest}"

    @property
    def network_namespace(self) -> str:
        """Name of the loopback-only network namespace of isolated mode."""
        return f"llamarig-isolated-{self._digest}"

    @property
    def _digest(self) -> str:
        return hashlib.sha256(str(self.directory).encode()).hexdigest()[:8]


def cache_directory() -> Path:
    """Return llamarig's own directory under the user's cache."""
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "llamarig"
