"""The job that takes model files which already lie on the box, before any are downloaded."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from llamarig.declare.rig import Rig
from llamarig.engine.item import Difference
from llamarig.facts.model_store import StoredFile
from llamarig.items.download_job import same_bytes
from llamarig.records.model_lock import LockedFile, LockedModel
from llamarig.remote.shared.jobs import ImportFile, ImportJob
from llamarig.render import layout
from llamarig.render.model_paths import GIB, partial, target

IMPORT = "import"
"""Name of the job; one runs at a time on a box."""

# It has to rename and to link, which mounts of a sandbox would separate, so it sees the box as it is; but no network.
PROPERTIES = (
    "RestrictAddressFamilies=AF_UNIX",
    "NoNewPrivileges=yes",
    "CapabilityBoundingSet=CAP_DAC_OVERRIDE CAP_DAC_READ_SEARCH CAP_CHOWN CAP_FOWNER",
    "Nice=10",
    "IOSchedulingClass=best-effort",
    "IOSchedulingPriority=7",
)


@dataclass(frozen=True)
class Import:
    """Directories of the box where a model file may already lie, and whether it is taken away from there."""

    directories: tuple[str, ...] = ()
    move: bool = False


Missing = Sequence[tuple[LockedModel, LockedFile, Difference]]


def _imports_of(rig: Rig, locked: Iterable[LockedModel]) -> dict[str, Import]:
    """Path of a model file -> where it may already lie; without files of models that declare no such directories."""
    found: dict[str, Import] = {}
    for model, lock in zip(rig.models, locked, strict=False):
        for file in lock.files if model.import_from else ():
            earlier = found.get(target(lock, file), Import())
            directories = tuple(dict.fromkeys((*earlier.directories, *model.import_from)))
            found[target(lock, file)] = Import(directories, earlier.move or model.import_by == "move")
    return found


def import_job(
    rig: Rig, missing: Missing, locked: Iterable[LockedModel], stored: Mapping[str, StoredFile]
) -> ImportJob:
    """The job for those of the missing files that may lie on the box, and whose bytes the store does not have."""
    imports = _imports_of(rig, locked)
    return ImportJob(
        store=layout.MODELS,
        group=layout.USER,
        reserve=int(rig.host.disk_reserve_gib * GIB),
        files=tuple(
            ImportFile(
                size=file.size,
                sha256=file.sha256,
                target=path,
                partial=partial(file),
                directories=imports[path].directories,
                move=imports[path].move,
            )
            for model, file, _ in missing
            if (path := target(model, file)) in imports and not same_bytes(file, path, stored)
        ),
    )


def not_imported(
    missing: Missing, job: ImportJob, stored: Mapping[str, StoredFile]
) -> list[tuple[LockedModel, LockedFile, Difference]]:
    """Those of the missing files that are still to be fetched after the import.

    :param stored: the store as it is then
    """
    files = {file.target: file.sha256 for file in job.files}
    there = {path for path, sha256 in files.items() if path in stored and stored[path].verified_sha256() == sha256}
    return [one for one in missing if target(one[0], one[1]) not in there]
