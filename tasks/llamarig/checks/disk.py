"""The model store: free space, filesystem, read speed."""

from __future__ import annotations

from collections.abc import Iterator

from llamarig.checks.base import Check, Finding, Severity
from llamarig.checks.box import Box
from llamarig.declare.rig import Rig
from llamarig.render import layout

_GIB = 1024**3
_SATA_SSD_MB_S = 400
"""Below this speed a 60 GB model takes more than two and a half minutes to load: a hard disk, or a bad cable."""
_NETWORK = {"nfs", "nfs4", "cifs", "smb3", "fuse.sshfs", "9p"}
_SMALL = {"vfat", "msdos"}
_VOLATILE = {"tmpfs", "ramfs"}


class DiskRoom(Check):
    """A full disk stops builds, downloads and logs."""

    id = "disk.room"
    expects = f"host.disk_reserve_gib (declared) free on the filesystem of {layout.MODELS}"
    remedy = "delete files you no longer need from the model store (tasks/prune.py lists them), or add space"

    def look(self, rig: Rig, box: Box) -> Iterator[Finding]:
        free, reserve = box.machine.disk_free, rig.host.disk_reserve_gib
        if free is None:
            yield self.not_known("df prints nothing for it", f"{reserve:g} GiB")
        elif free < reserve * _GIB:
            yield self.finding(f"{free / _GIB:.2f} GiB free", f"{reserve:g} GiB (host.disk_reserve_gib)")


class Filesystem(Check):
    """llama.cpp maps its weights; from a network filesystem, every dropped page is read over the network again."""

    id = "disk.filesystem"
    expects = f"a local filesystem that holds files over 4 GiB and survives a reboot under {layout.MODELS}; derived"
    remedy = f"mount a local disk (ext4, xfs, btrfs) at {layout.MODELS}"

    def look(self, rig: Rig, box: Box) -> Iterator[Finding]:
        kind = box.machine.filesystem
        if not kind:
            yield self.not_known("df prints nothing for it")
        if kind in _NETWORK | _SMALL | _VOLATILE:
            why = {**dict.fromkeys(_NETWORK, "a network filesystem"), **dict.fromkeys(_VOLATILE, "lost at a reboot")}
            yield self.finding(f"{kind} ({why.get(kind, 'up to 4 GiB a file')})", "a local filesystem for large files")


class DiskSpeed(Check):
    """The read speed of the model store decides how long a model takes to load."""

    id = "disk.read-speed"
    expects = f"{_SATA_SSD_MB_S} MB/s from the model store, the class of an SSD; measured with --data disk=1"
    remedy = "move the model store to an NVMe or SATA SSD"
    severity = Severity.NOTE

    def look(self, rig: Rig, box: Box) -> Iterator[Finding]:
        if box.read_mb_s is None:
            if self.id in box.requested:
                yield self.not_known(
                    "it could not be measured: no model file of at least 64 MiB that can be read past the page cache"
                )
        elif box.read_mb_s < _SATA_SSD_MB_S:
            yield self.finding(box.measured[self.id], f"{_SATA_SSD_MB_S} MB/s")
