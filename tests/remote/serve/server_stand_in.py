"""Stand-in for llama-server with one fault, chosen by --mode, that cannot be provoked in a real server.

Its answers have the shape of the pinned commit's. `--api-key-file` is read as in common/arg.cpp.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import ssl
import struct
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

STARTED = time.monotonic()
COMMIT = "0c1e57098bba43ac29e6e3b677cdceebdd22334f"
PROPS = {"build_info": f"b1-{COMMIT[:9]}", "default_generation_settings": {"n_ctx": 8192}, "is_sleeping": False}
COMPLETION = {"usage": {"completion_tokens": 8}, "timings": {"predicted_per_second": 50.0}}
EMBEDDING = {"data": [{"embedding": [0.25, -0.5]}], "usage": {"prompt_tokens": 3}}
RANKING = {"results": [{"index": 1, "relevance_score": 0.75}, {"index": 0, "relevance_score": -2.5}]}
PROPS_OF = {
    "hears": {"modalities": {"vision": False, "audio": True}},
    "sees": {"modalities": {"vision": True, "audio": False}},
    "blind": {"modalities": {"vision": True, "audio": False}},
}
# Answers of /props in place of PROPS: JSON of another shape.
SHAPES: dict[str, Any] = {
    "props-list": [PROPS],
    "props-number": 7,
    "props-settings-list": {**PROPS, "default_generation_settings": [8192]},
    "props-deep": None,
}
SLOTS: dict[str, Any] = {
    "slots-object": {"slots": 7},
    "slots-of-nonsense": [{"is_processing": [], "id_task": "x", "next_token": [7, {"n_decoded": []}]}, {}],
    "slots-many": [{}] * 1_000_000,
    "slots-large": [{}] * 2_000_000,
    "slots-stuck": [{"is_processing": True, "id_task": 1, "next_token": [{"n_decoded": 3}]}],
}
# Answers of /props that are not JSON, or not what every reader of JSON can read.
BODIES = {
    "props-no-json": b"<html>",
    "props-latin-1": '{"build_info": "\u00e9"}'.encode("latin-1"),
    "props-utf-16": '{"build_info": ""}'.encode("utf-16"),
    "props-digits": b'{"build_info": ' + b"9" * 100_000 + b"}",
    "props-nan": b'{"build_info": NaN}',
}


class Handler(BaseHTTPRequestHandler):
    mode = ""
    keys: tuple[str, ...] = ()
    prefix = ""

    def do_GET(self) -> None:
        if not self.path.startswith(f"{self.prefix}/"):
            self.answer({"error": "File Not Found"}, 404)
        elif self.path == f"{self.prefix}/health":
            if self.prefix and self.refused():  # public is only /health itself
                pass
            elif self.mode == "health-drip":
                self.drip()
            else:
                loads = self.mode == "hangs" or (self.mode == "loads-slowly" and time.monotonic() < STARTED + 5)
                self.answer({"status": "ok"}, 503 if loads else 200)
        elif self.refused():
            pass
        elif self.path == f"{self.prefix}/slots" and self.mode == "slots-silent":
            print("asked for its slots", file=sys.stderr, flush=True)
            time.sleep(120)
        elif self.path == f"{self.prefix}/":
            self.answer({"error": "File Not Found"}, 404 if self.mode == "no-pages" else 415)
        elif self.path == f"{self.prefix}/slots":
            self.answer(SLOTS.get(self.mode, []))
        else:
            self.props()

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        path = self.path.removeprefix(self.prefix)
        if self.refused():
            return
        if path == "/tokenize":
            content = json.loads(body)["content"]
            self.answer({"tokens": list(range(len(content) if self.mode == "letter-tokens" else len(content) // 4))})
            return
        if self.mode == "letter-tokens" and len(body) > 4096:
            self.answer({"error": {"message": "request exceeds the available context size", "code": 400}}, 400)
            return
        if path == "/v1/embeddings":
            zeros = {"data": [{"embedding": [0.0, 0.0]}]}
            self.answer(zeros if self.mode == "zeros" else EMBEDDING)
            return
        if path == "/v1/rerank":
            self.answer({"results": RANKING["results"][:1]} if self.mode == "one-score" else RANKING)
            return
        if self.mode.startswith("ms-"):
            self.work(json.loads(body))
            return
        if b"image_url" in body and self.mode in ("blind", "hears"):
            self.answer({"error": {"message": "failed to process image", "code": 500}}, 500)
            return
        if self.mode == "completion-list":
            self.answer([COMPLETION])
        elif self.mode == "completion-timings":
            self.answer({**COMPLETION, "usage": [1]})
        else:
            self.answer(COMPLETION)

    def work(self, request: dict[str, Any]) -> None:
        """Take the milliseconds of the mode for a request (ms-50), a half of them for its prompt."""
        milliseconds = float(self.mode.partition("-")[2])
        time.sleep(milliseconds / 1000)
        prompt, generated = len(request.get("prompt", ())), int(request.get("n_predict", 8))
        cached = prompt - 300 if request.get("cache_prompt") and prompt > 300 else 0
        prompt -= cached
        timings = {
            "cache_n": cached,
            "prompt_n": prompt,
            "prompt_ms": milliseconds / 2,
            "prompt_per_second": 2000 * prompt / milliseconds,
            "predicted_n": generated,
            "predicted_ms": milliseconds / 2,
            "predicted_per_second": 2000 * generated / milliseconds,
        }
        self.answer({**COMPLETION, "tokens": [7] * generated, "timings": timings})

    def refused(self) -> bool:
        key = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if not self.keys or key in self.keys or self.mode == "open":
            return False
        self.answer({"error": {"message": "Invalid API Key", "code": 401}}, 403 if self.mode == "forbidden" else 401)
        return True

    def props(self) -> None:
        if self.mode == "props-500":
            self.answer({"error": "boom"}, 500)
        elif self.mode == "props-redirect":
            self.send_response(302)
            self.send_header("Location", "/elsewhere")
            self.send_header("Content-Length", "0")
            self.end_headers()
        elif self.mode == "props-reset":
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
        elif self.mode == "props-incomplete":
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            self.wfile.write(b'{"build_info": "')
        elif self.mode == "props-bad-status":
            self.wfile.write(b"this is not HTTP\r\n\r\n")
        elif self.mode in BODIES:
            self.raw(BODIES[self.mode])
        elif self.mode == "props-deep":
            self.raw(b"[" * 100_000)
        elif self.mode.startswith("props-endless"):
            self.endless(500 if self.mode == "props-endless-500" else 200)
        elif self.mode == "props-drip":
            self.drip()
        elif self.mode == "props-chunks":
            self.send_response(200)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            self.wfile.write(b"400\r\n{")
        else:
            self.answer(SHAPES.get(self.mode, {**PROPS, **PROPS_OF.get(self.mode, {}), "mode": self.mode}))

    def endless(self, status: int) -> None:
        """Send a body without an end."""
        self.send_response(status)
        self.end_headers()
        try:
            while True:
                self.wfile.write(b" " * 65536)
        except OSError:  # the client has hung up
            self.close_connection = True

    def drip(self) -> None:
        """Send a byte of the headers every 0.1 s."""
        try:
            for byte in b"HTTP/1.1 200 OK\r\n" + b"X-Header: 1\r\n" * 90:
                self.wfile.write(bytes([byte]))
                time.sleep(0.1)
        except OSError:
            self.close_connection = True

    def answer(self, value: Any, status: int = 200) -> None:
        self.raw(json.dumps(value).encode(), status)

    def raw(self, body: bytes, status: int = 200) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Log nothing."""


