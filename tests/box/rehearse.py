"""Run the whole deploy against a disposable box on this machine: `python3 -m tests rehearsal`."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

from tests.box import local_hub, machine
from tests.box.paths import ADDRESS, Rehearsal

REPOSITORY_ROOT = Path(__file__).parents[2]


def main() -> int:
    """Start the box, deploy, and request a completion from outside the box. Arguments are passed to pyinfra."""
    began = time.monotonic()
    try:
        rehearsal = Rehearsal.from_environment()
        machine.up(rehearsal)
        local_hub.start(rehearsal)
    except (machine.BoxError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    command = [
        str(Path(sys.executable).with_name("pyinfra")),
        "-y",
        "inventory/rehearsal.py",
        "deploy.py",
        *sys.argv[1:],
    ]
    print("+ pyinfra " + " ".join(command[1:]), flush=True)
    code = subprocess.run(command, cwd=REPOSITORY_ROOT).returncode
    if code:
        return code
    address = f"http://{ADDRESS}:{rehearsal.port + 10}"
    print(f"\nAsking {address}, from outside the box:")
    print("  " + chat(address, "Say hello."))
    print(
        f"\nDone in {time.monotonic() - began:.0f} s. The model's words are random, everything else is real.\n"
        "  Run it again, and nothing changes:  .venv/bin/pyinfra -y inventory/rehearsal.py deploy.py\n"
        "  Look around in the box:             python3 -m tests.box ssh\n"
        "  Throw it away:                      python3 -m tests.box destroy"
    )
    return 0


def is_healthy(address: str) -> bool:
    """Return whether the server answers /health with status 200."""
    try:
        with urllib.request.urlopen(f"{address}/health", timeout=2) as response:
            return bool(response.status == 200)
    except OSError:
        return False


def chat(address: str, text: str, key: str | None = None, *, model: str | None = None) -> str:
    """Send one user message to the OpenAI-compatible API and return the answer."""
    body = {"messages": [{"role": "user", "content": text}], "max_tokens": 24, **({"model": model} if model else {})}
    headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {key}"} if key else {})}
    request = urllib.request.Request(f"{address}/v1/chat/completions", json.dumps(body).encode(), headers)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=120) as response:
        answer = json.loads(response.read())
    return str(answer["choices"][0]["message"]["content"])


if __name__ == "__main__":
    sys.exit(main())
