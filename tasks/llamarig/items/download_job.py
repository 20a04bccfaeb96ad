"""Which model files differ from the model lock, whether the disk has room for them, and the job that fetches them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from llamarig.declare.rig import Hub, Rig
from llamarig.engine.item import Difference
from llamarig.facts.model_store import StoredFile
from llamarig.records.model_lock import LockedFile, LockedModel
from llamarig.remote.shared.jobs import FetchFile, FetchJob, WantedArchitecture
from llamarig.render import layout
from llamarig.render.model_paths import GIB, partial, target

CONNECTIONS = 24
"""Of all files together, for servers that limit each connection. aria2 allows 16, huggingface_hub gives hf_transfer
100; with 100, a line below 1.6 MB/s would complete no CHUNK within PATIENCE_S."""
CHUNK = 4 * 1024**2
"""Bytes of a request of hf_transfer, which holds each in memory and copies it to write it: 2 * CONNECTIONS * CHUNK =
192 MiB at most. A kill loses the requests in flight, CONNECTIONS * CHUNK."""
FILES_AT_A_TIME = 4
PATIENCE_S = 60
"""Seconds without a byte (with hf_transfer, without a chunk) after which a connection is abandoned."""
BACKOFF_S = 2
GIVE_UP_AFTER_S = 30 * 60
"""Seconds without progress while the Hub does not answer, or answers 429 or 5xx: a router restarts, the Hub is down."""
REFETCH_BYTES = GIB
"""Bytes of a file (or a twentieth of it, if that is more) that may be fetched twice. With more than that on disk, a
server without Range is not asked to start again from the beginning."""


def missing_files(
    locked: Iterable[LockedModel], stored: Mapping[str, StoredFile], hashes: Mapping[str, str] | None = None
) -> list[tuple[LockedModel, LockedFile, Difference]]:
    """Every locked file that is missing on the box or differs from the lock, each once.

    :param stored: path -> the file in the model store
    :param hashes: for a deep check: path -> sha256 of the bytes on the disk, of every stored file that can be read
    """
    found: dict[str, tuple[LockedModel, LockedFile, Difference]] = {}
    for model in locked:
        for file in model.files:
            path = target(model, file)
            state = _state(file, stored.get(path), None if hashes is None else hashes.get(path))
            name = file.path.rsplit("/", 1)[-1]
            about, expected = f"model file {name}", f"sha256 {file.sha256[:12]}..."
            if hashes is not None and path in stored and path not in hashes:
                remedy = f"look for errors of the disk in the box's dmesg, then delete {path} and run deploy.py"
                found[path] = (model, file, Difference(about, expected, "cannot be read", remedy, by_deploy=False))
            elif state is not None:
                size = f"{file.size / GIB:.2f} GiB"
                will, did = f"{name}: downloads {size} ({state})", f"{name}: downloaded, {size}"
                found[path] = (model, file, Difference(about, expected, state, will=will, did=did))
    return list(found.values())


def _state(file: LockedFile, stored: StoredFile | None, digest: str | None) -> str | None:
    if stored is None:
        return "missing"
    if stored.size != file.size:
        return f"{stored.size} bytes instead of {file.size}"
    if digest is not None and digest != file.sha256:
        return f"the bytes on the disk have sha256 {digest[:12]}..."
    if stored.verified_sha256() != file.sha256:
        return "changed since its sha256 was checked"
    return None


def same_bytes(file: LockedFile, path: str, stored: Mapping[str, StoredFile]) -> list[str]:
    """Other paths of the store with a locked file's bytes according to their records, to link ``path`` to.

    They usually belong to another revision of the repository. Empty if ``path`` exists: it may be a link to the same
    damaged file.
    """
    if path in stored:
        return []
    return sorted(
        other for other, found in stored.items() if found.size == file.size and found.verified_sha256() == file.sha256
    )


def names_of(paths: Iterable[str], stored: Mapping[str, StoredFile]) -> set[str]:
    """All paths in the store that are links to these files, which share their bytes."""
    inodes = {stored[path].inode for path in paths if path in stored}
    return {path for path, found in stored.items() if found.inode in inodes}


def room_missing(
    files: Iterable[tuple[LockedModel, LockedFile, Difference]], stored: Mapping[str, StoredFile], free: int, rig: Rig
) -> Difference | None:
    """The missing disk space for the files to fetch; None if they fit.

    :param free: bytes free on the model store's filesystem
    """
    wanted = {partial(file): (target(model, file), file) for model, file, _ in files}
    whole = sum(file.size for _, file in wanted.values())
    present = sum(min(file.size, _present(stored, part, path, file)) for part, (path, file) in wanted.items())
    needed, reserve = whole - present, int(rig.host.disk_reserve_gib * GIB)
    if needed <= max(0, free - reserve):
        return None
    return Difference(
        what="disk space for models",
        expected=f"{(needed + reserve) / GIB:.2f} GiB free ({whole / GIB:.2f} GiB of model files to fetch, less "
        f"{present / GIB:.2f} GiB already there, plus {reserve / GIB:.2f} GiB kept free)",
        found=f"{free / GIB:.2f} GiB are free on {layout.MODELS}",
        remedy="free space there (tasks/prune.py lists what nothing uses) or add some, or lower host.disk_reserve_gib; "
        "nothing was downloaded",
        by_deploy=False,
    )


def _present(stored: Mapping[str, StoredFile], part: str, path: str, file: LockedFile) -> int:
    """Bytes that need not be fetched: of an interrupted download, or of a complete file to verify or link."""
    if (path in stored and stored[path].size == file.size) or same_bytes(file, path, stored):
        return file.size
    return stored[part].allocated if part in stored else 0


def fetch_job(
    files: Iterable[tuple[LockedModel, LockedFile, Difference]],
    hub: Hub,
    stored: Mapping[str, StoredFile],
    wanted: tuple[WantedArchitecture, ...] = (),
) -> FetchJob:
    """Describe a download for remote/download/fetch_shards.py, with its limits on connections, memory and rate.

    :param wanted: architectures to compare with the source of builds that have just begun
    """
    return FetchJob(
        endpoint=hub.endpoint,
        proxy=hub.proxy,
        bytes_per_s=int(hub.max_mb_s * 1e6) if hub.max_mb_s else None,
        group=layout.USER,
        files_at_a_time=FILES_AT_A_TIME,
        connections=CONNECTIONS,
        chunk=CHUNK,
        patience_s=PATIENCE_S,
        backoff_s=BACKOFF_S,
        give_up_after_s=GIVE_UP_AFTER_S,
        refetch_bytes=REFETCH_BYTES,
        files=tuple(
            FetchFile(
                repo=model.repo,
                commit=model.commit,
                path=file.path,
                size=file.size,
                sha256=file.sha256,
                target=target(model, file),
                partial=partial(file),
                same=tuple(same_bytes(file, target(model, file), stored)),
            )
            for model, file, _ in files
        ),
        wanted=wanted,
    )