def server(
    port: int, mode: str, keys: tuple[str, ...] = (), prefix: str = "", certificate: tuple[str, str] | None = None
) -> ThreadingHTTPServer:
    """A server of that mode that does not serve yet."""
    handler = type("Handler", (Handler,), {"mode": mode, "keys": keys, "prefix": prefix})
    http = ThreadingHTTPServer(("127.0.0.1", port), handler)
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*certificate)
        http.socket = context.wrap_socket(http.socket, server_side=True)
    return http


def main() -> None:
    parser = argparse.ArgumentParser()
    for flag in (
        "--host",
        "--port",
        "--mode",
        "--api-key-file",
        "--api-prefix",
        "--mmproj",
        "--n-gpu-layers",
        "--device-file",
    ):
        parser.add_argument(flag, default="")
    for flag in ("--ssl-cert-file", "--ssl-key-file"):
        parser.add_argument(flag)
    for flag in ("--embeddings", "--rerank"):
        parser.add_argument(flag, action="store_true")
    options = parser.parse_args()
    if options.mode == "without-gpu":
        print("warning: no usable GPU found, --gpu-layers option will be ignored", file=sys.stderr, flush=True)
    if options.device_file:
        os.open(options.device_file, os.O_RDONLY)  # until this program ends
    if options.mode == "crashes":
        sys.exit("CUDA error: out of memory (so this stand-in says)")
    started_before = Path(os.environ.get("LLAMARIG_STAND_IN", "")) / "started-before"
    if options.mode == "binds-later" and not started_before.exists():
        started_before.touch()
        sys.exit("main: couldn't bind HTTP server socket (so this stand-in says)")
    print("main: model loaded", file=sys.stderr, flush=True)
    lines = Path(options.api_key_file).read_text().split("\n") if options.api_key_file else []
    keys = tuple(line for line in lines if line and not line.startswith("#"))
    certificate = (options.ssl_cert_file, options.ssl_key_file) if options.ssl_cert_file else None
    if options.mode == "binds-as-before":
        # Without SO_REUSEADDR and SO_REUSEPORT, as the builds of spring 2026.
        ThreadingHTTPServer.allow_reuse_address = False
        try:
            server(int(options.port), options.mode, keys).serve_forever()
        except OSError:
            sys.exit("main: couldn't bind HTTP server socket (so this stand-in says)")
    deadline = time.monotonic() + 10
    while True:
        try:
            server(int(options.port), options.mode, keys, options.api_prefix, certificate).serve_forever()
        except OSError:  # the server before it still holds the port
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


if __name__ == "__main__":
    main()
