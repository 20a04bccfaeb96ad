"""The quants of Hub repositories, and their headers: listed once a run, and headers fetched once for all runs.

A header is fetched by Range requests. Kept of it is what a dry run needs (metadata and tensors, without the words of
the vocabulary: some 100 KB), in the user's cache under a name that its repository, commit and sha256 decide.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from gevent.pool import Pool
from huggingface_hub import HfApi
from huggingface_hub.hf_api import ModelInfo, RepoSibling
from pydantic import ValidationError

from llamarig.declare.mistakes import mistakes
from llamarig.declare.model import Model
from llamarig.engine.hub_headers import FetchedHeaders, fetch_headers
from llamarig.engine.hub_resolver import ask
from llamarig.engine.hub_token import HubError
from llamarig.records.hub_quants import HubQuant, Quants, quants_of
from llamarig.records.model_lock import LockedFile
from llamarig.remote.plan.short_vocabulary import vocabulary_of, with_vocabulary
from llamarig.remote.shared.companion_files import kind_by_header
from llamarig.remote.shared.durable import replace_file
from llamarig.remote.shared.gguf_header import FirstKeys, Header, HeaderError, read_header

_AT_A_TIME = 4
"""Headers that are fetched at once: each is a few requests one after another."""
_MOST_KEPT = 2000
"""Headers in the cache, of some 100 KB each; the ones that were not used for longest are removed."""
_MOST_FAILURES = 2
"""Headers that fail before the first that does not, after which no others are tried: the repository is the cause."""


@dataclass(frozen=True)
class QuantHeader:
    """A quant with its header. ``data``: of one file with all its tensors, without words; ``size``: of that file.

    ``vocabulary``: its rows; ``fetched``: bytes received from the Hub, 0 where it was in the cache; ``problem``: why
    there is no header.
    """

    quant: HubQuant
    header: Header = field(default_factory=lambda: Header(()))
    data: bytes = b""
    size: int = 0
    vocabulary: int = 0
    fetched: int = 0
    problem: str = ""

    def shortened(self, outputs: int, ubatch: int) -> tuple[bytes, int]:
        """The header with a vocabulary that is shorter by the ratio of these, and the size of its file.

        (remote/plan/short_vocabulary.py says what for.)
        """
        rows = max(1, -(-self.vocabulary * outputs // ubatch))
        return with_vocabulary(self.data, self.header, self.vocabulary, rows)


@dataclass(frozen=True)
class Repository:
    """A repository at one commit, and its quants with their headers."""

    quants: Quants
    headers: tuple[QuantHeader, ...]

    @property
    def fetched(self) -> int:
        """Bytes received for headers."""
        return sum(header.fetched for header in self.headers)


@dataclass
class HubRepositories:
    """The repositories of one run. Boxes that ask for the same one wait for the first."""

    _known: dict[tuple[str, str, tuple[str, ...]], Repository | HubError] = field(default_factory=dict)
    _locks: dict[str, threading.Lock] = field(default_factory=dict)

    def read(self, model: Model, endpoint: str, token: str | None, only: Sequence[str] = ()) -> Repository:
        """List a repository and read the headers of its quants.

        :param model: declares the repository, its revision, and a name for messages
        :param only: labels of the quants to read; all if empty
        :raises HubError: naming the Hub's answer and the remedy
        """
        key = (endpoint, f"{model.repo}@{model.revision}", tuple(only))
        with self._locks.setdefault(key[1], threading.Lock()):
            if key not in self._known:
                try:
                    self._known[key] = _read(model, endpoint, token, only)
                except HubError as error:
                    self._known[key] = error
            found = self._known[key]
        if isinstance(found, HubError):
            raise HubError(str(found))
        return found


def _read(model: Model, endpoint: str, token: str | None, only: Sequence[str]) -> Repository:
    quants = listed(model, endpoint, token)
    if not quants.quants:
        beside = f"; it has {', '.join(quants.left_out[:5])}" if quants.left_out else ""
        raise HubError(
            f"{model.repo} has no GGUF file of a model{beside}: name a repository of quants, which mostly ends in -GGUF"
        )
    labels = [quant.label for quant in quants.quants]
    if unknown := [label for label in only if label not in labels]:
        raise HubError(f"{model.repo} has no quant {', '.join(unknown)}: it has {', '.join(labels)}")
    wanted = [quant for quant in quants.quants if not only or quant.label in only]
    return Repository(quants, tuple(_headers(wanted, model, endpoint, token)))


def listed(model: Model, endpoint: str, token: str | None) -> Quants:
    """The quants of a model's repository at the commit of its revision.

    :raises HubError: naming the Hub's answer and the remedy
    """
    api = HfApi(endpoint=endpoint, token=token or False)
    info: ModelInfo = ask(
        lambda: api.model_info(model.repo, revision=model.revision, files_metadata=True), model, endpoint
    )
    siblings = info.siblings or []
    try:
        locked = {file.path: file for sibling in siblings if (file := _locked(sibling)) is not None}
        return quants_of(model.repo, info.sha or "", [sibling.rfilename for sibling in siblings], locked)
    except ValidationError as error:
        # The Hub is not trusted: these values become paths and commands on the box.
        first = mistakes(error)[0]
        raise HubError(
            f"{endpoint} describes {model.repo} with {first.field} = {first.value!r} ({first.message}), which cannot "
            "be declared: choose another repository, or check hub.endpoint"
        ) from None


def _locked(sibling: RepoSibling) -> LockedFile | None:
    if sibling.lfs is None or not sibling.rfilename.endswith(".gguf"):
        return None
    return LockedFile(path=sibling.rfilename, size=sibling.lfs.size, sha256=sibling.lfs.sha256)


def _headers(wanted: Sequence[HubQuant], model: Model, endpoint: str, token: str | None) -> Iterator[QuantHeader]:
    """The header of each quant, or why there is none.

    :raises HubError: where none of the first can be fetched
    """
    found: list[QuantHeader] = []
    for quant in wanted[:_MOST_FAILURES]:
        found.append(_header(quant, model, endpoint, token))
        if not found[-1].problem:
            break
    else:
        raise HubError(found[0].problem)
    rest = wanted[len(found) :]
    yield from found
    yield from Pool(_AT_A_TIME).imap(lambda quant: _header(quant, model, endpoint, token), rest)


def _header(quant: HubQuant, model: Model, endpoint: str, token: str | None) -> QuantHeader:
    cached = _cache() / f"{_key(quant, endpoint)}.gguf"
    with suppress(OSError, HeaderError):
        data, size = _unpacked(cached.read_bytes())
        found = _with_header(quant, data, size, 0)
        os.utime(cached)
        return found
    try:
        fetched = fetch_headers(model, quant.locked, endpoint, token)
        first = fetched.headers[0]
        if kind := kind_by_header(FirstKeys(len(first.tensors), first.metadata)):
            problem = f"is no model but a file that is loaded with one, by its header: {kind}"
            return QuantHeader(quant, fetched=fetched.fetched, problem=problem)
        data, size = without_words(fetched)
        found = _with_header(quant, data, size, fetched.fetched)
    except HubError as error:
        return QuantHeader(quant, problem=str(error))
    except HeaderError as error:
        return QuantHeader(quant, problem=f"its header {error}")
    with suppress(OSError):  # a disk that is full costs the next run its requests
        _keep(cached, data, size)
    return found


def without_words(fetched: FetchedHeaders) -> tuple[bytes, int]:
    """One header of all shards, without the words of the vocabulary, and the size of its file.

    :raises HeaderError: for a model without a token embedding
    """
    first = fetched.headers[0]
    tensors = tuple(tensor for header in fetched.headers for tensor in header.tensors)
    # The tensors are all in this one file.
    keys = {name: place for name, place in first.keys.items() if not name.startswith("split.")}
    rows = vocabulary_of(fetched.headers)
    return with_vocabulary(fetched.data[0], replace(first, tensors=tensors, keys=keys), rows, rows)


def _with_header(quant: HubQuant, data: bytes, size: int, fetched: int) -> QuantHeader:
    header = read_header(data, size)
    return QuantHeader(quant, header, data, size, vocabulary_of([header]), fetched)


# --- the cache --------------------------------------------------------------------------------------------------------


def _cache() -> Path:
    """Of headers, in the user's cache by the XDG base directory specification."""
    with suppress(RuntimeError):  # there is no home
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "llamarig/hub-headers"
    return Path("/nonexistent")


def _key(quant: HubQuant, endpoint: str) -> str:
    """Another for everything that the header depends on, the Hub that sent it included."""
    files = [f"{shard.path} {shard.size} {shard.sha256}" for shard in quant.locked.shards]
    return hashlib.sha256("\n".join([endpoint, quant.locked.repo, quant.locked.commit, *files]).encode()).hexdigest()


def _unpacked(stored: bytes) -> tuple[bytes, int]:
    """A header and the size of its file; a cache that was cut off has another digest.

    :raises HeaderError: where it is damaged
    """
    digest, size, data = stored[:64], stored[64:84], stored[84:]
    if hashlib.sha256(stored[64:]).hexdigest().encode() != digest or not size.isdigit():
        raise HeaderError("was damaged in the cache")
    return data, int(size)


def _keep(path: Path, data: bytes, size: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    body = f"{size:020}".encode() + data
    replace_file(path, hashlib.sha256(body).hexdigest().encode() + body)
    kept = sorted(path.parent.glob("*.gguf"), key=lambda file: file.stat().st_mtime)
    for old in kept[:-_MOST_KEPT]:
        old.unlink(missing_ok=True)
