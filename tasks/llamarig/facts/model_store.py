"""The model store of a box: files, their verification records, and free space."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pyinfra.api.facts import FactBase

from llamarig.facts.files import Sha256Sums
from llamarig.facts.output import json_object, whole_number
from llamarig.render import layout

_RECORD_ENDING = ".verified.json"


@dataclass(frozen=True)
class StoredFile:
    """A file of the model store. ``record``: written by the download when its sha256 matched."""

    size: int
    mtime_ns: int
    inode: int
    record: Mapping[str, Any] | None = None
    allocated: int = 0
    """Bytes on disk; of an incomplete download, the bytes that have arrived."""

    def verified_sha256(self) -> str | None:
        """The sha256 of its record; None where there is none, or the file has changed since."""
        current = {"size": self.size, "mtime_ns": self.mtime_ns, "inode": self.inode}
        if self.record is None or any(self.record.get(key) != value for key, value in current.items()):
            return None
        return str(self.record.get("sha256"))


@dataclass
class Store:
    """``files``: path -> StoredFile; ``free``: bytes free on the store's filesystem, None where unknown."""

    files: dict[str, StoredFile] = field(default_factory=dict)
    free: int | None = None


class ModelStore(FactBase[Store]):
    """Every file of the store, and free space. Reads no model file: as fast for 65 GB as for 5 MB.

    Size, blocks of 512 bytes, mtime, inode and path of each file, then the verification records::

        free	70885068800
        file	4645728	9080	1795286104.8569856290	16459183	/var/lib/llamarig/models/...-00001-of-00003.gguf
        record	/var/lib/llamarig/models/...verified.json	{"size": 4645728, "mtime_ns": 1795286104856985629, ...
    """

    default = Store

    def command(self) -> str:
        store = layout.MODELS
        return (
            # Before the first deploy the directory does not exist; its filesystem will be that of the nearest parent.
            f'd={store}; while [ ! -d "$d" ]; do d=$(dirname "$d"); done; '
            'printf \'free\\t%s\\n\' "$(df --output=avail -B1 "$d" | tail -n 1)"; '
            # -H: the store may be a symbolic link.
            f"test -d {store} && find -H {store} -type f -printf 'file\\t%s\\t%b\\t%T@\\t%i\\t%p\\n' && "
            f"find -H {store} -type f -name '.*{_RECORD_ENDING}' -exec sh -c "
            '\'for r; do printf "record\\t%s\\t" "$r"; cat "$r"; echo; done\' sh {} +; true'
        )

    def process(self, output: list[str]) -> Store:
        store = Store()
        stats: dict[str, tuple[int, int, int, int]] = {}
        records: dict[str, dict[str, Any]] = {}
        for line in output:
            kind, *rest = line.split("\t")
            if kind == "free" and rest:
                store.free = whole_number(rest[0])
            elif kind == "file" and len(rest) == 5:
                size, blocks, inode = whole_number(rest[0]), whole_number(rest[1]), whole_number(rest[3])
                if size is not None and blocks is not None and inode is not None:
                    # %b of find is in blocks of 512 bytes on every filesystem.
                    stats[rest[4]] = (size, _nanoseconds(rest[2]), inode, 512 * blocks)
            elif kind == "record" and len(rest) == 2:
                records[_recorded_path(rest[0])] = json_object(rest[1])
        for path, (size, mtime_ns, inode, allocated) in stats.items():
            store.files[path] = StoredFile(size, mtime_ns, inode, records.get(path), allocated)
        return store


class FileHashes(Sha256Sums):
    """Path -> sha256 of a model file's current content. Reads for minutes, so a run treats it apart: engine/run.py.

    Output::

        8711a986edd71236f13ea93b39767988c3faffc32ed9f76b3279fe5404409f1e  /var/lib/llamarig/models/...
    """

    ends_within_s = 24 * 3600
    """It reads every byte of the files, of a slow disk too."""


def file_versions(store: Store, paths: Iterable[str]) -> tuple[tuple[int, int, int] | None, ...]:
    """Size, mtime in ns and inode of each of these files, None for a missing one: ``FileHashes`` of them stay valid
    while these stay equal."""
    found = map(store.files.get, paths)
    return tuple((file.size, file.mtime_ns, file.inode) if file is not None else None for file in found)


def _nanoseconds(seconds: str) -> int:
    """Nanoseconds of ``1700000000.1234567890`` (%T@ of find); a float would lose the last digits."""
    before, _, fraction = seconds.partition(".")
    count, rest = whole_number(before), whole_number((fraction + "000000000")[:9])
    return 0 if count is None or rest is None else count * 10**9 + rest


def _recorded_path(record: str) -> str:
    directory, _, name = record.rpartition("/")
    return f"{directory}/{name.removeprefix('.').removesuffix(_RECORD_ENDING)}"
