"""Finds files on a box that are no longer used: old quants and revisions, aborted downloads, releases, toolkits."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath

from llamarig.declare.rig import Rig
from llamarig.facts.disk_use import Directory
from llamarig.facts.model_store import StoredFile
from llamarig.facts.units import Unit
from llamarig.records.model_lock import LockedModel
from llamarig.records.shard_sets import set_name
from llamarig.render import layout
from llamarig.render.model_paths import GIB, partial, record, record_of, target
from llamarig.render.release import release_path

HF_TRANSFER = ".hf_transfer"
"""Suffix of hf_transfer's own file while it downloads (remote/download/hf_transfer_process.py)."""


UNFINISHED = ".part"
"""Suffix of a release's directory while it is built (remote/build/build_release.py)."""


@dataclass(frozen=True)
class Leftover:
    """Something that may be deleted. ``size``: bytes on disk; ``kept_because``: why it may not be deleted yet, else
    empty."""

    name: str
    paths: tuple[str, ...]
    size: int
    why: str
    kept_because: str = ""

    def __str__(self) -> str:
        line = f"{self.size / GIB:8.2f} GiB  {self.name}: {self.why}"
        return f"{line}; kept: {self.kept_because}" if self.kept_because else line


class CannotDeleteError(ValueError):
    """A name that cannot be deleted or does not exist; the message says which."""


def leftovers(
    rig: Rig,
    locked: Iterable[LockedModel],
    stored: Mapping[str, StoredFile],
    directories: Mapping[str, Directory],
    users: Mapping[str, str],
    starts: Mapping[str, str],
    toolkits: Mapping[str, str],
    keep: int,
    units: Mapping[str, Unit],
    installed: Sequence[str] = (),
) -> list[Leftover]:
    """Everything on the box that is used by neither the declaration nor the lock, largest first.

    :param stored: files of the model store by path
    :param directories: releases, work directories of builds and CUDA toolkits by path
    :param users: for each unit, running job or process by name: all paths that it names, as one text
    :param starts: for each start record by name: the same. A release in one is the way back of a unit; a model file is
        not kept for that, since old quants are large and can be downloaded again
    :param toolkits: by path of a release: root of the CUDA toolkit whose libraries it loads
    :param keep: how many releases without a declared build are kept, the newest ones
    :param units: model units of the box by name
    :param installed: names of the releases in the order in which they were put in place
    """
    locked = list(locked)
    found = [
        *_units(rig, units),
        *_model_files(locked, stored, users),
        *_partials(locked, stored, users),
        *_releases(rig, directories, {**users, **starts}, keep, installed),
        *_work(rig, directories, users),
        *_cuda(rig, directories, users, toolkits),
    ]
    return sorted(found, key=lambda leftover: (-leftover.size, leftover.name))


def stored_models(stored: Mapping[str, StoredFile], users: Mapping[str, str]) -> list[Leftover]:
    """Every set of model files on the box, declared or not, and every aborted download, largest first.

    :param users: as of ``leftovers``
    """
    found = [
        replace(leftover, why="a model's files" if leftover.name.startswith("models/") else "an aborted download")
        for leftover in (*_model_files([], stored, users), *_partials([], stored, users))
    ]
    return sorted(found, key=lambda leftover: (-leftover.size, leftover.name))


def chosen(names: Iterable[str], found: Iterable[Leftover]) -> list[Leftover]:
    """The leftovers with these names.

    :raises CannotDeleteError: for a name that is not a leftover, and for one that is still in use
    """
    known = {leftover.name: leftover for leftover in found}
    wanted = []
    for name in names:
        leftover = known.get(name)
        if leftover is None:
            raise CannotDeleteError(f"{name!r} is not on the list: use a name as printed there; nothing was deleted")
        if leftover.kept_because:
            raise CannotDeleteError(f"{name} cannot be deleted: {leftover.kept_because}; nothing was deleted")
        wanted.append(leftover)
    return wanted


def _units(rig: Rig, units: Mapping[str, Unit]) -> Iterable[Leftover]:
    """Units of models that are no longer declared, with their start records and drop-ins."""
    declared = {layout.unit_name(model.name) for model in rig.models}
    for name, unit in units.items():
        if name in declared:
            continue
        state = "it runs" if unit.is_active else "it is started at boot" if unit.enabled == "enabled" else ""
        kept = f"{state}: run deploy.py first, which stops it, or systemctl disable --now {name}" if state else ""
        file = f"{layout.UNITS}/{name}"
        records = [f"{layout.PROOFS}/{name}{end}" for end in (".json", ".previous.json", ".rolled-back")]
        paths = (file, f"{file}.d", *records)
        yield Leftover(f"units/{name}", paths, 0, "no declared model has this unit", kept)


