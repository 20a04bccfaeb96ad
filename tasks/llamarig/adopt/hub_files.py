"""Which files of which Hub repository a command line serves, by its flags and by the paths of the files."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import PurePosixPath

from llamarig.adopt.launch import Note
from llamarig.records.shard_sets import all_shards, quant_of, set_name

UNKNOWN_REPO = "OWNER/REPOSITORY"
_HUB_CACHE = re.compile(
    r"(?P<root>.*?)/(?:hub/)?models--(?P<owner>[^/]+?)--(?P<name>[^/]+)/snapshots/(?P<commit>[^/]+)/(?P<path>.+)"
)
_LLAMA_CPP_CACHE = re.compile(r"(?P<owner>[^_/]+)_(?P<name>[^/]+?-GGUF)_(?P<path>[^/]+\.gguf)", re.IGNORECASE)
_URL = re.compile(
    r"https?://(?:www\.)?huggingface\.co/(?P<repo>[^/]+/[^/]+)/(?:resolve|blob)/(?P<revision>[^/]+)/(?P<path>[^?#]+)"
)
_PLACES = frozenset(
    {
        *("home", "root", "mnt", "data", "srv", "opt", "var", "media", "usr", "tmp", "lib", "share", "cache", ".cache"),
        *("models", "model", "llm", "llms", "gguf", "ggufs", "ai", "weights", "storage", "disk", "huggingface", "hf"),
    }
)
"""Names of directories that no owner on the Hub is meant by."""
_DEFAULT_TAG = "Q4_K_M"
"""What -hf takes of a repository without a tag (common/download.cpp, pinned commit)."""


@dataclass
class HubFiles:
    """Fields of a model. ``quant`` or ``files``; ``directories``: on the box, where the files lie now."""

    repo: str = UNKNOWN_REPO
    revision: str = ""
    quant: str = ""
    files: tuple[str, ...] = ()
    mmproj: str = ""
    draft: str = ""
    directories: list[str] = field(default_factory=list)
    notes: list[Note] = field(default_factory=list)
    stem: str = ""
    """Name of the model, without quant and number of the shard."""


@dataclass(frozen=True)
class FileFlags:
    """The flags that name files; empty where not given. Paths are those of the host."""

    model: str = ""
    hf_repo: str = ""
    hf_file: str = ""
    model_url: str = ""
    docker_repo: str = ""
    mmproj: str = ""
    mmproj_url: str = ""
    draft: str = ""
    draft_hf: str = ""
    no_mmproj: bool = False
    written: Mapping[str, str] = field(default_factory=dict)
    """Name of each of these -> the flag as it was given."""


def hub_files(flags: FileFlags) -> HubFiles:
    """The files of a model on the Hub, as far as flags and paths say."""
    found = HubFiles()
    url = _URL.match(flags.model_url)
    for name in ("model_url", "docker_repo", "mmproj_url"):
        if getattr(flags, name) and not _URL.match(getattr(flags, name)):
            found.notes.append(Note(flags.written[name], "is not on the Hub, where the files of a declared model are"))
    if flags.hf_repo:
        _of_repository(found, flags)
    elif url:
        found.repo, found.revision = url["repo"], "" if url["revision"] == "main" else url["revision"]
        _name_files(found, _path_of_url(url["path"]))
    elif re.search(r"[^/\\.]", re.split(r"[/\\]", flags.model)[-1]):
        _of_path(found, flags.model)
    else:
        about = f"-m {flags.model}" if flags.model else "no model"
        found.notes.append(Note(about, "names no file: declare repo, and quant or files"))
        found.quant = _DEFAULT_TAG
    if flags.mmproj or flags.mmproj_url:
        _of_companion(found, "mmproj", flags.mmproj or flags.mmproj_url)
    if flags.draft:
        _of_companion(found, "draft", flags.draft)
    elif flags.draft_hf:
        _draft_of_repository(found, flags)
    return found


def _of_repository(found: HubFiles, flags: FileFlags) -> None:
    found.repo, _, tag = flags.hf_repo.partition(":")
    found.stem = re.sub(r"-gguf$", "", found.repo.rpartition("/")[2], flags=re.IGNORECASE)
    if flags.hf_file:
        _name_files(found, flags.hf_file)
    else:
        found.quant = _DEFAULT_TAG if tag.lower() in ("", "latest") else tag.upper()
        if not tag:
            found.notes.append(Note(flags.written["hf_repo"], f"without a quant llama.cpp takes {_DEFAULT_TAG}"))
        if not (flags.mmproj or flags.mmproj_url or flags.no_mmproj):
            found.notes.append(
                Note(
                    flags.written["hf_repo"].split()[0],
                    "loads the repository's vision projector where it has one: declare it as mmproj",
                )
            )


def _of_path(found: HubFiles, path: str) -> None:
    path = path.replace("\\", "/")
    directory, _, name = path.rpartition("/")
    cached, in_cache = _HUB_CACHE.fullmatch(path), _LLAMA_CPP_CACHE.fullmatch(name)
    if cached:
        found.repo = f"{cached['owner']}/{cached['name']}"
        found.revision = cached["commit"] if re.fullmatch(r"[0-9a-f]{40}", cached["commit"]) else ""
        _name_files(found, cached["path"])
        _lies_in(found, cached["root"])
        return
    if in_cache and "llama.cpp" in directory:
        found.repo = f"{in_cache['owner']}/{in_cache['name']}"
        _name_files(found, in_cache["path"])
        found.notes.append(Note(name, f"the name that llama.cpp's cache gives a file of {found.repo}"))
        _lies_in(found, directory)
        return
    _name_files(found, name)
    _lies_in(found, directory)
    if repo := _repository_in(directory):
        found.repo = repo
        found.notes.append(Note(path, f"repo = {repo!r} is read from the path: correct it if that is another"))
    elif found.quant.startswith("UD-"):
        found.repo = f"unsloth/{found.stem}-GGUF"
        found.notes.append(
            Note(path, f"repo = {found.repo!r} is guessed from UD-, Unsloth's mark: correct it if need be")
        )
    else:
        found.notes.append(Note(path, "its repository on the Hub is not known: correct repo"))


def _repository_in(directory: str) -> str:
    """OWNER/NAME-GGUF among the directories of a path, as LM Studio and `hf download` make them."""
    parts = PurePosixPath(directory).parts
    for owner, name in pairwise(parts):
        is_owner = owner.lower() not in _PLACES and re.fullmatch(r"[A-Za-z0-9][\w.-]*", owner)
        if is_owner and re.search(r"gguf$", name, re.IGNORECASE) and re.fullmatch(r"[A-Za-z0-9][\w.-]*", name):
            return f"{owner}/{name}"
    return ""


def _name_files(found: HubFiles, path: str) -> None:
    """Name a model's files, by the path of its first in the repository."""
    quant = quant_of(path)
    name = set_name(path).rpartition("/")[2]
    stem = name.removesuffix(quant).rstrip("-._") if quant else name
    found.stem = stem or found.stem
    if quant:
        found.quant = quant
    else:
        found.files = tuple(all_shards(path))


