"""Select the files of a declared model in a Hub repository: one complete and unambiguous shard set."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from pathlib import PurePosixPath

from llamarig.remote.shared.companion_files import DRAFT_HEAD, IMATRIX, PROJECTOR

_QUANT = r"(?:UD-|i1-)?(?:I?Q\d|TQ\d|MXFP|NVFP|B?F16|FP?(?:8|16|32))\w{0,16}"
_PROJECTOR = re.compile(r"mmproj|mm[-_.]?projector|\b(?:vision|image|audio)[-_.](?:encoder|tower)", re.IGNORECASE)
"""mmproj-F16, m-mmproj-F16, gemma3mmproj-f16: llama.cpp takes `mmproj` anywhere (common/download.cpp:648, pinned)."""
_DRAFT_HEAD = re.compile(
    r"(?i:^mtp-|(?<![a-z0-9])(?:eagle-?3|dflash|dspark)(?![a-z0-9])|(?<![a-z0-9])(?:mtp|nextn)[-_.](?:head|only|draft))"
    rf"|-assistant(?i:[-.]{_QUANT})?$"
)
"""llama.cpp finds them by a prefix (common/download.cpp:650-653, pinned); elsewhere they are named m-EAGLE3-F16, and
those of Gemma m-assistant, in lower case. Pirate-Assistant-Q8_0 is a model, and so is m-MTP-Q8_0, which has an MTP
layer: where a name does not tell, the header does (remote/shared/companion_files.py)."""
_FOLDERS = {
    **dict.fromkeys(("mtp", "eagle3", "dflash", "dspark"), DRAFT_HEAD),
    "mmproj": PROJECTOR,
    "imatrix": IMATRIX,
}
_IMATRIX = re.compile(r"^imatrix(?![a-z0-9])|[-._]imatrix$", re.IGNORECASE)
_MADE_WITH_IMATRIX = re.compile(rf"[-._]{_QUANT}[-._]imatrix$", re.IGNORECASE)
_ENDS_IN_A_QUANT = re.compile(rf"(?<![A-Za-z0-9]){_QUANT}(?:[-._]imatrix)?$", re.IGNORECASE)
_RECIPE = re.compile(rf"(?!UD-|i1-)[A-Za-z]+-{_QUANT}")
"""A folder that names a way of quantizing, which is part of the quant: smol-IQ2_KS."""
_SHARD = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})")


class NoSuchFilesError(ValueError):
    """The repository has no such files; the message lists what it has."""


def companion(path: str) -> str | None:
    """Kind of a GGUF file that is loaded with a model and not as one, by its name; None for a file of a model."""
    *folders, name = set_name(path).split("/")
    if _PROJECTOR.search(name):
        return PROJECTOR
    if _DRAFT_HEAD.search(name):
        return DRAFT_HEAD
    if _IMATRIX.search(name) and not _MADE_WITH_IMATRIX.search(name):
        return IMATRIX
    return next((_FOLDERS[folder.lower()] for folder in folders if folder.lower() in _FOLDERS), None)


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


def quant_of(path: str) -> str:
    """The quant that the name of a model's file ends in: ``UD-Q6_K_XL``; empty where it ends in none."""
    found = _ENDS_IN_A_QUANT.search(set_name(path))
    return found[0] if found else ""


def of_quant(quant: str, paths: Iterable[str], repo: str) -> list[str]:
    """Files of the one shard set whose name ends in a quant, or that is in a folder of that name.

    ``Q4_K_XL`` does not match ``UD-Q4_K_XL``: repositories of Unsloth have both. A folder may name the whole quant, as
    in ``smol-IQ2_KS/M-smol-IQ2_KS.gguf``: then ``IQ2_KS`` does not match.

    :raises NoSuchFilesError: when no set or several sets match, or the set is incomplete
    """
    paths = list(paths)
    sets = shard_sets(paths)
    found = [key for key in sets if _is_of_quant(quant, key[0])]
    if not found:
        raise NoSuchFilesError(_no_such_quant(quant, paths, repo))
    if len(found) > 1:
        several = ", ".join(_set_label(name, count, len(sets[name, count])) for name, count in found)
        raise NoSuchFilesError(f"quant {quant} matches several sets of {repo}: {several}; name one in files")
    return complete(sets[found[0]], repo)


def _is_of_quant(quant: str, name: str, flags: re.RegexFlag = re.NOFLAG) -> bool:
    """Whether a set is of a quant, by its name without shard number and suffix."""
    *_, folder, file = ("", *name.split("/"))
    ending = re.compile(rf"(?<![A-Za-z0-9_])(?<!UD-){re.escape(quant)}$", flags)
    if ending.search(file):
        return not (_RECIPE.fullmatch(folder) and file.endswith(f"-{folder}") and not quant.endswith(folder))
    return not _ENDS_IN_A_QUANT.search(file) and ending.search(folder) is not None


def _no_such_quant(quant: str, paths: list[str], repo: str) -> str:
    names = sorted({name for name, _ in shard_sets(paths)})
    files = [PurePosixPath(name).name for name in names]
    known = ", ".join(
        # Some repositories have a model.gguf in one folder for each quant.
        (name if files.count(file) > 1 or not _ENDS_IN_A_QUANT.search(file) else file)
        + " (in other letter case)" * _is_of_quant(quant, name, re.IGNORECASE)
        for name, file in zip(names, files, strict=True)
    )
    companions = [
        f"{path} ({kind})"
        for path in sorted(paths)
        if path.endswith(".gguf") and (kind := companion(path)) and _is_of_quant(quant, set_name(path))
    ]
    models = f"its models are {known}" if known else "it has no GGUF file of a model"
    remedy = "set quant to the end of one of these names or of its folder, or list the model's files in files"
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
