"""Where the rehearsal box keeps its files and which port it answers on. Importing this does nothing else."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from inventory.rehearsal_box import ADDRESS, DEFAULT_PORT, RehearsalBox, cache_directory

__all__ = ["ADDRESS", "DEFAULT_PORT", "HOSTNAME", "Rehearsal", "cache_directory"]

HOSTNAME = "rehearsal"


@dataclass(frozen=True)
class Rehearsal(RehearsalBox):
    """The disposable box, with the files that only the tests need."""

    @property
    def root(self) -> Path:
        """The box's file system."""
        return self.directory / "root"

    @property
    def unfinished_root(self) -> Path:
        """Where the file system grows; only its last step, a rename, makes it `root`."""
        return self.directory / "root.part"

    @property
    def public_key(self) -> Path:
        return self.directory / "id_ed25519.pub"

    @property
    def host_key(self) -> Path:
        """The box's own sshd key, kept out here so that it outlives a rebuilt `root`."""
        return self.directory / "ssh_host_ed25519_key"

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
