"""Fetch the headers of model files from the Hub by HTTP Range: a few MB of a file of 64 GB.

The pinned commit is requested, and the size and sha256 that the Hub reports must be those of the model lock.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from itertools import islice

from huggingface_hub import get_session, hf_hub_url, hf_raise_for_status

from llamarig.declare.model import Model
from llamarig.engine.hub_resolver import ask
from llamarig.engine.hub_token import HubError
from llamarig.records.model_lock import LockedFile, LockedModel
from llamarig.remote.shared.gguf_header import Header, HeaderError, HeaderTruncatedError, read_header

MOST_BYTES = 16 << 20
"""Limit for all shards of a model together. A header is mostly vocabulary: 13 MB for the 201,088 tokens of gpt-oss."""
_FIRST = 256 << 10
_STEPS = (1 << 20, 3 << 20)
"""Bytes of the requests after the first; the last size repeats. Later shards have no vocabulary, so their header fits
into the first request. At most 3 MiB beyond the end of a header are fetched."""
_TIMEOUT_S = 30.0
_OF_THE_BODY = ("content-length", "content-encoding", "transfer-encoding")


@dataclass(frozen=True)
class FetchedHeaders:
    """``data``: bytes of each shard's header, in the order of the lock; ``fetched``: bytes received in all."""

    headers: tuple[Header, ...]
    data: tuple[bytes, ...]
    fetched: int


def fetch_headers(model: Model, locked: LockedModel, endpoint: str, token: str | None) -> FetchedHeaders:
    """Fetch the headers of all shards of a model.

    :raises HubError: naming the model, the file, the problem and the remedy
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
            raise HubError(
                f"{where}: its header is longer than {MOST_BYTES >> 20} MiB, as no model's is: declare another file"
            )
        request = partial(_range, locked, file, endpoint, token, len(data), step, where)
        data += ask(request, model, endpoint)
        left -= step
        try:
            header = read_header(data, file.size)
        except HeaderTruncatedError:
            continue
        except HeaderError as error:
            raise HubError(f"{where} is not a GGUF file that llama.cpp reads: {error}: declare another file") from None
        return header, data[: header.length], left


def _range(
    locked: LockedModel, file: LockedFile, endpoint: str, token: str | None, begin: int, length: int, where: str
) -> bytes:
    """``length`` bytes of a file from ``begin`` on. Reading stops there, even if the Hub sends more."""
    url = hf_hub_url(locked.repo, file.path, revision=locked.commit, endpoint=endpoint)
    headers = {"Range": f"bytes={begin}-{begin + length - 1}", "Accept-Encoding": "identity"}
    if token is not None:
        # The client drops this header if a redirect leads to another host.
        headers["Authorization"] = f"Bearer {token}"
    with get_session().stream("GET", url, headers=headers, timeout=_TIMEOUT_S) as response:
        if response.is_error:
            # The Hub's client makes its error messages of this text, and would read it whatever its size.
            text = b"".join(islice(response.iter_raw(4096), 16))
            kept = {name: value for name, value in response.headers.items() if name not in _OF_THE_BODY}
            hf_raise_for_status(
                type(response)(response.status_code, headers=kept, content=text, request=response.request)
            )
        if response.status_code != 206:
            raise HubError(
                f"{where}: {endpoint} does not serve ranges of files (HTTP {response.status_code}): fetch the whole "
                "model by running deploy.py"
            )
        size = response.headers.get("Content-Range", "").rpartition("/")[2]
        linked = next((hop.headers["X-Linked-Etag"] for hop in response.history if "X-Linked-Etag" in hop.headers), "")
        sha256 = linked.strip('"') or file.sha256
        if size != str(file.size) or sha256 != file.sha256:
            raise HubError(
                f"{where}: the Hub has {size} bytes with sha256 {sha256[:12]}, the model lock {file.size} with "
                f"{file.sha256[:12]}: the file was replaced there; run tasks/lock.py to see the changes"
            )
        data = b""
        for piece in response.iter_raw():
            data += piece
            if len(data) >= length:
                break
    if len(data) < length:
        raise ConnectionError(f"received {len(data)} of {length} bytes")
    return data[:length]
