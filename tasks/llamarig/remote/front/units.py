"""The front's side of the helper that starts and stops units."""

from __future__ import annotations

import asyncio

_LARGEST_ANSWER = 64 << 10


class HelperError(Exception):
    """The helper could not do it; the message is its reason."""


class Units:
    """The helper behind a socket."""

    def __init__(self, socket_path: str) -> None:
        self._path = socket_path

    async def start(self, model: str) -> None:
        """Start a model's unit and wait until it answers.

        :raises HelperError: with the last lines of its log, where it does not
        """
        await self._ask(f"start {model}")

    async def stop(self, model: str) -> None:
        """Stop a model's unit.

        :raises HelperError: where it does not stop
        """
        await self._ask(f"stop {model}")

    async def key(self, model: str) -> str:
        """The key that a model's server wants; empty for one without.

        :raises HelperError: where its file has no usable key
        """
        return await self._ask(f"key {model}")

    async def gpus(self) -> list[tuple[str, int, int]]:
        """Name, used and total MiB of each NVIDIA card; empty where there is none."""
        try:
            lines = (await self._ask("gpus")).splitlines()
        except HelperError:
            return []
        cells = ([cell.strip() for cell in line.rsplit(",", 2)] for line in lines)
        return [(each[0], int(each[1]), int(each[2])) for each in cells if len(each) == 3 and _are_numbers(each[1:])]

    async def _ask(self, request: str) -> str:
        try:
            reader, writer = await asyncio.open_unix_connection(self._path)
        except OSError as error:
            raise HelperError(f"the helper of the front does not answer ({error.strerror or error})") from None
        try:
            writer.write(f"{request}\n".encode())
            await writer.drain()
            answer = (await reader.read(_LARGEST_ANSWER)).decode("utf-8", "replace")
            while not answer or "\n" not in answer:
                more = await reader.read(_LARGEST_ANSWER)
                if not more:
                    raise HelperError("the helper of the front has ended without an answer")
                answer += more.decode("utf-8", "replace")
            answer += (await reader.read(_LARGEST_ANSWER)).decode("utf-8", "replace")
        except OSError as error:
            raise HelperError(f"the helper of the front does not answer ({error.strerror or error})") from None
        finally:
            writer.close()
        verdict, _, text = answer.partition("\n")
        if verdict != "ok":
            raise HelperError(text or "no reason is known")
        return text


def _are_numbers(cells: list[str]) -> bool:
    return all(cell.isdecimal() for cell in cells)
