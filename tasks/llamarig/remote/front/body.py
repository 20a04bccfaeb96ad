"""The body of a request: received within bounds of size and time, looked through, and kept until its model is ready."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import AsyncIterator, Collection
from typing import IO, Optional

from aiohttp import web

from llamarig.remote.front.clients import RefusedClientError
from llamarig.remote.front.json_members import JsonError, Members

_IN_MEMORY = 256 << 10
"""Bytes. A larger body waits in a temporary file: a hundred of 100 MB would not fit into the RAM beside a model."""
_PIECE = 256 << 10
_PIECE_WITHIN_S = 30.0
_SLOWEST = 64 << 10
"""Bytes a second that a body has to come with, on top of the time for one piece."""


class Room:
    """How much all bodies together may take, in bytes."""

    def __init__(self, size: int) -> None:
        self._free = size

    def take(self, size: int) -> None:
        """Take some of it.

        :raises RefusedClientError: where there is not as much
        """
        if size > self._free:
            raise RefusedClientError(503, "too many large requests wait: send this one again later")
        self._free -= size

    def give_back(self, size: int) -> None:
        """Give back what was taken."""
        self._free += size


class Body:
    """A received body. `close` it."""

    def __init__(self, wanted: Collection[str], room: Room) -> None:
        """:param wanted: names of members that `members` shall have, if the body is a JSON object"""
        self.members = Members(wanted)
        self.size = 0
        self._room = room
        self._pieces: list[bytes] = []
        self._file: Optional[IO[bytes]] = None

    def add(self, piece: bytes) -> None:
        """Keep a piece.

        :raises RefusedClientError: where all bodies together are too large
        """
        self._room.take(len(piece))
        self.size += len(piece)
        if self._file is None and self.size <= _IN_MEMORY:
            self._pieces.append(piece)
            return
        if self._file is None:
            self._file = tempfile.TemporaryFile()  # noqa: SIM115 - `close` closes it
            self._file.write(b"".join(self._pieces))
            self._pieces.clear()
        self._file.write(piece)

    def content(self, inserted: bytes, at: int) -> bytes | AsyncIterator[bytes]:
        """The whole body with something inserted at an offset: bytes of a small one, pieces of a large one."""
        if self._file is None:
            whole = b"".join(self._pieces)
            return whole[:at] + inserted + whole[at:] if inserted else whole
        return self._from_file(self._file, inserted, at)

    async def _from_file(self, file: IO[bytes], inserted: bytes, at: int) -> AsyncIterator[bytes]:
        file.seek(0)
        if inserted:
            yield file.read(at) + inserted
        while piece := file.read(_PIECE):
            yield piece

    def close(self) -> None:
        """Forget the body."""
        self._room.give_back(self.size)
        self.size = 0
        self._pieces.clear()
        if self._file is not None:
            self._file.close()


async def receive(request: web.BaseRequest, body: Body, largest: int, *, is_json: bool) -> None:
    """Receive a request's body.

    :param largest: bytes
    :param is_json: whether it has to be an object, whose members are looked for
    :raises RefusedClientError: for a body that is too large, too slow, compressed, or no JSON object
    """
    if request.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise RefusedClientError(415, "send the body without Content-Encoding")
    if (request.content_length or 0) > largest:
        raise _too_large(largest)
    began = time.monotonic()
    try:
        while True:
            # What has come already, as all of a small body has, needs no timer.
            piece = request.content.read_nowait(-1)
            if not piece and request.content.at_eof():
                break
            if not piece:
                piece = await asyncio.wait_for(request.content.readany(), _PIECE_WITHIN_S)
            if not piece:
                break
            if body.size + len(piece) > largest:
                raise _too_large(largest)
            if time.monotonic() - began > _PIECE_WITHIN_S + body.size / _SLOWEST:
                raise TimeoutError
            if is_json:
                body.members.feed(piece)
            body.add(piece)
        if is_json:
            body.members.end()
    except TimeoutError:
        raise RefusedClientError(408, f"the body came slower than {_SLOWEST >> 10} KiB/s") from None
    except JsonError as error:
        raise RefusedClientError(400, str(error)) from None
    except OSError as error:
        raise RefusedClientError(507, f"the body cannot be kept: {error.strerror}") from None


def _too_large(largest: int) -> RefusedClientError:
    return RefusedClientError(413, f"the body is larger than {largest >> 20} MiB (d.front(max_body_mib=...))")
