"""Fetch the headers of model files from the Hub by HTTP Range: a few MB of a file of 64 GB.

The pinned commit is requested, and the size and sha256 that the Hub reports must be those of the model lock.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain, repeat
from typing import Any

from huggingface_hub import get_session, hf_hub_url, hf_raise_for_status

from llamarig.declare.model import Model
from llamarig.engine.hub_resolver import ask
from llamarig.engine.hub_token import HubError
from llamarig.records.model_lock import LockedFile, LockedModel
from llamarig.remote.shared.companion_files import kind_by_header, refusal
from llamarig.remote.shared.gguf_header import Header, HeaderError, HeaderTruncatedError, read_first_keys, read_header

MOST_BYTES = 64 << 20
"""Limit for the header of each file. It is mostly vocabulary: 15.05 MiB for the 262,144 tokens of Gemma 4."""
_STEPS = (256 << 10, 1 << 20, 3 << 20)
"""Bytes of the requests for the first shard; the last size repeats. At most 3 MiB beyond the end of a header are
fetched."""
_LATER_STEPS = (64 << 10, *_STEPS)
"""The same for later shards, which have no vocabulary: most headers fit into the first request."""
_FIRST_KEYS = 16 << 10
"""Bytes from the beginning of a file that are read for its kind and architecture, whose keys come first in practice."""
_TIMEOUT_S = 30.0
"""Seconds for each read: of a server that sends a byte now and then, it alone would never be reached."""
_REQUEST_S = 300.0
"""Seconds for the body of one request: the largest, of 3 MiB, at 10 KiB/s."""
_ERROR_TEXT = 64 << 10
"""Bytes of an error's text that are read."""
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
    headers, data, fetched = [], [], 0
    for index, file in enumerate(locked.shards):
        steps = _LATER_STEPS if index else _STEPS
        header, own, received = _one_header(model, locked, file, endpoint, token, steps)
        headers.append(header)
        data.append(own)
        fetched += received
    return FetchedHeaders(tuple(headers), tuple(data), fetched)


def with_architecture(model: Model, locked: LockedModel, endpoint: str, token: str | None) -> LockedModel:
    """The lock entry with the architecture in the header of its first shard, if the Hub sends the beginning of it.

    What it does not send now, the download will report.

    :raises HubError: where the header is not that of a model, but of a file that is loaded with one
    """
    file = locked.shards[0]
    request = partial(_range, locked, file, endpoint, token, 0, min(_FIRST_KEYS, file.size), f"model {model.name!r}")
    try:
        first = read_first_keys(ask(request, model, endpoint))
    except HubError:
        return locked
    if kind := kind_by_header(first):
        raise HubError(refusal(model.name, f"{locked.repo}: {file.path}", kind))
    return locked.model_copy(update={"architecture": first.architecture})


def _one_header(
    model: Model, locked: LockedModel, file: LockedFile, endpoint: str, token: str | None, steps: Sequence[int]
) -> tuple[Header, bytes, int]:
    """The header of a file, its bytes, and the number of bytes received."""
    where = f"model {model.name!r}: {locked.repo} at {locked.commit[:12]}, {file.path}"
    data, following = b"", chain(steps, repeat(steps[-1]))
    while True:
        step = min(next(following), MOST_BYTES - len(data), file.size - len(data))
        if step <= 0:
            raise HubError(
                f"{where}: its header is longer than {MOST_BYTES >> 20} MiB, as no model's is: declare another file"
            )
        request = partial(_range, locked, file, endpoint, token, len(data), step, where)
        data += ask(request, model, endpoint)
        try:
            header = read_header(data, file.size)
        except HeaderTruncatedError:
            continue
        except HeaderError as error:
            raise HubError(f"{where} is not a GGUF file that llama.cpp reads: {error}: declare another file") from None
        return header, data[: header.length], len(data)


def _range(
    locked: LockedModel, file: LockedFile, endpoint: str, token: str | None, begin: int, length: int, where: str
) -> bytes:
    """``length`` bytes of a file from ``begin`` on. Reading stops there, even if the Hub sends more, and in time.

    :raises HubError: also where the bytes take longer than _REQUEST_S
    """
    url = hf_hub_url(locked.repo, file.path, revision=locked.commit, endpoint=endpoint)
    headers = {"Range": f"bytes={begin}-{begin + length - 1}", "Accept-Encoding": "identity"}
    if token is not None:
        # The client drops this header if a redirect leads to another host.
        headers["Authorization"] = f"Bearer {token}"
    deadline = time.monotonic() + _REQUEST_S
    with get_session().stream("GET", url, headers=headers, timeout=_TIMEOUT_S) as response:
        if response.is_error:
            # The Hub's client makes its error messages of this text, and would read it whatever its size.
            text = _body(response, _ERROR_TEXT, deadline)
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
        data = _body(response, length, deadline)
    if len(data) < length:
        if time.monotonic() >= deadline:
            raise HubError(
                f"{where}: {endpoint} has sent {len(data)} of {length} bytes in {_REQUEST_S:.0f} s: try again later, "
                "or check hub.endpoint"
            )
        raise ConnectionError(f"received {len(data)} of {length} bytes")
    return data


def _body(response: Any, most: int, deadline: float) -> bytes:
    """The body of a response, its first ``most`` bytes, as far as it has come by the deadline (monotonic clock)."""
    data = b""
    for piece in response.iter_raw():
        data += piece
        if len(data) >= most or time.monotonic() >= deadline:
            break
    return data[:most]
