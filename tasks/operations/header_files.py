"""The headers a dry run reads: of the model's own files where the box has them, else sparse copies of the real size."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Generator
from dataclasses import dataclass

from pyinfra.api.command import FileUploadCommand, PyinfraCommand, QuoteString, StringCommand
from pyinfra.api.operation import operation
from pyinfra.context import host

from tasks.facts.files import FileSizes
from tasks.facts.model_headers import ModelHeaders
from tasks.facts.model_store import ModelStore
from tasks.operations import Commands
from tasks.operations.lock_file import LockError, hub_token, locked_models
from tasks.operations.refuse import refuse
from tasks.planning import layout
from tasks.planning.gguf_header import Header, digest_of
from tasks.planning.shards import shard_differences, target
from tasks.spec.model import Model
from tasks.spec.model_lock import LockedModel
from tasks.spec.rig import Rig


@operation()
def present(rig: Rig) -> Commands:
    """The header of every model is on the box: in its own files, or as a sparse copy."""
    try:
        locked = locked_models(rig)
        if locked is None:
            yield from refuse(f"a model has no entry in {rig.model_lock}: run deploy.py first, which locks it")
            return
        for model, lock in zip(rig.models, locked, strict=True):
            yield from header_files(rig, model, lock)
    except LockError as error:
        yield from refuse(str(error))
        return
    host.noop("the headers of all models are on the box")


@dataclass(frozen=True)
class HeaderFiles:
    """``first``: path on the box of the first shard, which a dry run is given as the model.

    ``header``: the tensors of all shards, and the first's metadata. ``sha256``: over the headers of all shards.
    ``fetched``: bytes that came from the Hub for them in this run; 0 where they were on the box.
    """

    first: str
    header: Header
    sha256: str
    fetched: int = 0


def sparse_paths(locked: LockedModel) -> list[str]:
    """Where the sparse copies of a model's shards lie: one directory for each set of files, under their own names."""
    key = hashlib.sha256("".join(shard.sha256 for shard in locked.shards).encode()).hexdigest()
    return [f"{layout.HEADERS}/{key}/{shard.path.rpartition('/')[2]}" for shard in locked.shards]


def header_files(rig: Rig, model: Model, locked: LockedModel) -> Generator[PyinfraCommand, None, HeaderFiles]:
    """The headers of a model on the box. Part of an operation: ``found = yield from header_files(...)``.

    Nothing is yielded and no network is touched where they are there.

    :raises LockError: when they are not, and the Hub does not give them; or when llama.cpp could not read them
    """
    paths, fetched = [target(locked, shard) for shard in locked.shards], 0
    weights = locked.model_copy(update={"mmproj": None, "draft": None})
    if shard_differences([weights], host.get_fact(ModelStore).files):
        paths = sparse_paths(locked)
        sizes = host.get_fact(FileSizes, paths=paths)
        if [sizes.get(path) for path in paths] != [shard.size for shard in locked.shards]:
            fetched = yield from _laid_out(rig, model, locked, paths)
    found = host.get_fact(ModelHeaders, paths=paths)
    unread = [path for path in paths if path not in found]
    if unread:
        raise LockError(
            f"model {model.name!r}: {unread[0]} has no header that llama.cpp reads: remove that file and run this again"
        )
    headers = [found[path] for path in paths]
    tensors = tuple(tensor for header in headers for tensor in header.tensors)
    return HeaderFiles(paths[0], Header(tensors, headers[0].metadata), digest_of(headers), fetched)


def _laid_out(rig: Rig, model: Model, locked: LockedModel, paths: list[str]) -> Generator[PyinfraCommand, None, int]:
    """Sparse copies of the real size, all at once or not at all; returns the bytes that came from the Hub."""
    # The Hub's client takes a third of a no-change run to import, and such a run never asks the Hub.
    from tasks.operations.hub_headers import fetch_headers

    directory = paths[0].rpartition("/")[0]
    part = f"{directory}.part"
    # Also what tells pyinfra, which looks no further than the first command before it runs, that there is work to do.
    yield StringCommand("rm", "-rf", part, directory, "&&", "mkdir", "-p", part)
    fetched = fetch_headers(model, locked, rig.hub.endpoint, hub_token(rig.hub))
    host.log(
        f"{model.name}: {fetched.fetched / 1e6:.1f} MB of {sum(shard.size for shard in locked.shards) / 1e9:.1f} GB "
        "fetched from the Hub to plan with"
    )
    for path, shard, data in zip(paths, locked.shards, fetched.data, strict=True):
        file = f"{part}/{path.rpartition('/')[2]}"
        yield FileUploadCommand(io.BytesIO(data), file)
        yield StringCommand("truncate", f"--size={shard.size}", QuoteString(file))
    yield StringCommand("mv", part, directory)
    return fetched.fetched
