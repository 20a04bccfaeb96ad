"""The model store: its room, its filesystem, its speed."""

from __future__ import annotations

from collections.abc import Iterator

from tasks.planning import layout
from tasks.planning.checks.base import Check, Finding, Severity
from tasks.planning.checks.box import Box
from tasks.spec.rig import Rig

_GIB = 1024**3
_SATA_SSD_MB_S = 400
"""Below it, a 60 GB model takes more than two and a half minutes to load: a hard disk, or a bad cable."""
_NETWORK = {"nfs", "nfs4", "cifs", "smb3", "fuse.sshfs", "9p"}
_SMALL = {"vfat", "msdos"}
_VOLATILE = {"tmpfs", "ramfs"}


class DiskRoom(Check):
    """A full disk stops builds, downloads and logs."""

    id = "disk.room"
    expects = f"host.disk_reserve_gib (declared) free on the filesystem of {layout.MODELS}"
    remedy = "delete what you no longer need from the model store, or add space"

    def look(self, rig: Rig, box: Box) -> Iterator[Finding]:
        """What is free now."""
        free, reserve = box.machine.disk_free, rig.host.disk_reserve_gib
        if free is None:
            yield self.not_known("df tells nothing", f"{reserve:g} GiB")
        elif free < reserve * _GIB:
            yield self.finding(f"{free / _GIB:.2f} GiB free", f"{reserve:g} GiB (host.disk_reserve_gib)")


class Filesystem(Check):
    """llama.cpp maps its weights: over a network each page that was dropped is fetched again."""

    id = "disk.filesystem"
    expects = f"a local filesystem that holds files over 4 GiB and survives a reboot under {layout.MODELS}; derived"
    remedy = f"mount a local disk (ext4, xfs, btrfs) at {layout.MODELS}"

    def look(self, rig: Rig, box: Box) -> Iterator[Finding]:
        """By its type."""
        kind = box.machine.filesystem
        if not kind:
            yield self.not_known("df tells nothing")
        if kind in _NETWORK | _SMALL | _VOLATILE:
            why = {**dict.fromkeys(_NETWORK, "over a network"), **dict.fromkeys(_VOLATILE, "gone after a reboot")}
            yield self.finding(f"{kind} ({why.get(kind, '4 GiB a file')})", "a local filesystem for large files")


class DiskSpeed(Check):
    """How long a model takes to load."""

    id = "disk.read-speed"
    expects = f"{_SATA_SSD_MB_S} MB/s from the model store, the class of an SSD; measured with --data disk=1"
    remedy = "move the model store to an NVMe or SATA SSD"
    severity = Severity.NOTE

    def look(self, rig: Rig, box: Box) -> Iterator[Finding]:
        """Only where it was asked for."""
        if box.read_mb_s is None:
            if self.id in box.asked:
                yield self.not_known(
                    "nothing could be measured: no model file of 64 MiB, or none that is read past the page cache"
                )
        elif box.read_mb_s < _SATA_SSD_MB_S:
            yield self.finding(box.measured[self.id], f"{_SATA_SSD_MB_S} MB/s")


ALL: tuple[Check, ...] = (DiskRoom(), Filesystem(), DiskSpeed())