def _path_of_url(text: str) -> str:
    return re.sub(r"%([0-9A-Fa-f]{2})", lambda escape: chr(int(escape[1], 16)), text)


def _lies_in(found: HubFiles, directory: str) -> None:
    is_plain = re.fullmatch(r"(/[A-Za-z0-9_.@+-]+)+", directory) and ".." not in directory.split("/")
    if is_plain and directory not in found.directories:
        found.directories.append(directory)


def _of_companion(found: HubFiles, kind: str, path: str) -> None:
    """A projector or a draft, whose file has to be in the model's repository."""
    url, cached = _URL.match(path), _HUB_CACHE.fullmatch(path)
    directory, _, name = path.rpartition("/")
    repo, inside = found.repo, name
    if url:
        repo, inside = url["repo"], _path_of_url(url["path"])
    elif cached:
        repo, inside = f"{cached['owner']}/{cached['name']}", cached["path"]
    setattr(found, kind, inside)
    if repo != found.repo:
        found.notes.append(
            Note(path, f"is of {repo}, and a declared model has its {kind} in its own repository: correct it")
        )
    elif not url:
        _lies_in(found, cached["root"] if cached else directory)
    if kind == "draft" and not url and not cached:
        found.notes.append(
            Note(path, "draft is a file of the model's own repository: where it is another's, there is no field")
        )


def _draft_of_repository(found: HubFiles, flags: FileFlags) -> None:
    about = flags.written["draft_hf"]
    if flags.draft_hf.partition(":")[0] == found.repo:
        found.notes.append(Note(about, "declare the path of the draft's file in the repository as draft"))
    else:
        found.notes.append(
            Note(about, "a draft of another repository has no field: speculation without a draft is n-grams")
        )