def _model_files(
    locked: list[LockedModel], stored: Mapping[str, StoredFile], users: Mapping[str, str]
) -> Iterable[Leftover]:
    wanted = {path for model in locked for file in model.files for path in (target(model, file), record(model, file))}
    sets: dict[str, list[str]] = defaultdict(list)
    for path in stored:
        inside = path.removeprefix(f"{layout.MODELS}/")
        hidden = PurePosixPath(path).name.startswith(".")
        if path not in wanted and not hidden and not inside.startswith(".") and inside.count("/") >= 3:
            sets[set_name(inside)].append(path)
    for name, paths in sets.items():
        records = [record_of(path) for path in paths if record_of(path) in stored]
        # A hard link elsewhere in the store (the same bytes in two revisions) means that no space is freed.
        linked = {found.inode for path, found in stored.items() if path not in paths and path not in records}
        freed = {stored[path].inode: stored[path].allocated for path in [*paths, *records]}
        size = sum(allocated for inode, allocated in freed.items() if inode not in linked)
        yield Leftover(
            f"models/{name}", (*sorted(paths), *sorted(records)), size, _reason(name, locked), _references(paths, users)
        )


def _reason(name: str, locked: list[LockedModel]) -> str:
    """Why a set of model files is not needed.

    :param name: ORG/NAME/COMMIT/set
    """
    repo, commit = "/".join(name.split("/")[:2]), name.split("/")[2]
    of_repo = [model for model in locked if model.repo == repo]
    if not of_repo:
        return f"no model of {repo} is declared"
    used = sorted({PurePosixPath(set_name(model.shards[0].path)).name for model in of_repo})
    if commit not in {model.commit for model in of_repo}:
        return f"superseded by revision {', '.join(sorted({model.commit[:12] for model in of_repo}))}"
    return f"superseded by {', '.join(used)}"


def _partials(
    locked: list[LockedModel], stored: Mapping[str, StoredFile], users: Mapping[str, str]
) -> Iterable[Leftover]:
    wanted = {partial(file) for model in locked for file in model.files}
    for path, file in stored.items():
        name = path.removeprefix(f"{layout.MODELS}/.partial/")
        if name not in (path, ".lock") and path.removesuffix(HF_TRANSFER) not in wanted:
            why = "an aborted download that no declared model needs"
            held = _references([path, path.removesuffix(HF_TRANSFER)], users)
            yield Leftover(f"partial/{name}", (path,), file.allocated, why, held)


def _releases(
    rig: Rig,
    directories: Mapping[str, Directory],
    users: Mapping[str, str],
    keep: int,
    installed: Sequence[str],
) -> Iterable[Leftover]:
    declared = {release_path(build, rig.models) for build in rig.builds}
    old = [path for path in directories if path.startswith(f"{layout.RELEASES}/") and path not in declared]
    order = {name: number for number, name in enumerate(installed)}
    # Names with a suffix are of aborted builds, not of releases. Releases of earlier versions are in no order but that
    # of the box's clock, and older than those that are.
    old.sort(
        key=lambda path: (
            "." in path.rpartition("/")[2],
            -order.get(path.rpartition("/")[2], -1),
            -directories[path].changed_at,
            path,
        )
    )
    for index, path in enumerate(old):
        is_kept = index < keep and "." not in path.rpartition("/")[2]
        kept = f"one of the last {keep}, as many as host.keep_releases keeps" if is_kept else ""
        name = f"releases/{path.rpartition('/')[2]}"
        why = "no declared build produces this release"
        yield Leftover(
            name,
            (path,),
            directories[path].size,
            why,
            _references([path, path.removesuffix(UNFINISHED)], users) or kept,
        )


def _work(rig: Rig, directories: Mapping[str, Directory], users: Mapping[str, str]) -> Iterable[Leftover]:
    declared = {release_path(build, rig.models).rpartition("/")[2]: build.name for build in rig.builds}
    for path, directory in directories.items():
        parent, _, name = path.rpartition("/")
        if parent != layout.WORK:
            continue
        if name not in declared:
            why = "object files that no declared build uses"
        elif f"{layout.RELEASES}/{name}" in directories:
            why = f"object files of build {declared[name]}, which is complete: they only speed up its next build"
        else:
            continue
        yield Leftover(f"work/{name}", (path,), directory.size, why, _references([path], users))


def _cuda(
    rig: Rig, directories: Mapping[str, Directory], users: Mapping[str, str], toolkits: Mapping[str, str]
) -> Iterable[Leftover]:
    declared = {build.cuda_toolkit for build in rig.builds}
    for path, directory in directories.items():
        parent, _, version = path.rpartition("/")
        if parent != layout.CUDA or version in declared:
            continue
        loaders = {f"releases/{release.rpartition('/')[2]}": root for release, root in toolkits.items()}
        held = _references([path], {**users, **loaders})
        yield Leftover(f"cuda/{version}", (path,), directory.size, "no declared build uses this CUDA toolkit", held)


def _references(paths: Iterable[str], users: Mapping[str, str]) -> str:
    """The users that name one of the paths or something below it, in words; the user of a first shard holds the whole
    set."""
    named = re.compile("|".join(rf"{re.escape(path)}(?![\w.+@=-])" for path in paths))
    found = ", ".join(sorted(user for user, text in users.items() if named.search(text)))
    return f"{found} refers to it" if found else ""
