"""Resolve a declared model on the Hub: the commit of its revision, its files, their sizes and sha256."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from huggingface_hub import HfApi
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError
from huggingface_hub.hf_api import RepoSibling
from pydantic import ValidationError

from llamarig.declare.mistakes import mistakes
from llamarig.declare.model import Model
from llamarig.engine.hub_token import HubError
from llamarig.records.model_lock import LockedFile, LockedModel
from llamarig.records.shard_sets import NoSuchFilesError, complete, of_quant

T = TypeVar("T")

_ATTEMPTS = 3


def resolve(model: Model, endpoint: str, token: str | None) -> LockedModel:
    """Resolve a declared model: the commit its revision names now, and its files.

    :raises HubError: naming the model, the Hub's answer and the remedy
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
        raise HubError(f"model {model.name!r}: {error}") from None
    except ValidationError as error:
        # The Hub is not trusted: these values become paths and commands on the box.
        first = mistakes(error)[0]
        raise HubError(
            f"model {model.name!r}: {endpoint} describes {model.repo} with "
            f"{first.field} = {first.value!r}, which cannot be locked "
            f"({first.message}): declare another file or revision, or check hub.endpoint"
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
        present = ", ".join(sorted(name for name in siblings if name.endswith(".gguf"))) or "no GGUF file"
        raise NoSuchFilesError(f"{model.repo} has no file {path}; it has {present}")
    if sibling.lfs is None:
        raise NoSuchFilesError(
            f"{model.repo}: {path} has no sha256 on the Hub (not an LFS file), so it cannot be locked"
        )
    return LockedFile(path=path, size=sibling.lfs.size, sha256=sibling.lfs.sha256)


def ask(request: Callable[[], T], model: Model, endpoint: str) -> T:
    """The Hub's answer to a request about a model's repository. Retries if there is none, or a server error.

    :raises HubError: naming the model, the Hub's answer and the remedy
    """
    name = f"model {model.name!r}"
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            return request()
        except GatedRepoError:
            raise HubError(
                f"{name}: {model.repo} is gated: accept its terms on {endpoint}/{model.repo}, then name a token that "
                "may read it as hub.token_env"
            ) from None
        except RevisionNotFoundError:
            raise HubError(
                f"{name}: {model.repo} has no revision {model.revision!r}: check the commit or branch"
            ) from None
        except RepositoryNotFoundError:
            raise HubError(
                f"{name}: {endpoint} has no repository {model.repo}, or hides it: check its spelling; a private one "
                "needs hub.token_env"
            ) from None
        except HubError:
            raise  # the request itself found the problem and described it
        except HfHubHTTPError as error:
            status = error.response.status_code
            if status in (401, 403):
                raise HubError(
                    f"{name}: the Hub refuses {model.repo} (HTTP {status}): "
                    "name a token that may read it as hub.token_env or hub.token_command"
                ) from None
            why = f"answered HTTP {status}"
        except Exception as error:  # which HTTP library raises it depends on the release of huggingface_hub
            why = f"cannot be reached ({type(error).__name__})"
        if attempt < _ATTEMPTS:
            time.sleep(2 * attempt)
    raise HubError(f"{name}: {endpoint} {why} {_ATTEMPTS} times: try again later, or check hub.endpoint")
