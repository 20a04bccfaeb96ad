"""The filesystems of a box's own disks, for the choice of where model files go."""

from __future__ import annotations

import re
from dataclasses import dataclass

from pyinfra.api.facts import FactBase


@dataclass(frozen=True)
class Filesystem:
    """A mounted filesystem; sizes in bytes."""

    path: str
    kind: str
    size: int
    free: int


class Filesystems(FactBase[tuple[Filesystem, ...]]):
    """Mounted filesystems of local disks, without those in RAM and those of images.

    Output: kind, size and free bytes, mount point::

        ext4 270553174016 81480732672 /
    """

    @staticmethod
    def default() -> tuple[Filesystem, ...]:
        return ()

    def command(self) -> str:
        excluded = " ".join(f"-x {kind}" for kind in ("tmpfs", "devtmpfs", "ramfs", "efivarfs", "squashfs", "iso9660"))
        # A network mount that hangs is no local filesystem, and is not read.
        return f"LC_ALL=C df --local {excluded} -B1 --output=fstype,size,avail,target 2>/dev/null | tail -n +2; true"

    def process(self, output: list[str]) -> tuple[Filesystem, ...]:
        lines = (re.fullmatch(r"\s*(\S+)\s+(\d{1,18})\s+(\d{1,18})\s+(/.*?)\s*", line) for line in output)
        return tuple(Filesystem(match[4], match[1], int(match[2]), int(match[3])) for match in lines if match)
