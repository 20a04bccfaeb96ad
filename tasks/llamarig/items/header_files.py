"""The headers that a dry run reads: the model's files if the box has them, else sparse files of the same size."""

from __future__ import annotations

import hashlib
from collections.abc import Generator
from dataclasses import dataclass

from pyinfra.api.command import PyinfraCommand, QuoteString, StringCommand
from pyinfra.context import host

from llamarig.declare.model import Model
from llamarig.declare.rig import Rig
from llamarig.engine.hub_token import HubError
from llamarig.engine.run import ask, run
from llamarig.engine.screen import say
from llamarig.engine.upload import upload
from llamarig.facts.files import FileSizes
from llamarig.facts.model_headers import ModelHeaders
from llamarig.facts.model_store import ModelStore
from llamarig.items.download_job import missing_files
from llamarig.records.model_lock import LockedModel
from llamarig.remote.shared.gguf_header import Header, combined_header, digest_of
from llamarig.render import layout
from llamarig.render.model_paths import target


@dataclass(frozen=True)
class HeaderFiles:
    """Headers of a model on the box.

    ``first``: path of the first shard, which a dry run gets as the model. ``header``: of all shards together.
    ``sha256``: over the headers of all shards. ``fetched``: bytes received from the Hub; 0 if they were on the box.
    """

    first: str
    header: Header
    sha256: str
    fetched: int = 0


def sparse_paths(locked: LockedModel) -> list[str]:
    """Paths of the sparse copies of a model's shards: a directory for each set of files, with the files' own names."""
    key = hashlib.sha256("".join(shard.sha256 for shard in locked.shards).encode()).hexdigest()
    return [f"{layout.HEADERS}/{key}/{shard.path.rpartition('/')[2]}" for shard in locked.shards]


def header_files(rig: Rig, model: Model, locked: LockedModel) -> Generator[PyinfraCommand, None, HeaderFiles]:
    """Put the headers of a model on the box, in an operation: ``found = yield from header_files(...)``.

    If they are there already, yields no command and uses no network.

    :raises HubError: if the Hub does not provide them, or llama.cpp could not read them
    """
    paths, fetched = [target(locked, shard) for shard in locked.shards], 0
    weights = locked.model_copy(update={"mmproj": None, "draft": None})
    if missing_files([weights], ask(ModelStore).files):
        paths = sparse_paths(locked)
        sizes = ask(FileSizes, paths=paths)
        if [sizes.get(path) for path in paths] != [shard.size for shard in locked.shards]:
            fetched = yield from _write_sparse_files(rig, model, locked, paths)
    found = ask(ModelHeaders, paths=paths)
    headers = found.of(paths)
    if headers is None:
        raise HubError(
            f"model {model.name!r}: llama.cpp would not read {found.problem(paths)}; remove that file and run this "
            "again"
        )
    return HeaderFiles(paths[0], combined_header(headers), digest_of(headers), fetched)


def _write_sparse_files(
    rig: Rig, model: Model, locked: LockedModel, paths: list[str]
) -> Generator[PyinfraCommand, None, int]:
    """Write sparse copies of all shards, of the real size; return the bytes received from the Hub.

    The directory is renamed last, so it is complete or missing.
    """
    # Importing the Hub's client takes a third of the time of a no-change run, which never uses it.
    from llamarig.engine.hub_headers import fetch_headers

    directory = paths[0].rpartition("/")[0]
    part = f"{directory}.part"
    # While pyinfra prepares it takes this first command only, so nothing is fetched then.
    yield StringCommand("rm", "-rf", part, directory, "&&", "mkdir", "-p", part)
    fetched = fetch_headers(model, locked, rig.hub.endpoint, run().hub_tokens.of(rig.hub))
    say(
        host,
        f"{model.name}: {fetched.fetched / 1e6:.1f} MB of {sum(shard.size for shard in locked.shards) / 1e9:.1f} GB "
        "fetched from the Hub to plan with",
    )
    for path, shard, data in zip(paths, locked.shards, fetched.data, strict=True):
        file = f"{part}/{path.rpartition('/')[2]}"
        yield upload(data, file)
        yield StringCommand("truncate", f"--size={shard.size}", QuoteString(file))
    # Dry runs read them as the service user.
    yield StringCommand("chmod", "-R", "a+rX", part, "&&", "mv", part, directory)
    return fetched.fetched
