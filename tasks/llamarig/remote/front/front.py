"""What the front answers: routes, refusals, and its own lists."""

from __future__ import annotations

import asyncio
import json
import socket
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Optional

from aiohttp import web

from llamarig.remote.front import answers
from llamarig.remote.front.body import Body, Room, receive
from llamarig.remote.front.clients import Client, Keys, RefusedClientError, check_host, check_origin
from llamarig.remote.front.dispatcher import Dispatcher
from llamarig.remote.front.forward import Forwarder, Question
from llamarig.remote.front.json_members import JsonError, text_of
from llamarig.remote.front.metrics import Metrics
from llamarig.remote.front.names import Names, UnknownModelError, with_defaults
from llamarig.remote.front.settings import FrontSettings
from llamarig.remote.front.status_page import PAGE, PAGE_HEADERS
from llamarig.remote.front.units import Units
from llamarig.remote.front.upstream import Upstream

_OF_MODELS = frozenset(
    (
        *("/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/embeddings", "/v1/rerank", "/v1/reranking"),
        *("/v1/messages", "/v1/messages/count_tokens"),
        *("/chat/completions", "/completions", "/responses", "/embeddings", "/rerank", "/reranking"),
        *("/completion", "/infill", "/tokenize", "/detokenize", "/apply-template"),
    )
)
"""Paths whose JSON body names a model: OpenAI's and Anthropic's, and llama.cpp's own."""
_UPSTREAM = "/upstream/"
_BODIES = 4 << 30
"""Bytes that all waiting bodies together may take on the disk."""
_GPUS_EVERY_S = 5.0


