"""The models' own servers, as the front reaches them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from typing import Any, Optional
from urllib.parse import unquote

import aiohttp
from yarl import URL

from llamarig.remote.front.settings import FrontModel
from llamarig.remote.front.units import HelperError, Units

_LOOKS_WITHIN_S = 5.0
_LARGEST_PROPS = 1 << 20
_SOCKET = "http+unix://"
_NO_LIMIT = aiohttp.ClientTimeout(total=None, sock_connect=10)


class Upstream:
    """The server of one model. Its key is asked for when it is needed, and again where the server refuses it."""

    def __init__(self, model: FrontModel, units: Units) -> None:
        self.context: Optional[int] = None
        """Tokens of a slot, as its server has last said."""
        self._model, self._units = model, units
        self._key: Optional[str] = None
        # A connection for each request: llama-server closes idle ones after a time, just when the next may use them.
        connector: aiohttp.BaseConnector
        if model.url.startswith(_SOCKET):
            self._base = "http://localhost"
            connector = aiohttp.UnixConnector(unquote(model.url[len(_SOCKET) :]), limit=0, force_close=True)
        else:
            self._base = model.url
            connector = aiohttp.TCPConnector(limit=0, force_close=True, happy_eyeballs_delay=None)
        self._session = aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            trust_env=False,
            timeout=_NO_LIMIT,
            skip_auto_headers=("User-Agent", "Accept-Encoding", "Accept", "Content-Type"),
        )

    async def close(self) -> None:
        """Close the connections."""
        await self._session.close()

    async def send(
        self, method: str, path: str, headers: Mapping[str, str], body: bytes | AsyncIterator[bytes] | None
    ) -> aiohttp.ClientResponse:
        """Send a request and return the response, of which only the headers have come.

        :param path: with its query, as it came
        :raises aiohttp.ClientError: where the server does not answer
        """
        return await self._session.request(
            method,
            URL(f"{self._base}{path}", encoded=True),
            headers={**headers, **await self._authorization()},
            data=body,
            allow_redirects=False,
        )

    async def is_up(self) -> bool:
        """Whether it is this model's server that answers, with the model loaded.

        Not by /health, which needs no key: models that exclude each other may share a port, and keys tell them apart.
        """
        try:
            return await asyncio.wait_for(self._look(), _LOOKS_WITHIN_S)
        except (TimeoutError, aiohttp.ClientError, OSError, ValueError):
            return False

    async def _look(self) -> bool:
        async with await self.send("GET", "/props", {}, None) as response:
            if response.status in (401, 403):
                self._key = None
            if response.status != 200:
                return False
            props = json.loads(await response.content.read(_LARGEST_PROPS))
        if not isinstance(props, dict) or props.get("model_alias", self._model.served_as) != self._model.served_as:
            return False
        self.context = _context(props)
        return True

    async def _authorization(self) -> Mapping[str, str]:
        if not self._model.key_file:
            return {}
        if self._key is None:
            try:
                self._key = await self._units.key(self._model.name)
            except HelperError as error:
                raise aiohttp.ClientError(str(error)) from None
        return {"Authorization": f"Bearer {self._key}"}


def _context(props: Mapping[str, Any]) -> Optional[int]:
    generation = props.get("default_generation_settings")
    found = generation.get("n_ctx") if isinstance(generation, dict) else None
    return found if isinstance(found, int) else None
