"""Replacement for llama-server that fails in one chosen way; test_releases.py installs it in a release on the box.

Apart from the chosen fault it runs the real server with the same arguments. Standard library only.
"""

from __future__ import annotations

import os
import socket
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

REAL = Path(__file__).with_name("llama-server.real")
MODE = Path(__file__).with_name("misbehave").read_text().strip()
SLOW_S = 20


def main() -> None:
    arguments = sys.argv[1:]
    if "--help" in arguments or "--version" in arguments or "--list-devices" in arguments:
        os.execv(REAL, [str(REAL), *arguments])
    if MODE == "crashes-on-start":
        sys.exit("CUDA error: out of memory (so this stand-in says)")
    if MODE == "hangs-in-load":
        time.sleep(3600)
    if MODE == "slow-load":
        time.sleep(SLOW_S)
        # argv[0] must be the unit's: the next deploy compares the command line of the running process.
        os.execv(REAL, [str(REAL.with_name("llama-server")), *arguments])
    if MODE == "no-key":
        at = arguments.index("--api-key-file")
        os.execv(REAL, [str(REAL), *arguments[:at], *arguments[at + 2 :]])
    if MODE == "wrong-context":
        os.execv(REAL, [str(REAL), *arguments, "--ctx-size", "512"])
    if MODE == "slower":
        few = ("--threads", "1", "--threads-batch", "1", "--batch-size", "2", "--ubatch-size", "1")
        os.execv(REAL, [str(REAL), *arguments, *few])
    if MODE in ("dies-on-long-prompt", "props-bad-status"):
        forward(arguments)


def forward(arguments: list[str]) -> None:
    """Start the real server on another port and forward all connections to it, except those that MODE answers."""
    at = arguments.index("--port") + 1
    port, inner = int(arguments[at]), int(arguments[at]) + 500
    server = subprocess.Popen([str(REAL), *arguments[:at], str(inner), *arguments[at + 1 :]])
    listener = socket.create_server(("127.0.0.1", port))
    while True:
        client, _ = listener.accept()
        threading.Thread(target=serve, args=(client, inner, server), daemon=True).start()


def serve(client: socket.socket, port: int, server: subprocess.Popen[bytes]) -> None:
    request = client.recv(65536)
    if b"content-length" in request.lower():
        length = int(request.lower().split(b"content-length:")[1].split(b"\r\n")[0])
        if length > 1000 and MODE == "dies-on-long-prompt":
            server.kill()
            os.abort()
        while len(request.split(b"\r\n\r\n", 1)[1]) < length:
            request += client.recv(65536)
    if MODE == "props-bad-status" and request.startswith(b"GET /props"):
        client.sendall(b"this is not HTTP\r\n\r\n")
        time.sleep(0.2)  # a reset discards sent data that the client has not yet read
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()
        return
    try:
        upstream = socket.create_connection(("127.0.0.1", port))
    except OSError:
        client.close()  # the real server is not listening yet
        return
    upstream.sendall(request.replace(b"keep-alive", b"close"))
    while block := upstream.recv(65536):
        client.sendall(block)
    client.close()


if __name__ == "__main__":
    main()