class Front:
    """One front. `handle` answers a request."""

    def __init__(self, settings: FrontSettings, units: Units, keys: Path, *, failure_pause_s: float = 30) -> None:
        """:param keys: directory with the hashes of the clients' keys"""
        self.active = 0
        """Requests that are being answered, those that wait included."""
        self._settings, self._units = settings, units
        self._models = {model.name: model for model in settings.models}
        self._names = Names(settings.models, settings.default)
        self._keys = Keys(settings.keys, keys, self._models)
        self._upstreams = {model.name: Upstream(model, units) for model in settings.models}
        self.dispatcher = Dispatcher(
            settings, units, lambda model: self._upstreams[model].is_up(), failure_pause_s=failure_pause_s
        )
        self._metrics = Metrics()
        self._forwarder = Forwarder(self.dispatcher, self._upstreams, self._metrics, settings.keepalive_s)
        self._room = Room(_BODIES)
        defaults = {name for model in settings.models for alias in model.aliases for name in alias.defaults}
        self._wanted = {"model", "stream", *defaults}
        self._gpus: list[tuple[str, int, int]] = []
        self._gpus_at = float("-inf")

    async def close(self) -> None:
        """Close the connections to the models."""
        await asyncio.gather(*(upstream.close() for upstream in self._upstreams.values()))

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer a request."""
        began, log = time.monotonic(), {"model": "", "key": ""}
        extra: dict[str, str] = {}
        self.active += 1
        try:
            response = await self._checked(request, extra, log)
        except RefusedClientError as refused:
            response = _refusal(request, refused, extra)
        except (ConnectionError, asyncio.CancelledError):
            self._log(request, log, 0, began)
            raise
        except Exception:  # one request's fault must not end the others
            traceback.print_exc()
            body = answers.error(500, "a bug in the front: see its journal", is_anthropic=_is_anthropic(request.path))
            response = web.Response(status=500, body=body, content_type="application/json")
        finally:
            self.active -= 1
        self._log(request, log, response.status, began)
        return response

    def _log(self, request: web.BaseRequest, log: Mapping[str, str], status: int, began: float) -> None:
        self._metrics.requests[log["model"], log["key"], status] += 1
        if log["model"]:
            who, took = log["key"] or "-", time.monotonic() - began
            print(f"{who} {log['model']} {request.path} {status or 'hung up'} {took:.1f} s", flush=True)

    async def _checked(
        self, request: web.BaseRequest, extra: dict[str, str], log: dict[str, str]
    ) -> web.StreamResponse:
        host, settings = request.headers.get("Host"), self._settings
        check_host(host, socket.gethostname(), settings.hosts)
        origin = check_origin(request.headers.get("Origin"), host, settings.cors_origins)
        if origin is not None:
            extra.update({"Access-Control-Allow-Origin": origin, "Vary": "Origin"})
            if request.method == "OPTIONS":
                return web.Response(status=204, headers={**extra, **_PREFLIGHT})
        path = request.path
        if path in ("/health", "/v1/health"):
            return _json({"status": "ok"}, extra)
        client = self._keys.client(request.headers, time.monotonic())
        log["key"] = client.name
        if path in _OF_MODELS:
            return await self._of_model(request, client, extra, log)
        if path.startswith(_UPSTREAM):
            return await self._upstream(request, client, extra, log)
        return await self._own(request, path, client, extra)

    # --- models ---------------------------------------------------------------------------------------------------

    async def _of_model(
        self, request: web.BaseRequest, client: Client, extra: dict[str, str], log: dict[str, str]
    ) -> web.StreamResponse:
        if request.method != "POST":
            raise RefusedClientError(405, f"{request.path} is called with POST")
        await _continue(request)
        self._keys.begin(client)
        body = Body(self._wanted, self._room)
        try:
            await receive(request, body, self._settings.max_body_mib << 20, is_json=True)
            found = body.members.found
            name = _text(found, "model")
            choice = self._choose(name, client)
            log["model"] = choice.model
            inserted = with_defaults(choice.defaults, found.keys())
            if body.members.is_empty:
                inserted = inserted.rstrip(b",")
            question = Question(
                model=choice.model,
                path=request.raw_path,
                content=lambda: body.content(inserted, body.members.start),
                length=body.size + len(inserted),
                streams=(found.get("stream") or _encoded(choice.defaults.get("stream"))) == b"true",
                is_anthropic=_is_anthropic(request.path),
                extra=extra,
            )
            return await self._forwarder.answer(request, question)
        finally:
            body.close()
            self._keys.end(client)

    async def _upstream(
        self, request: web.BaseRequest, client: Client, extra: dict[str, str], log: dict[str, str]
    ) -> web.StreamResponse:
        """A model's own pages and paths, below /upstream/NAME/."""
        name, slash, rest = request.raw_path[len(_UPSTREAM) :].partition("/")
        model = self._choose(name or "?", client).model
        if not slash:
            return web.Response(status=308, headers={"Location": f"{_UPSTREAM}{name}/", **extra})
        log["model"] = model
        await _continue(request)
        self._keys.begin(client)
        body = Body((), self._room)
        try:
            await receive(request, body, self._settings.max_body_mib << 20, is_json=False)
            question = Question(
                model=model,
                path=f"/{rest}",
                content=lambda: body.content(b"", 0) if body.size else None,
                length=body.size,
                streams=False,
                is_anthropic=False,
                extra=extra,
            )
            return await self._forwarder.answer(request, question)
        finally:
            body.close()
            self._keys.end(client)

    def _choose(self, name: Optional[str], client: Client) -> Any:
        try:
            return self._names.choose(name, client.models)
        except UnknownModelError as error:
            raise RefusedClientError(404, str(error)) from None

    # --- the front itself -----------------------------------------------------------------------------------------

    async def _own(
        self, request: web.BaseRequest, path: str, client: Client, extra: dict[str, str]
    ) -> web.StreamResponse:
        if request.method not in ("GET", "HEAD"):
            raise RefusedClientError(404, _NO_PATH)
        if path == "/":
            return web.Response(text=PAGE, content_type="text/html", headers=PAGE_HEADERS)
        if path in ("/v1/models", "/models"):
            return _json(self._listed(client), extra)
        if path.startswith("/v1/models/"):
            found = answers.model(self._listed(client), path[len("/v1/models/") :])
            if found is None:
                raise RefusedClientError(404, "no such model: GET /v1/models lists them")
            return _json(found, extra)
        if path == "/metrics":
            text = self._metrics.text(self._states(), self.dispatcher.started, self._keys.in_use)
            return web.Response(text=text, content_type="text/plain")
        if path == "/front/status":
            return _json(await self._status(), extra)
        raise RefusedClientError(404, _NO_PATH)

    def _states(self) -> dict[str, Any]:
        return {name: self.dispatcher.scheduler.state(name) for name in self._models}

    def _listed(self, client: Client) -> bytes:
        listed = [model for model in self._settings.models if client.models is None or model.name in client.models]
        contexts = {name: upstream.context for name, upstream in self._upstreams.items()}
        return answers.models(listed, self._names, self._states(), contexts)

    async def _status(self) -> Mapping[str, Any]:
        """For the status page: what runs, what waits, the cards, and the last switches."""
        now = time.monotonic()
        if now > self._gpus_at + _GPUS_EVERY_S:
            self._gpus_at = now
            self._gpus = await self._units.gpus()
        return {
            "models": [
                {
                    "name": name,
                    "state": state.phase.value,
                    "for_s": round(now - state.since),
                    "running": state.running,
                    "waiting": state.waiting,
                    "context": self._upstreams[name].context or self._models[name].context or None,
                    "problem": state.problem,
                    "aliases": self._names.aliases(name),
                }
                for name, state in self._states().items()
            ],
            "gpus": [{"name": name, "used_mib": used, "total_mib": total} for name, used, total in self._gpus],
            "switches": [
                {"at": switch.at, "model": switch.model, "took_s": round(switch.took_s, 1), "problem": switch.problem}
                for switch in reversed(self.dispatcher.switches)
            ],
        }


