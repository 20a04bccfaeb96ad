"""Paths, names and port of the rehearsal box. Free of side effects on import."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from inventory.rehearsal_box import ADDRESS, DEFAULT_PORT, RehearsalBox, cache_directory

__all__ = ["ADDRESS", "DEFAULT_PORT", "HOSTNAME", "Rehearsal", "cache_directory", "root_login"]

HOSTNAME = "rehearsal"


def root_login(port: int, key: Path, known_hosts: Path) -> dict[str, object]:
    """pyinfra's host data for an SSH login as root on a box of this machine.

    :param key: path of the private key
    :param known_hosts: path of the file with the box's host key, the only one that is accepted
    """
    return {
        "ssh_hostname": ADDRESS,
        "ssh_port": port,
        "ssh_user": "root",
        "ssh_key": str(key),
        "ssh_known_hosts_file": str(known_hosts),
        "ssh_strict_host_key_checking": "yes",
    }


@dataclass(frozen=True)
class Rehearsal(RehearsalBox):
    """The disposable box, with the paths that only the tests need."""

    @property
    def login(self) -> dict[str, object]:
        """pyinfra's host data for the SSH login as root."""
        return root_login(self.port, self.key, self.known_hosts)

    @property
    def root(self) -> Path:
        """Root of the box's file system."""
        return self.directory / "root"

    @property
    def unfinished_root(self) -> Path:
        """The file system while it is being made; the last step renames it to `root`."""
        return self.directory / "root.part"

    @property
    def public_key(self) -> Path:
        return self.directory / "id_ed25519.pub"

    @property
    def host_key(self) -> Path:
        """The host key of the box's sshd, kept outside `root` so that it survives a rebuild."""
        return self.directory / "ssh_host_ed25519_key"

    @property
    def pid_file(self) -> Path:
        """The process id of systemd-nspawn, while the box is up."""
        return self.directory / "box.pid"

    @property
    def console_log(self) -> Path:
        """Console output since the last start."""
        return self.directory / "console.log"

    @property
    def build_cache(self) -> Path:
        """ccache and source archives of the box; kept when the box is destroyed."""
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
        """File that marks the directory as a box's, so that `destroy` may delete it."""
        return self.directory / ".llamarig-rehearsal"

    @property
    def machine_name(self) -> str:
        """Machine name for systemd-nspawn; it has to be unique on the host."""
        return f"llamarig-{self._digest}"

    @property
    def network_namespace(self) -> str:
        """Name of the loopback-only network namespace of isolated mode."""
        return f"llamarig-isolated-{self._digest}"

    @property
    def _digest(self) -> str:
        return hashlib.sha256(str(self.directory).encode()).hexdigest()[:8]
