"""The model store of a box: every file with its stat and its verification record, and the room that is left."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field
from typing import Any

from pyinfra.api.facts import FactBase
from typing_extensions import override

from tasks.facts.json_text import json_object
from tasks.facts.numbers import whole
from tasks.planning import layout
from tasks.planning.shards import StoredFile

_RECORD_ENDING = ".verified.json"


@dataclass
class Store:
    """``files``: path -> StoredFile; ``free``: bytes free on the store's filesystem, None where it is not known."""

    files: dict[str, StoredFile] = field(default_factory=dict)
    free: int | None = None


class ModelStore(FactBase[Store]):
    """Only names and numbers: no file is read, so this costs the same for 5 MB and for 65 GB."""

    @staticmethod
    @override
    def default() -> Store:
        return Store()

    @override
    def command(self) -> str:
        store = layout.MODELS
        return (
            # Before the first deploy the directory is not there yet; its filesystem is that of the nearest parent.
            f'd={store}; while [ ! -d "$d" ]; do d=$(dirname "$d"); done; '
            'printf \'free\\t%s\\n\' "$(df --output=avail -B1 "$d" | tail -n 1)"; '
            # -H: the store may be a link to where there is room.
            f"test -d {store} && find -H {store} -type f -printf 'file\\t%s\\t%b\\t%T@\\t%i\\t%p\\n' && "
            f"find -H {store} -type f -name '.*{_RECORD_ENDING}' -exec sh -c "
            '\'for r; do printf "record\\t%s\\t" "$r"; cat "$r"; echo; done\' sh {} +; true'
        )

    @override
    def process(self, output: list[str]) -> Store:
        store = Store()
        stats: dict[str, tuple[int, int, int, int]] = {}
        records: dict[str, dict[str, Any]] = {}
        for line in output:
            kind, *rest = line.split("\t")
            if kind == "free" and rest:
                store.free = whole(rest[0])
            elif kind == "file" and len(rest) == 5:
                size, blocks, inode = whole(rest[0]), whole(rest[1]), whole(rest[3])
                if size is not None and blocks is not None and inode is not None:
                    # find counts blocks of 512 bytes, whatever the filesystem's own are.
                    stats[rest[4]] = (size, _nanoseconds(rest[2]), inode, 512 * blocks)
            elif kind == "record" and len(rest) == 2:
                records[_recorded_path(rest[0])] = json_object(rest[1])
        for path, (size, mtime_ns, inode, allocated) in stats.items():
            store.files[path] = StoredFile(size, mtime_ns, inode, records.get(path), allocated)
        return store


class FileHashes(FactBase[dict[str, str]]):
    """Path -> sha256 as read from the disk now. Reads every byte: for a deep check only."""

    @staticmethod
    @override
    def default() -> dict[str, str]:
        return {}

    @override
    def command(self, paths: list[str]) -> str:
        # NUL-terminated lines are never escaped by sha256sum; hub paths hold no line break.
        return f"sha256sum --zero -- {shlex.join(paths)} 2>/dev/null | tr '\\0' '\\n'; true"

    @override
    def process(self, output: list[str]) -> dict[str, str]:
        hashes = {}
        for line in output:
            digest, _, path = line.partition("  ")
            if len(digest) == 64 and path:
                hashes[path] = digest
        return hashes


def _nanoseconds(seconds: str) -> int:
    """``1700000000.1234567890`` (find's %T@) as whole nanoseconds; a float would lose the last digits."""
    before, _, fraction = seconds.partition(".")
    count, rest = whole(before), whole((fraction + "000000000")[:9])
    return 0 if count is None or rest is None else count * 10**9 + rest


def _recorded_path(record: str) -> str:
    directory, _, name = record.rpartition("/")
    return f"{directory}/{name.removeprefix('.').removesuffix(_RECORD_ENDING)}"