_NO_PATH = "there is nothing at this path: GET / shows what there is"
_PREFLIGHT = {
    "Access-Control-Allow-Methods": "GET, POST",
    "Access-Control-Allow-Headers": "Authorization, Content-Type, X-Api-Key, Anthropic-Version, Anthropic-Beta",
    "Access-Control-Max-Age": "600",
}


def _is_anthropic(path: str) -> bool:
    return path.startswith("/v1/messages")


def _text(found: Mapping[str, bytes], name: str) -> Optional[str]:
    """A member of a body that has to be a text, if it is there.

    :raises RefusedClientError: where it is none
    """
    if name not in found or found[name] == b"null":
        return None
    try:
        text = text_of(found[name])
    except JsonError as error:
        raise RefusedClientError(400, str(error)) from None
    if text is None:
        raise RefusedClientError(400, f"{name} is not a text")
    return text


def _encoded(value: object) -> bytes:
    return json.dumps(value).encode()


async def _continue(request: web.BaseRequest) -> None:
    """Tell a client that asks whether to send its body to do so."""
    if request.headers.get("Expect", "").lower() == "100-continue":
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0


def _refusal(request: web.BaseRequest, refused: RefusedClientError, extra: Mapping[str, str]) -> web.Response:
    headers = dict(extra)
    is_page = request.path == "/" or request.path.startswith((_UPSTREAM, "/front/"))
    if refused.status == 401:
        # For pages, so that a browser asks for a name, which does not matter, and a password, which is the key.
        headers["WWW-Authenticate"] = 'Basic realm="llamarig"' if is_page else "Bearer"
    if refused.status in (429, 503):
        headers["Retry-After"] = "5"
    body = answers.error(refused.status, str(refused), is_anthropic=_is_anthropic(request.path))
    return web.Response(status=refused.status, body=body, content_type="application/json", headers=headers)


def _json(value: Any, extra: Mapping[str, str]) -> web.Response:
    body = value if isinstance(value, bytes) else json.dumps(value).encode()
    return web.Response(body=body, content_type="application/json", headers=dict(extra))
