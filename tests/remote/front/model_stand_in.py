"""Stand-in for a llama-server that streams, for tests of the front: what matters there is timing and bytes.

Its answers have the shape of the pinned commit's. It counts what is under way, so that tests see freed slots, and tells
the SHA-256 of what it got. `--crashes` ends it at its start, with words of llama-server's.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import sys
from pathlib import Path

from aiohttp import web

MARK = "\\u00e9\\n\u00e9"
"""Within each streamed chunk, so that bytes that are decoded and encoded again would differ."""


class Model:
    def __init__(self, name: str, key: str, lines: str) -> None:
        self.name, self.key, self.events = name, key, Path(lines)
        self.running = 0

    def note(self, event: str) -> None:
        with self.events.open("a") as file:
            file.write(f"{event} {self.name}\n")

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        if request.path == "/health":
            return web.json_response({"status": "ok"})
        if request.headers.get("Authorization", "").removeprefix("Bearer ") != self.key:
            return web.json_response({"error": {"code": 401, "message": "Invalid API Key"}}, status=401)
        if request.path == "/props":
            generation = {"n_ctx": 8192}
            return web.json_response({"model_alias": self.name, "default_generation_settings": generation})
        if request.path == "/running":
            return web.json_response({"running": self.running})
        body, digest = b"", hashlib.sha256()
        async for piece in request.content.iter_any():
            digest.update(piece)
            body = (
                (body + piece)[-200:] if request.content_length and request.content_length > 1 << 20 else body + piece
            )
        if request.path == "/page":
            return web.Response(text=f"a page of {self.name}: {request.raw_path}", content_type="text/html")
        if request.content_length and request.content_length > 1 << 20:
            return web.json_response({"sha256": digest.hexdigest(), "size": request.content_length})
        self.running += 1
        self.note("begin")
        try:
            return await self.answer(request, json.loads(body), dict(request.headers))
        finally:
            self.running -= 1
            self.note("end")

    async def answer(
        self, request: web.BaseRequest, asked: dict[str, object], headers: dict[str, str]
    ) -> web.StreamResponse:
        chunks, pause = int(str(asked.get("chunks", 3))), float(str(asked.get("pause", 0)))
        if not asked.get("stream"):
            await asyncio.sleep(chunks * pause)
            content = json.dumps({"asked": asked, "headers": headers})
            message = {"role": "assistant", "content": content}
            usage = {"prompt_tokens": 3, "completion_tokens": 5, "total_tokens": 8}
            choice = {"index": 0, "finish_reason": "stop", "message": message}
            if request.path == "/v1/messages":
                text = [{"type": "text", "text": content}]
                whole = {"id": "m", "type": "message", "role": "assistant", "model": self.name, "content": text}
                tokens = {"input_tokens": 3, "output_tokens": 5}
                return web.json_response({**whole, "stop_reason": "end_turn", "stop_sequence": None, "usage": tokens})
            shape = {"id": "x", "object": "chat.completion", "created": 1, "model": self.name}
            return web.json_response({**shape, "choices": [choice], "usage": usage})
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for number in range(chunks):
            await response.write(chunk(self.name, number))
            await asyncio.sleep(pause)
            if asked.get("dies_after") == number:
                sys.stdout.flush()
                import os

                os._exit(1)
        await response.write(b"data: [DONE]\n\n")
        return response


def chunk(name: str, number: int) -> bytes:
    """An event with characters that JSON may write in two ways."""
    delta = f'{{"index":0,"delta":{{"content":"{number}{MARK}"}},"finish_reason":null}}'
    whole = f'{{"id":"x","object":"chat.completion.chunk","created":1,"model":"{name}","choices":[{delta}]}}'
    return f"data: {whole}\n\n".encode()


async def main() -> None:
    parser = argparse.ArgumentParser()
    for flag in ("--name", "--port", "--key-file", "--events", "--loads"):
        parser.add_argument(flag, default="")
    parser.add_argument("--crashes", action="store_true")
    options = parser.parse_args()
    if options.crashes:
        sys.exit("CUDA error: out of memory (so this stand-in says)")
    await asyncio.sleep(float(options.loads or 0))
    model = Model(options.name, Path(options.key_file).read_text().strip(), options.events)
    runner = web.ServerRunner(web.Server(model.handle, handler_cancellation=True, access_log=None))
    await runner.setup()
    if options.port.startswith("/"):
        Path(options.port).unlink(missing_ok=True)
        await web.UnixSite(runner, options.port).start()
    else:
        await web.TCPSite(runner, "127.0.0.1", int(options.port), reuse_port=True).start()
    model.note("up")
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
