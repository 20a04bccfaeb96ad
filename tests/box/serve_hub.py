"""Serve the stand-in Hub until SIGTERM or SIGINT: python3 -m tests.box.serve_hub --root DIR."""

from __future__ import annotations

import argparse
import json
import signal
import threading
from pathlib import Path

from tests.box.hub import Hub


def main() -> None:
    parser = argparse.ArgumentParser(description="Serve every repository laid out as DIR/<org>/<name>/<path>.")
    parser.add_argument("--root", type=Path, required=True, metavar="DIR")
    parser.add_argument("--port", type=int, default=18080)
    parser.add_argument("--cdn-port", type=int, default=18081)
    parser.add_argument("--host", default="127.0.0.1")
    options = parser.parse_args()
    hub = Hub(options.root, options.port, options.cdn_port, options.host)
    commits = hub.add_root()
    stopped = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopped.set())
    with hub:
        ready = {"endpoint": hub.endpoint, "cdn": hub.cdn_endpoint, "repositories": commits}
        print(f"ready {json.dumps(ready)}", flush=True)
        stopped.wait()


if __name__ == "__main__":
    main()
