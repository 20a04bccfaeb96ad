"""The headers of a model that is not on the box, by HTTP Range from the Hub: megabytes of a file of 64 GB.

What comes is checked against the model lock: the pinned commit is asked, and size and sha256 must be what it says.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from huggingface_hub import get_session, hf_hub_url, hf_raise_for_status

from tasks.operations.hub_resolver import ask
from tasks.operations.lock_file import LockError
from tasks.planning.gguf_header import Header, HeaderError, HeaderTruncatedError, read_header
from tasks.spec.model import Model
from tasks.spec.model_lock import LockedFile, LockedModel

MOST_BYTES = 16 << 20
"""Of all shards of a model together. A header is mostly its vocabulary: 13 MB with the 201,088 tokens of gpt-oss."""
_FIRST = 256 << 10
_STEPS = (1 << 20, 3 << 20)
"""Asked for at once. A later shard's header has no vocabulary and comes with the first piece; a first shard's takes a
few more, so that no more than 3 MiB beyond its end is fetched."""
_TIMEOUT_S = 30.0


@dataclass(frozen=True)
class FetchedHeaders:
    """``data``: each shard's header, byte for byte, in the lock's order; ``fetched``: the bytes that took."""

    headers: tuple[Header, ...]
    data: tuple[bytes, ...]
    fetched: int


def fetch_headers(model: Model, locked: LockedModel, endpoint: str, token: str | None) -> FetchedHeaders:
    """The headers of all shards of a model, from the Hub.

    :raises LockError: naming the model, the file, what is wrong with it and what to do
    """
    headers, data, left = [], [], MOST_BYTES
    for file in locked.shards:
        header, own, left = _one_header(model, locked, file, endpoint, token, left)
        headers.append(header)
        data.append(own)
    return FetchedHeaders(tuple(headers), tuple(data), MOST_BYTES - left)


def _one_header(
    model: Model, locked: LockedModel, file: LockedFile, endpoint: str, token: str | None, left: int
) -> tuple[Header, bytes, int]:
    where = f"model {model.name!r}: {locked.repo} at {locked.commit[:12]}, {file.path}"
    data, steps = b"", [_FIRST, *_STEPS]
    while True:
        step = min(steps.pop(0) if len(steps) > 1 else steps[0], left, file.size - len(data))
        if step <= 0:
            why = "is longer than the file" if len(data) >= file.size else f"is longer than {MOST_BYTES >> 20} MiB"
            raise LockError(f"{where}: its header {why}: this is no model llama.cpp serves; declare another file")
        question = partial(_range, locked, file, endpoint, token, len(data), step, where)
        data += ask(question, model, endpoint)
        left -= step
        try:
            header = read_header(data)
        except HeaderTruncatedError:
            continue
        except HeaderError as error:
            raise LockError(f"{where} is no GGUF file llama.cpp reads: {error}: declare another file") from None
        if header.least_file_size > file.size:
            raise LockError(
                f"{where}: its tensors take {header.least_file_size} bytes, the file has {file.size}: it is damaged on "
                "the Hub; declare another revision"
            )
        return header, data[: header.length], left


def _range(
    locked: LockedModel, file: LockedFile, endpoint: str, token: str | None, begin: int, length: int, where: str
) -> bytes:
    """``length`` bytes of a file from ``begin`` on, and never more, whatever the Hub would send."""
    url = hf_hub_url(locked.repo, file.path, revision=locked.commit, endpoint=endpoint)
    asked = {"Range": f"bytes={begin}-{begin + length - 1}", "Accept-Encoding": "identity"}
    if token is not None:
        # For the Hub alone: the client drops it where a redirect leads to another host.
        asked["Authorization"] = f"Bearer {token}"
    with get_session().stream("GET", url, headers=asked, timeout=_TIMEOUT_S) as response:
        if response.is_error:
            response.read()  # a short text, of which the Hub's client makes its errors
        hf_raise_for_status(response)
        if response.status_code != 206:
            raise LockError(
                f"{where}: {endpoint} sends no parts of files (HTTP {response.status_code}): fetch the model"
            )
        size = response.headers.get("Content-Range", "").rpartition("/")[2]
        linked = next((hop.headers["X-Linked-Etag"] for hop in response.history if "X-Linked-Etag" in hop.headers), "")
        sha256 = linked.strip('"') or file.sha256
        if size != str(file.size) or sha256 != file.sha256:
            raise LockError(
                f"{where}: the Hub has {size} bytes with sha256 {sha256[:12]}, the model lock {file.size} with "
                f"{file.sha256[:12]}: the file was replaced there; run tasks/lock.py to see what is new"
            )
        data = b""
        for piece in response.iter_raw():
            data += piece
            if len(data) >= length:
                break
    if len(data) < length:
        raise ConnectionError(f"{len(data)} of {length} bytes came")
    return data[:length]
