"""Passes a request on to its model, when it is its turn, and the answer back as it comes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from typing import Optional

import aiohttp
from aiohttp import web
from multidict import CIMultiDict

from llamarig.remote.front import answers
from llamarig.remote.front.dispatcher import Dispatcher, NotServedError, Place
from llamarig.remote.front.metrics import Metrics
from llamarig.remote.front.upstream import Upstream

_HOP_BY_HOP = frozenset(
    ("connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "proxy-connection", "te", "trailer")
) | {"transfer-encoding", "upgrade", "content-length"}
_NOT_FORWARDED = _HOP_BY_HOP | {
    *("host", "authorization", "x-api-key", "cookie", "origin", "referer", "accept-encoding", "expect"),
    *("forwarded", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-real-ip"),
}
"""Of a request: what is between the client and the front alone."""
_NOT_RETURNED = _HOP_BY_HOP | {"set-cookie", "access-control-allow-origin", "access-control-allow-credentials"}
_ATTEMPTS = 2
_UNREAD_WITHIN_S = 120.0
"""Seconds for which a client may leave an answer unread before it loses the model's slot."""
_LARGEST_ERROR = 64 << 10


@dataclass(frozen=True)
class Question:
    """A request for a model. ``content``: makes its body, once for each attempt; ``streams``: whether it asks for
    server-sent events; ``extra``: headers that its answer gets."""

    model: str
    path: str
    content: Callable[[], bytes | AsyncIterator[bytes] | None]
    length: int
    streams: bool
    is_anthropic: bool
    extra: Mapping[str, str]


class Forwarder:
    """Passes requests to models."""

    def __init__(
        self, dispatcher: Dispatcher, upstreams: Mapping[str, Upstream], metrics: Metrics, keepalive_s: float
    ) -> None:
        self._dispatcher, self._upstreams = dispatcher, upstreams
        self._metrics, self._keepalive_s = metrics, keepalive_s

    async def answer(self, request: web.BaseRequest, question: Question) -> web.StreamResponse:
        """Answer a request. If its client hangs up, this is cancelled, and the model's server is told at once."""
        answer = _Answer(request, question)
        try:
            for attempt in range(_ATTEMPTS):
                place = self._dispatcher.arrive(question.model)
                try:
                    await self._wait(place, answer)
                    if await self._ask(request, question, answer, is_last=attempt + 1 == _ATTEMPTS):
                        break
                finally:
                    place.leave()
        except NotServedError as problem:
            retry = {"Retry-After": str(max(1, round(problem.retry_after_s)))}
            await answer.fail(429 if problem.is_full else 503, str(problem), retry)
        except asyncio.CancelledError:
            self._metrics.hung_up[question.model] += 1
            raise
        return answer.response

    async def _wait(self, place: Place, answer: _Answer) -> None:
        while not await place.wait(self._keepalive_s):
            await answer.comment(place.describe())
        self._metrics.waited(place.model, time.monotonic() - place.arrived)

    async def _ask(self, request: web.BaseRequest, question: Question, answer: _Answer, *, is_last: bool) -> bool:
        """Ask the model; return False where it turns out not to be there, so that the request is to wait again."""
        headers = _kept(request.headers, _NOT_FORWARDED)
        content = question.content()
        if content is not None:
            headers["Content-Length"] = str(question.length)
        try:
            upstream = await self._upstreams[question.model].send(request.method, question.path, headers, content)
        except aiohttp.ClientConnectorError:
            self._dispatcher.is_down(question.model)
            if is_last:
                await answer.fail(502, f"the server of {question.model} is not there")
            return is_last
        except aiohttp.ClientError as error:
            await answer.fail(502, f"the server of {question.model} does not answer ({type(error).__name__})")
            return True
        try:
            # 503: it is loading; 401: another model's server has taken the port.
            if upstream.status in (401, 403, 503) and not is_last:
                self._dispatcher.is_down(question.model)
                return False
            await answer.pass_on(upstream)
        except aiohttp.ClientError:
            raise ConnectionResetError("the model's server has ended within its answer") from None
        finally:
            upstream.close()
        return True


class _Answer:
    """The answer to one request. A stream begins with comments, if it has to wait."""

    def __init__(self, request: web.BaseRequest, question: Question) -> None:
        self._request, self._question = request, question
        self._begun: Optional[web.StreamResponse] = None

    @property
    def response(self) -> web.StreamResponse:
        assert self._begun is not None
        return self._begun

    async def comment(self, text: str) -> None:
        """Tell a waiting stream's client that it is not forgotten. Others get their answer and its status alone."""
        if not self._question.streams:
            return
        if self._begun is None:
            headers = {"Content-Type": "text/event-stream", "Cache-Control": "no-store", **self._question.extra}
            self._begun = web.StreamResponse(headers=headers)
            await self._begun.prepare(self._request)
        await self._write(f": {text}\n\n".encode())

    async def fail(self, status: int, message: str, headers: Mapping[str, str] | None = None) -> None:
        """Answer with an error."""
        is_anthropic = self._question.is_anthropic
        if self._begun is not None:
            await self._write(answers.error_event(status, message, is_anthropic=is_anthropic))
            await self._begun.write_eof()
            return
        body = answers.error(status, message, is_anthropic=is_anthropic)
        shown = {**self._question.extra, **(headers or {})}
        self._begun = web.Response(status=status, body=body, content_type="application/json", headers=shown)

    async def pass_on(self, upstream: aiohttp.ClientResponse) -> None:
        """Pass on the model's answer, byte for byte."""
        if self._begun is not None and upstream.status >= 400:
            text = (await upstream.content.read(_LARGEST_ERROR)).replace(b"\n", b" ").replace(b"\r", b" ")
            await self._write((b"event: error\n" if self._question.is_anthropic else b"") + b"data: " + text + b"\n\n")
        else:
            if self._begun is None:
                await self._begin(upstream)
            async for piece in upstream.content.iter_any():
                await self._write(piece)
        await self.response.write_eof()

    async def _begin(self, upstream: aiohttp.ClientResponse) -> None:
        headers = _kept(upstream.headers, _NOT_RETURNED)
        headers.update(self._question.extra)
        self._begun = web.StreamResponse(status=upstream.status, reason=upstream.reason, headers=headers)
        self._begun.content_length = upstream.content_length
        await self._begun.prepare(self._request)

    async def _write(self, data: bytes) -> None:
        transport = self._request.transport
        if transport is None or not transport.get_write_buffer_size():
            await self.response.write(data)
            return
        try:
            await asyncio.wait_for(self.response.write(data), _UNREAD_WITHIN_S)
        except TimeoutError:
            raise ConnectionResetError("the client does not read its answer") from None


def _kept(headers: Mapping[str, str], dropped: frozenset[str]) -> CIMultiDict[str]:
    """Headers without those of one connection, and without those that ``Connection`` names."""
    named = {each.strip().lower() for each in headers.get("Connection", "").split(",")}
    return CIMultiDict((name, value) for name, value in headers.items() if name.lower() not in dropped | named)
