"""Which files of a Hub repository a declared model means: complete shard sets, and only unambiguous ones."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from pathlib import PurePosixPath

_SHARD = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})")


class NoSuchFilesError(ValueError):
    """The repository does not hold what is declared; the message lists what it does hold."""


def shard_sets(paths: Iterable[str]) -> dict[tuple[str, int], list[str]]:
    """Name (path without shard number and ending) and count -> the files of that set. Projectors are left out.

    The count is what the names say, 0 for a file that is no shard: a model split anew lies beside its old shards, or
    beside itself in one piece, and only one of them may be meant.
    """
    sets: dict[tuple[str, int], list[str]] = defaultdict(list)
    for path in sorted(paths):
        file = PurePosixPath(path)
        if file.suffix != ".gguf" or file.name.startswith("mmproj"):
            continue
        shard = _SHARD.fullmatch(file.stem)
        sets[set_name(path), int(shard["count"]) if shard else 0].append(path)
    return dict(sets)


def set_name(path: str) -> str:
    """What all shards of a set have in common: the path without shard number and ending."""
    file = PurePosixPath(path)
    shard = _SHARD.fullmatch(file.stem)
    return str(file.with_name(shard["stem"] if shard else file.stem))


def of_quant(quant: str, paths: Iterable[str], repo: str) -> list[str]:
    """The files of the one shard set whose name ends in the quant.

    ``Q4_K_XL`` does not mean ``UD-Q4_K_XL``: Unsloth publishes both kinds under one roof.

    :raises NoSuchFilesError: when none or several sets are called that, or the set is incomplete
    """
    sets = shard_sets(paths)
    ending = re.compile(rf"(?<![A-Za-z0-9_])(?<!UD-){re.escape(quant)}$")
    found = [key for key in sets if ending.search(PurePosixPath(key[0]).name)]
    if not found:
        known = ", ".join(PurePosixPath(name).name for name, _ in sorted(sets)) or "no GGUF file at all"
        raise NoSuchFilesError(f"{repo} has no quant {quant}; it has {known}: end quant as one of them ends")
    if len(found) > 1:
        several = ", ".join(_shown(name, count, len(sets[name, count])) for name, count in found)
        raise NoSuchFilesError(f"quant {quant} means several sets of {repo}: {several}; name one in files")
    return complete(sets[found[0]], repo)


def _shown(name: str, count: int, there: int) -> str:
    if not count:
        return f"{name}.gguf"
    return f"{name}-*-of-{count:05}.gguf" + ("" if there == count else f" ({there} of {count} there)")


def complete(files: list[str], repo: str) -> list[str]:
    """The files, when they are all there are of their set; llama.cpp loads a set whole or not at all.

    :raises NoSuchFilesError: naming the shards that are missing
    """
    shard = _SHARD.fullmatch(PurePosixPath(files[0]).stem)
    if shard is None:
        return files
    wanted = all_shards(files[0])
    missing = [path for path in wanted if path not in files]
    if missing:
        raise NoSuchFilesError(
            f"{repo}: the shard set {set_name(files[0])} is incomplete, missing {', '.join(missing)}"
        )
    return wanted


def all_shards(path: str) -> list[str]:
    """Every file of the set a shard's name belongs to; the file itself where it is a set of one."""
    shard = _SHARD.fullmatch(PurePosixPath(path).stem)
    if shard is None:
        return [path]
    stem = str(PurePosixPath(path).with_name(shard["stem"]))
    return [f"{stem}-{number:05}-of-{shard['count']}.gguf" for number in range(1, int(shard["count"]) + 1)]
