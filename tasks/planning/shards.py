"""Model files on the box: which are missing, which are doubtful, and whether the rest still has room."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from tasks.planning import layout
from tasks.planning.difference import Difference
from tasks.planning.flags import ModelFiles
from tasks.spec.model_lock import LockedFile, LockedModel
from tasks.spec.rig import Hub, Rig

GIB = 1024**3

CONNECTIONS = 24
"""Of all files together: a server that limits each connection gives so many times as much. aria2 allows 16,
huggingface_hub gives hf_transfer 100; a line of under 1.6 MB/s would then bring no CHUNK within PATIENCE_S."""
CHUNK = 4 * 1024**2
"""Bytes hf_transfer fetches at once and holds in memory until then: CONNECTIONS of them, and while each is written to
the disk once more, so 192 MiB at most. A kill loses what is on its way, CONNECTIONS * CHUNK."""
FILES_AT_A_TIME = 4
PATIENCE_S = 60
"""Seconds without a byte (or, through hf_transfer, without a chunk) after which a connection is given up."""
BACKOFF_S = 2
GIVE_UP_AFTER_S = 30 * 60
"""Without progress because nobody answers, or answers 429 or 5xx: a router that restarts, a Hub that is down."""
REFETCH_BYTES = GIB
"""Of a file, this or a twentieth of it may be fetched twice: if there is more, a server without Range gets no second go
at it from the front."""


@dataclass(frozen=True)
class StoredFile:
    """A file of the model store: size in bytes, mtime in ns, the record made when its sha256 matched, bytes on disk."""

    size: int
    mtime_ns: int
    inode: int
    record: Mapping[str, Any] | None = None
    allocated: int = 0
    """What it takes on the disk; of a half-fetched file, what has come so far."""

    def verified_sha256(self) -> str | None:
        """The sha256 this file was checked to have, None where it was not checked or has changed since."""
        seen = {"size": self.size, "mtime_ns": self.mtime_ns, "inode": self.inode}
        if self.record is None or any(self.record.get(key) != value for key, value in seen.items()):
            return None
        return str(self.record.get("sha256"))


def target(locked: LockedModel, file: LockedFile) -> str:
    """Path of a file on the box."""
    return f"{layout.model_directory(locked.repo, locked.commit)}/{file.path}"


def record(locked: LockedModel, file: LockedFile) -> str:
    """Path of what is recorded about a file once its sha256 matched (written by tasks/files/fetch_shards.py)."""
    return record_of(target(locked, file))


def record_of(path: str) -> str:
    """The record beside a model file."""
    directory, _, name = path.rpartition("/")
    return f"{directory}/.{name}.verified.json"


def partial(file: LockedFile) -> str:
    """Where a file grows until its sha256 matched; on the same filesystem, so that the last step is a rename."""
    return f"{layout.MODELS}/.partial/{file.sha256}"


def model_files(locked: LockedModel) -> ModelFiles:
    """The paths llama-server is given."""
    return ModelFiles(
        model=target(locked, locked.shards[0]),
        mmproj=target(locked, locked.mmproj) if locked.mmproj else None,
        draft=target(locked, locked.draft) if locked.draft else None,
    )


def shard_differences(
    locked: Iterable[LockedModel], stored: Mapping[str, StoredFile], hashes: Mapping[str, str] | None = None
) -> list[tuple[LockedModel, LockedFile, Difference]]:
    """Every locked file that is not on the box as locked, each once.

    :param stored: path -> what lies there
    :param hashes: path -> sha256 read from the disk just now, for a deep check: of every stored file that can be read
    """
    found: dict[str, tuple[LockedModel, LockedFile, Difference]] = {}
    for model in locked:
        for file in model.files:
            path = target(model, file)
            state = _state(file, stored.get(path), None if hashes is None else hashes.get(path))
            name = file.path.rsplit("/", 1)[-1]
            about, expected = f"model file {name}", f"sha256 {file.sha256[:12]}..."
            if hashes is not None and path in stored and path not in hashes:
                remedy = f"see what the box's kernel log says of its disk (dmesg), then delete {path} and run deploy.py"
                found[path] = (model, file, Difference(about, expected, "cannot be read", remedy, by_deploy=False))
            elif state is not None:
                found[path] = (model, file, Difference(about, expected, state))
    return list(found.values())


def _state(file: LockedFile, stored: StoredFile | None, digest: str | None) -> str | None:
    if stored is None:
        return "not there"
    if stored.size != file.size:
        return f"{stored.size} bytes instead of {file.size}"
    if digest is not None and digest != file.sha256:
        return f"its bytes have sha256 {digest[:12]}..."
    if stored.verified_sha256() != file.sha256:
        return "changed since its sha256 was checked"
    return None


def same_bytes(file: LockedFile, path: str, stored: Mapping[str, StoredFile]) -> list[str]:
    """Other paths of the store with a locked file's bytes, by their records: to be linked, where ``path`` is not there.

    Another revision of its repository mostly, or another repository. Where something else has its name, nothing is
    linked: that may be the same inode, found to be damaged.
    """
    if path in stored:
        return []
    return sorted(
        other for other, found in stored.items() if found.size == file.size and found.verified_sha256() == file.sha256
    )


def names_of(paths: Iterable[str], stored: Mapping[str, StoredFile]) -> set[str]:
    """All names that the store has for these files: whose bytes are wrong under one are wrong under all."""
    inodes = {stored[path].inode for path in paths if path in stored}
    return {path for path, found in stored.items() if found.inode in inodes}


def room_missing(
    files: Iterable[tuple[LockedModel, LockedFile, Difference]], stored: Mapping[str, StoredFile], free: int, rig: Rig
) -> Difference | None:
    """Whether the files to fetch fit on the model store, before the first byte of them.

    :param free: bytes free on the model store's filesystem
    """
    wanted = {partial(file): (target(model, file), file) for model, file, _ in files}
    whole = sum(file.size for _, file in wanted.values())
    there = sum(min(file.size, _there(stored, part, path, file)) for part, (path, file) in wanted.items())
    needed, reserve = whole - there, int(rig.host.disk_reserve_gib * GIB)
    if needed <= max(0, free - reserve):
        return None
    return Difference(
        what="disk space for models",
        expected=f"{(needed + reserve) / GIB:.2f} GiB free ({whole / GIB:.2f} GiB of model files wanted, less "
        f"{there / GIB:.2f} GiB already there, plus {reserve / GIB:.2f} GiB kept free)",
        found=f"{free / GIB:.2f} GiB are free on {layout.MODELS}",
        remedy="free space there (tasks/prune.py lists what nothing uses) or add some, or lower host.disk_reserve_gib; "
        "nothing was downloaded",
        by_deploy=False,
    )


def _there(stored: Mapping[str, StoredFile], part: str, path: str, file: LockedFile) -> int:
    """Bytes that will not be fetched: what a broken-off download left, or a whole file, to be read or linked."""
    if (path in stored and stored[path].size == file.size) or same_bytes(file, path, stored):
        return file.size
    return stored[part].allocated if part in stored else 0


def fetch_job(
    files: Iterable[tuple[LockedModel, LockedFile, Difference]], hub: Hub, stored: Mapping[str, StoredFile]
) -> dict[str, Any]:
    """What tasks/files/fetch_shards.py is told: the files, and the budget of connections, memory and bandwidth.

    ``same``, of a file: paths where the store has its bytes already.
    """
    return {
        "endpoint": hub.endpoint,
        "proxy": hub.proxy,
        "bytes_per_s": int(hub.max_mb_s * 1e6) if hub.max_mb_s else None,
        "group": layout.USER,
        "files_at_a_time": FILES_AT_A_TIME,
        "connections": CONNECTIONS,
        "chunk": CHUNK,
        "patience_s": PATIENCE_S,
        "backoff_s": BACKOFF_S,
        "give_up_after_s": GIVE_UP_AFTER_S,
        "refetch_bytes": REFETCH_BYTES,
        "files": [
            {
                "repo": model.repo,
                "commit": model.commit,
                "path": file.path,
                "size": file.size,
                "sha256": file.sha256,
                "target": target(model, file),
                "partial": partial(file),
                "same": same_bytes(file, target(model, file), stored),
            }
            for model, file, _ in files
        ],
    }
