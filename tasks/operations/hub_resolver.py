"""Asking the Hub, once, what a declared model is: the commit of its revision, its files, their sizes and sha256."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from huggingface_hub import HfApi
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError
from huggingface_hub.hf_api import RepoSibling
from pydantic import ValidationError

from tasks.operations.lock_file import LockError
from tasks.planning.shard_sets import NoSuchFilesError, complete, of_quant
from tasks.spec.model import Model
from tasks.spec.model_lock import LockedFile, LockedModel

T = TypeVar("T")

_ATTEMPTS = 3


def resolve(model: Model, endpoint: str, token: str | None) -> LockedModel:
    """What a declared model is on the Hub right now: the commit of its revision, and its files.

    :raises LockError: naming the model, what the Hub answered, and what to do
    """
    api = HfApi(endpoint=endpoint, token=token or False)
    info = ask(lambda: api.model_info(model.repo, revision=model.revision, files_metadata=True), model, endpoint)
    siblings = {sibling.rfilename: sibling for sibling in info.siblings or []}
    try:
        shards = (
            of_quant(model.quant, siblings, model.repo) if model.quant is not None else _declared_files(model, siblings)
        )
        return LockedModel(
            repo=model.repo,
            commit=info.sha or "",
            shards=tuple(_locked(siblings, path, model) for path in shards),
            mmproj=_locked(siblings, model.mmproj, model) if model.mmproj else None,
            draft=_locked(siblings, model.draft, model) if model.draft else None,
        )
    except NoSuchFilesError as error:
        raise LockError(f"model {model.name!r}: {error}") from None
    except ValidationError as error:
        # Names and numbers become paths and commands on the box: what is none of ours to read goes no further.
        first = error.errors(include_url=False)[0]
        raise LockError(
            f"model {model.name!r}: {endpoint} answered about {model.repo} with "
            f"{'.'.join(map(str, first['loc']))} = {first['input']!r}, which cannot be locked "
            f"({first['msg'].removeprefix('Value error, ')}): declare another file or revision, or check hub.endpoint"
        ) from None


def _declared_files(model: Model, siblings: dict[str, RepoSibling]) -> list[str]:
    files = list(model.files)
    for path in files:
        _locked(siblings, path, model)
    first = complete([path for path in siblings if path in files] or files, model.repo)
    return files if len(files) >= len(first) else first


def _locked(siblings: dict[str, RepoSibling], path: str, model: Model) -> LockedFile:
    sibling = siblings.get(path)
    if sibling is None:
        known = ", ".join(sorted(name for name in siblings if name.endswith(".gguf"))) or "no GGUF file"
        raise NoSuchFilesError(f"{model.repo} has no file {path}; it has {known}")
    if sibling.lfs is None:
        raise NoSuchFilesError(
            f"{model.repo}: {path} has no sha256 on the Hub (not an LFS file), so it cannot be locked"
        )
    return LockedFile(path=path, size=sibling.lfs.size, sha256=sibling.lfs.sha256)


def ask(question: Callable[[], T], model: Model, endpoint: str) -> T:
    """The Hub's answer to a question about a model's repository; asked again where it has none.

    :raises LockError: naming the model, what the Hub answered, and what to do
    """
    name = f"model {model.name!r}"
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            return question()
        except GatedRepoError:
            raise LockError(
                f"{name}: {model.repo} is gated: accept its terms on {endpoint}/{model.repo}, then name a token that "
                "may read it as hub.token_env"
            ) from None
        except RevisionNotFoundError:
            raise LockError(
                f"{name}: {model.repo} has no revision {model.revision!r}: check the commit or branch"
            ) from None
        except RepositoryNotFoundError:
            raise LockError(
                f"{name}: {endpoint} knows no repository {model.repo} (or hides it): check its spelling; a private one "
                "needs hub.token_env"
            ) from None
        except LockError:
            raise  # the question itself found something wrong, and has said so
        except HfHubHTTPError as error:
            status = error.response.status_code
            if status in (401, 403):
                raise LockError(
                    f"{name}: the Hub refuses {model.repo} (HTTP {status}): "
                    "name a token that may read it as hub.token_env or hub.token_command"
                ) from None
            why = f"answered HTTP {status}"
        except Exception as error:  # the HTTP library's own errors, whichever it is in this release
            why = f"cannot be reached ({type(error).__name__})"
        if attempt < _ATTEMPTS:
            time.sleep(2 * attempt)
    raise LockError(f"{name}: {endpoint} {why} {_ATTEMPTS} times: try again later, or check hub.endpoint")
