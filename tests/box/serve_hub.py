"""Serve the stand-in Hub until SIGTERM or SIGINT: python3 -m tests.box.serve_hub --root DIR."""

from __future__ import annotations

import argparse
import json
import signal
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
    # Blocked in every thread, and waited for: a handler that sets an Event can find the Event's lock held by wait().
    ends = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, ends)
    with hub:
        ready = {"endpoint": hub.endpoint, "cdn": hub.cdn_endpoint, "repositories": commits}
        print(f"ready {json.dumps(ready)}", flush=True)
        signal.sigwait(ends)


if __name__ == "__main__":
    main()
