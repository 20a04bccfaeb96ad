"""The front's program: one address for all models of a box.

    python -m llamarig.remote.front.service SETTINGS KEYS HELPER

SETTINGS is the file of the front's settings, KEYS the directory with the hashes of the clients' keys, HELPER the
socket of the helper that starts units. systemd hands the listening socket over, so that no connection is refused while
the service is restarted: it stops to accept, ends the answers that it has begun, and exits; clients that come meanwhile
wait in the socket's queue.

    ... --listen HOST:PORT

opens a socket of its own, for tests.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import logging
import os
import signal
import socket
import ssl
from pathlib import Path
from typing import Optional

from aiohttp import web

from llamarig.remote.front.front import Front
from llamarig.remote.front.settings import FrontSettings
from llamarig.remote.front.units import Units

_FIRST_HANDED_OVER = 3
"""sd_listen_fds(3): SD_LISTEN_FDS_START."""
_KEEPALIVE_S = 60.0
"""Also the time in which a new connection has to have sent a whole request's headers."""
_LONGEST_LINE = 8190
_BACKLOG = 4096


def listening_socket(address: str) -> socket.socket:
    """The socket that systemd has handed over, or one that listens on an address."""
    if address:
        host, _, port = address.rpartition(":")
        return socket.create_server((host, int(port)), backlog=_BACKLOG)
    if os.environ.get("LISTEN_PID") != str(os.getpid()) or os.environ.get("LISTEN_FDS") != "1":
        raise SystemExit("no socket was handed over: start llamarig_front.socket, which starts this service")
    return socket.socket(fileno=_FIRST_HANDED_OVER)


def tls_context(directory: Optional[str]) -> Optional[ssl.SSLContext]:
    """The certificate among the unit's credentials; None where there is none."""
    certificate = Path(directory or "/nowhere") / "tls-certificate"
    if not certificate.exists():
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(certificate, certificate.with_name("tls-key"))
    return context


def notify(text: str) -> None:
    """Tell systemd (sd_notify(3))."""
    path = os.environ.get("NOTIFY_SOCKET")
    if path:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.connect(f"\0{path[1:]}" if path.startswith("@") else path)
            sender.sendall(text.encode())


def _quiet() -> logging.Logger:
    """A logger that keeps aiohttp's tracebacks of malformed requests, and what strangers wrote into them, out of the
    journal. Our own handler catches and prints its faults."""
    logger = logging.getLogger("llamarig.front")
    logger.setLevel(logging.CRITICAL)
    return logger


async def _tell_that_it_is_alive() -> None:
    """Tell systemd that the loop runs, three times as often as the unit's WatchdogSec= wants."""
    while True:
        notify("WATCHDOG=1")
        await asyncio.sleep(int(os.environ.get("WATCHDOG_USEC", 60_000_000)) / 3e6)


async def serve(front: Front, listening: socket.socket, tls: Optional[ssl.SSLContext]) -> None:
    """Serve until SIGTERM, and then until the last answer has ended."""
    loop, stops = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stops.set)
    server = web.Server(
        front.handle,
        handler_cancellation=True,
        keepalive_timeout=_KEEPALIVE_S,
        lingering_time=5,
        max_line_size=_LONGEST_LINE,
        max_field_size=_LONGEST_LINE,
        auto_decompress=False,
        access_log=None,
        logger=_quiet(),
    )
    watching = asyncio.ensure_future(front.dispatcher.run())
    alive = asyncio.ensure_future(_tell_that_it_is_alive())
    accepting = await loop.create_server(server, sock=listening, ssl=tls, backlog=_BACKLOG)
    notify("READY=1")
    await asyncio.wait({watching, asyncio.ensure_future(stops.wait())}, return_when=asyncio.FIRST_COMPLETED)
    notify("STOPPING=1")
    accepting.close()
    server.pre_shutdown()
    while front.active:
        await asyncio.sleep(0.05)
    await server.shutdown(1)
    if watching.done():
        watching.result()  # it has ended by an error
    watching.cancel()
    alive.cancel()
    await front.close()


def main() -> None:
    """Read the settings and serve."""
    parser = argparse.ArgumentParser()
    for name in ("settings", "keys", "helper"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--listen", default="")
    options = parser.parse_args()
    settings = FrontSettings.from_json(json.loads(options.settings.read_text()))
    # What has been imported stays: it need not be looked through again with each collection.
    gc.freeze()

    async def run() -> None:
        front = Front(settings, Units(str(options.helper)), options.keys)
        await serve(front, listening_socket(options.listen), tls_context(os.environ.get("CREDENTIALS_DIRECTORY")))

    asyncio.run(run())


if __name__ == "__main__":
    main()
