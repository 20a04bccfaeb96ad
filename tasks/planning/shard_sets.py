"""Which files of a Hub repository a declared model means: complete shard sets, and only unambiguous ones."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from pathlib import PurePosixPath

_QUANT = r"(?:UD-|i1-)?(?:I?Q\d|TQ\d|MXFP|NVFP|B?F16|FP?(?:8|16|32))\w{0,16}"
_PROJECTOR = re.compile(r"(?<![a-z0-9])mmproj", re.IGNORECASE)
"""mmproj-F16, m-mmproj-F16, m.mmproj-f16. llama.cpp takes the letters anywhere (common/download.cpp:648, pinned)."""
_DRAFT_HEAD = re.compile(rf"(?i:(?:mtp|eagle3|dflash|dspark)-)|[^\n]*-assistant(?i:[-.]{_QUANT})?$")
"""Those in front are llama.cpp's (common/download.cpp:650-653, pinned); m-assistant, in small letters, is how the draft
heads of Gemma are called. Pirate-Assistant-Q8_0 is a model, and so is m-MTP-Q8_0, with such a layer of its own."""
_IMATRIX = re.compile(r"^imatrix(?![a-z0-9])|[-._]imatrix$", re.IGNORECASE)
_MADE_WITH_IMATRIX = re.compile(rf"[-._]{_QUANT}[-._]imatrix$", re.IGNORECASE)
_SHARD = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})")


class NoSuchFilesError(ValueError):
    """The repository does not hold what is declared; the message lists what it does hold."""


def companion(path: str) -> str | None:
    """What a GGUF file is that is loaded beside a model and never as one, by its name; None for a model's own."""
    *folders, name = set_name(path).split("/")
    lowered = [folder.lower() for folder in folders]
    if "mmproj" in lowered or _PROJECTOR.search(name):
        return "vision projector"
    if "mtp" in lowered or _DRAFT_HEAD.match(name):
        return "draft head"
    if _IMATRIX.search(name) and not _MADE_WITH_IMATRIX.search(name):
        return "importance matrix"
    return None


def shard_sets(paths: Iterable[str]) -> dict[tuple[str, int], list[str]]:
    """Name (path without shard number and ending) and count -> the files of that set. Companions are left out.

    The count is what the names say, 0 for a file that is no shard: a model split anew lies beside its old shards, or
    beside itself in one piece, and only one of them may be meant.
    """
    sets: dict[tuple[str, int], list[str]] = defaultdict(list)
    for path in sorted(paths):
        file = PurePosixPath(path)
        if file.suffix != ".gguf" or companion(path):
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
    paths = list(paths)
    sets = shard_sets(paths)
    ending = re.compile(rf"(?<![A-Za-z0-9_])(?<!UD-){re.escape(quant)}$")
    found = [key for key in sets if ending.search(PurePosixPath(key[0]).name)]
    if not found:
        raise NoSuchFilesError(_no_such_quant(quant, ending, paths, repo))
    if len(found) > 1:
        several = ", ".join(_shown(name, count, len(sets[name, count])) for name, count in found)
        raise NoSuchFilesError(f"quant {quant} means several sets of {repo}: {several}; name one in files")
    return complete(sets[found[0]], repo)


def _no_such_quant(quant: str, ending: re.Pattern[str], paths: list[str], repo: str) -> str:
    names = sorted({name for name, _ in shard_sets(paths)})
    files = [PurePosixPath(name).name for name in names]
    otherwise = re.compile(ending.pattern, re.IGNORECASE)
    # model.gguf in a folder for each quant is told apart by its folder.
    known = ", ".join(
        (name if files.count(file) > 1 else file) + " (in other letters)" * bool(otherwise.search(file))
        for name, file in zip(names, files, strict=True)
    )
    beside = [
        f"{path} ({kind})"
        for path in sorted(paths)
        if path.endswith(".gguf") and (kind := companion(path)) and ending.search(PurePosixPath(set_name(path)).name)
    ]
    said = f"{repo} has no quant {quant}; it has {known or 'no GGUF file of a model'}"
    if beside:
        said = (
            f"{repo} has {quant} only as what is loaded beside a model: {', '.join(beside)}; of a model it has "
            f"{known or 'no GGUF file'}"
        )
    return f"{said}: end quant as one of them ends, or name the model's own in files"


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
