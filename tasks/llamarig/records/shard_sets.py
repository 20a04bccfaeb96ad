"""Select the files of a declared model in a Hub repository: one complete and unambiguous shard set."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from pathlib import PurePosixPath

_QUANT = r"(?:UD-|i1-)?(?:I?Q\d|TQ\d|MXFP|NVFP|B?F16|FP?(?:8|16|32))\w{0,16}"
_PROJECTOR = re.compile(r"(?<![a-z0-9])mmproj", re.IGNORECASE)
"""mmproj-F16, m-mmproj-F16, m.mmproj-f16. llama.cpp accepts `mmproj` anywhere (common/download.cpp:648, pinned)."""
_DRAFT_HEAD = re.compile(rf"(?i:(?:mtp|eagle3|dflash|dspark)-)|[^\n]*-assistant(?i:[-.]{_QUANT})?$")
"""The prefixes are llama.cpp's (common/download.cpp:650-653, pinned). Draft heads of Gemma are named m-assistant, in
lower case. Pirate-Assistant-Q8_0 is a model, and so is m-MTP-Q8_0, which has an MTP layer."""
_IMATRIX = re.compile(r"^imatrix(?![a-z0-9])|[-._]imatrix$", re.IGNORECASE)
_MADE_WITH_IMATRIX = re.compile(rf"[-._]{_QUANT}[-._]imatrix$", re.IGNORECASE)
_SHARD = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})")


class NoSuchFilesError(ValueError):
    """The repository has no such files; the message lists what it has."""


def companion(path: str) -> str | None:
    """Kind of a GGUF file that is loaded with a model and not as one, by its name; None for a file of a model."""
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
    """Group paths into sets: (path without shard number and suffix, shard count) -> files. Leaves out companions.

    The count is the one in the names, 0 for a file that is not a shard. It is part of the key because a repository may
    have the same model with several shard counts, or also in one file.
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
    """Common name of a shard set: the path without shard number and suffix."""
    file = PurePosixPath(path)
    shard = _SHARD.fullmatch(file.stem)
    return str(file.with_name(shard["stem"] if shard else file.stem))


def of_quant(quant: str, paths: Iterable[str], repo: str) -> list[str]:
    """Files of the one shard set whose name ends in a quant.

    ``Q4_K_XL`` does not match ``UD-Q4_K_XL``: repositories of Unsloth have both.

    :raises NoSuchFilesError: when no set or several sets match, or the set is incomplete
    """
    paths = list(paths)
    sets = shard_sets(paths)
    ending = re.compile(rf"(?<![A-Za-z0-9_])(?<!UD-){re.escape(quant)}$")
    found = [key for key in sets if ending.search(PurePosixPath(key[0]).name)]
    if not found:
        raise NoSuchFilesError(_no_such_quant(quant, ending, paths, repo))
    if len(found) > 1:
        several = ", ".join(_set_label(name, count, len(sets[name, count])) for name, count in found)
        raise NoSuchFilesError(f"quant {quant} matches several sets of {repo}: {several}; name one in files")
    return complete(sets[found[0]], repo)


def _no_such_quant(quant: str, ending: re.Pattern[str], paths: list[str], repo: str) -> str:
    names = sorted({name for name, _ in shard_sets(paths)})
    files = [PurePosixPath(name).name for name in names]
    any_case = re.compile(ending.pattern, re.IGNORECASE)
    # Some repositories have a model.gguf in one folder per quant: then the folder is shown.
    known = ", ".join(
        (name if files.count(file) > 1 else file) + " (in other letter case)" * bool(any_case.search(file))
        for name, file in zip(names, files, strict=True)
    )
    companions = [
        f"{path} ({kind})"
        for path in sorted(paths)
        if path.endswith(".gguf") and (kind := companion(path)) and ending.search(PurePosixPath(set_name(path)).name)
    ]
    models = f"its models are {known}" if known else "it has no GGUF file of a model"
    remedy = "set quant to the end of one of these names, or list the model's files in files"
    if companions:
        files_with_quant = ", ".join(companions)
        return f"{repo} has {quant} only in files that are loaded with a model: {files_with_quant}; {models}: {remedy}"
    return f"{repo} has no quant {quant}; {models}: {remedy}"


def _set_label(name: str, count: int, present: int) -> str:
    if not count:
        return f"{name}.gguf"
    return f"{name}-*-of-{count:05}.gguf" + ("" if present == count else f" ({present} of {count} present)")


def complete(files: list[str], repo: str) -> list[str]:
    """Check that a shard set is complete: llama.cpp does not load an incomplete one.

    :returns: its files, in shard order
    :raises NoSuchFilesError: naming the missing shards
    """
    shard = _SHARD.fullmatch(PurePosixPath(files[0]).stem)
    if shard is None:
        return files
    required = all_shards(files[0])
    missing = [path for path in required if path not in files]
    if missing:
        raise NoSuchFilesError(
            f"{repo}: the shard set {set_name(files[0])} is incomplete, missing {', '.join(missing)}"
        )
    return required


def all_shards(path: str) -> list[str]:
    """All files of the set that a file belongs to, by its name; the file itself where it is not a shard."""
    shard = _SHARD.fullmatch(PurePosixPath(path).stem)
    if shard is None:
        return [path]
    stem = str(PurePosixPath(path).with_name(shard["stem"]))
    return [f"{stem}-{number:05}-of-{shard['count']}.gguf" for number in range(1, int(shard["count"]) + 1)]
