"""What lies on a box and is of no further use: old quants and revisions, broken-off downloads, releases, toolkits."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

from tasks.planning import layout
from tasks.planning.release import release_path
from tasks.planning.shard_sets import set_name
from tasks.planning.shards import GIB, StoredFile, partial, record, record_of, target
from tasks.spec.model_lock import LockedModel
from tasks.spec.rig import Rig

HF_TRANSFER = ".hf_transfer"
"""Ending of hf_transfer's own name for a file it is at work on (tasks/files/move_bytes.py)."""


UNFINISHED = ".part"
"""Ending of a release's directory while it is made (tasks/files/build_release.py)."""


@dataclass(frozen=True)
class Directory:
    """``size`` in bytes on the disk; ``changed_at``: when anything in it was last written, seconds since the epoch."""

    size: int
    changed_at: int = 0


@dataclass(frozen=True)
class Leftover:
    """Something that may go. ``size`` in bytes on the disk; ``stays`` says why it may not yet, if anything does."""

    name: str
    paths: tuple[str, ...]
    size: int
    why: str
    stays: str = ""

    def __str__(self) -> str:
        line = f"{self.size / GIB:8.2f} GiB  {self.name}: {self.why}"
        return f"{line}; stays, {self.stays}" if self.stays else line


class CannotDeleteError(ValueError):
    """What is named may not go, or is not there; the message says which."""


def leftovers(
    rig: Rig,
    locked: Iterable[LockedModel],
    stored: Mapping[str, StoredFile],
    directories: Mapping[str, Directory],
    users: Mapping[str, str],
    toolkits: Mapping[str, str],
    keep: int,
) -> list[Leftover]:
    """Everything on the box that neither the declaration nor the lock has a use for, largest first.

    :param stored: path -> file of the model store
    :param directories: of every release, every build's work, every CUDA toolkit, by path
    :param users: name of a unit, a running job or a process -> every path it names, as one text
    :param toolkits: path of a release -> root of the CUDA toolkit whose libraries it loads
    :param keep: how many of the releases that no build makes any more stay, the newest ones
    """
    locked = list(locked)
    found = [
        *_model_files(locked, stored, users),
        *_partials(locked, stored, users),
        *_releases(rig, directories, users, keep),
        *_work(rig, directories, users),
        *_cuda(rig, directories, users, toolkits),
    ]
    return sorted(found, key=lambda leftover: (-leftover.size, leftover.name))


def chosen(names: Iterable[str], found: Iterable[Leftover]) -> list[Leftover]:
    """The leftovers of these names.

    :raises CannotDeleteError: for a name that is no leftover, and for one that something still refers to
    """
    known = {leftover.name: leftover for leftover in found}
    wanted = []
    for name in names:
        leftover = known.get(name)
        if leftover is None:
            raise CannotDeleteError(f"{name!r} is nothing this list offers: name what it prints; nothing was deleted")
        if leftover.stays:
            raise CannotDeleteError(f"{name} stays: {leftover.stays}; nothing was deleted")
        wanted.append(leftover)
    return wanted


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
        # What has another name elsewhere in the store, as the same bytes of two revisions have, frees no room.
        stay = {found.inode for path, found in stored.items() if path not in paths and path not in records}
        freed = {stored[path].inode: stored[path].allocated for path in [*paths, *records]}
        size = sum(allocated for inode, allocated in freed.items() if inode not in stay)
        yield Leftover(
            f"models/{name}", (*sorted(paths), *sorted(records)), size, _why(name, locked), _held(paths, users)
        )


def _why(name: str, locked: list[LockedModel]) -> str:
    """``name``: ORG/NAME/COMMIT/set."""
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
            why = "a broken-off download of no declared model"
            held = _held([path, path.removesuffix(HF_TRANSFER)], users)
            yield Leftover(f"partial/{name}", (path,), file.allocated, why, held)


def _releases(
    rig: Rig, directories: Mapping[str, Directory], users: Mapping[str, str], keep: int
) -> Iterable[Leftover]:
    declared = {release_path(build, rig.models) for build in rig.builds}
    old = [path for path in directories if path.startswith(f"{layout.RELEASES}/") and path not in declared]
    # Names with an ending are a build's own, broken off while it put a release in place; no release at all.
    old.sort(key=lambda path: ("." in path.rpartition("/")[2], -directories[path].changed_at, path))
    for index, path in enumerate(old):
        is_kept = index < keep and "." not in path.rpartition("/")[2]
        kept = f"one of the last {keep}, as many as host.keep_releases keeps" if is_kept else ""
        name = f"releases/{path.rpartition('/')[2]}"
        why = "no declared build makes this release"
        yield Leftover(
            name, (path,), directories[path].size, why, _held([path, path.removesuffix(UNFINISHED)], users) or kept
        )


def _work(rig: Rig, directories: Mapping[str, Directory], users: Mapping[str, str]) -> Iterable[Leftover]:
    declared = {release_path(build, rig.models).rpartition("/")[2]: build.name for build in rig.builds}
    for path, directory in directories.items():
        parent, _, name = path.rpartition("/")
        if parent != layout.WORK:
            continue
        if name not in declared:
            why = "object files of no declared build"
        elif f"{layout.RELEASES}/{name}" in directories:
            why = f"object files of build {declared[name]}, which is whole: they only make its next build quicker"
        else:
            continue
        yield Leftover(f"work/{name}", (path,), directory.size, why, _held([path], users))


def _cuda(
    rig: Rig, directories: Mapping[str, Directory], users: Mapping[str, str], toolkits: Mapping[str, str]
) -> Iterable[Leftover]:
    declared = {build.cuda_toolkit for build in rig.builds}
    for path, directory in directories.items():
        parent, _, version = path.rpartition("/")
        if parent != layout.CUDA or version in declared:
            continue
        loaders = {f"releases/{release.rpartition('/')[2]}": root for release, root in toolkits.items()}
        held = _held([path], {**users, **loaders})
        yield Leftover(f"cuda/{version}", (path,), directory.size, "no declared build uses this CUDA toolkit", held)


def _held(paths: Iterable[str], users: Mapping[str, str]) -> str:
    """Who names one of the paths or something below it, in words; a shard set is held by its first shard's user."""
    named = re.compile("|".join(rf"{re.escape(path)}(?![\w.+@=-])" for path in paths))
    found = ", ".join(sorted(user for user, text in users.items() if named.search(text)))
    return f"{found} refers to it" if found else ""
