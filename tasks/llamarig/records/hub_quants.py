"""Group the files of a Hub repository into the quants that it has of its models."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from llamarig.declare.base import NAME
from llamarig.records.model_lock import LockedFile, LockedModel
from llamarig.records.shard_sets import NoSuchFilesError, companion, complete, of_quant, quant_of, set_name, shard_sets

_MOST_LETTERS = 60
"""Of a model's name (declare/base.py)."""


@dataclass(frozen=True)
class HubQuant:
    """One set of files that llama.cpp loads as a model.

    ``label``: its quant, or the name of the set where that is of several or of none; ``quant``: as a model declares it,
    None where it has to name its files.
    """

    label: str
    quant: str | None
    locked: LockedModel

    @property
    def size(self) -> int:
        """Bytes of all its shards."""
        return sum(shard.size for shard in self.locked.shards)

    @property
    def selection(self) -> dict[str, str | tuple[str, ...]]:
        """The field of a model that selects these files: ``quant`` or ``files``."""
        if self.quant is not None:
            return {"quant": self.quant}
        return {"files": tuple(shard.path for shard in self.locked.shards)}


@dataclass(frozen=True)
class Quants:
    """The quants of a repository at one commit, the largest first; and why other GGUF files of it are none."""

    repo: str
    commit: str
    quants: tuple[HubQuant, ...] = ()
    left_out: tuple[str, ...] = ()


def quants_of(repo: str, commit: str, files: Iterable[str], locked: Mapping[str, LockedFile]) -> Quants:
    """Group the files of a repository.

    :param files: paths of all its files
    :param locked: path -> size and sha256, of those that the Hub has a sha256 of
    """
    paths = list(files)
    found: list[HubQuant] = []
    left_out = [
        f"{path}: {kind}" for path in sorted(paths) if path.endswith(".gguf") and (kind := companion(path)) is not None
    ]
    for members in shard_sets(paths).values():
        try:
            shards = complete(members, repo)
        except NoSuchFilesError as error:
            left_out.append(str(error).removeprefix(f"{repo}: "))
            continue
        if without := [path for path in shards if path not in locked]:
            left_out.append(f"{without[0]}: the Hub has no sha256 of it")
            continue
        quant = _quant_that_selects(shards, paths, repo)
        label = quant or set_name(shards[0])
        entry = LockedModel(repo=repo, commit=commit, shards=tuple(locked[path] for path in shards))
        found.append(HubQuant(label, quant, entry))
    found.sort(key=lambda one: (-one.size, one.label))
    return Quants(repo, commit, tuple(found), tuple(left_out))


def _quant_that_selects(shards: list[str], paths: list[str], repo: str) -> str | None:
    """The quant with which a model declares exactly these files; None where there is none."""
    name = set_name(shards[0])
    folder = name.rpartition("/")[0].rpartition("/")[2]
    for quant in filter(None, (quant_of(shards[0]), quant_of(f"{folder}.gguf"), folder)):
        try:
            if re.fullmatch(r"[\w.-]+", quant) and of_quant(quant, paths, repo) == shards:
                return quant
        except NoSuchFilesError:
            continue
    return None


def model_name(repo: str, taken: Iterable[str] = ()) -> str:
    """A name for a model of a repository, of the letters that a name may have: ``qwen3-30b-a3b``.

    :param taken: names that the box has already; a number is added then
    """
    stem = re.sub(r"[-_.]gguf$", "", repo.rpartition("/")[2], flags=re.IGNORECASE)
    plain = re.sub(r"[^a-z0-9]+", "-", stem.lower()).strip("-")[: _MOST_LETTERS - 3].strip("-")
    name = plain if NAME.fullmatch(plain) else "model"
    number, free = 2, name
    while free in set(taken):
        free, number = f"{name}-{number}", number + 1
    return free
