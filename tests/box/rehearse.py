"""Run the whole deploy against a disposable box on this machine: `python3 -m tests rehearsal`."""

from __future__ import annotations

import json
import os
import shlex
import sys
import time
import urllib.request
from pathlib import Path

from tests.box import local_hub, machine
from tests.box.live_output import run_live
from tests.box.paths import ADDRESS, Rehearsal
from tests.box.virtual_box import up_here

REPOSITORY_ROOT = Path(__file__).parents[2]
PYINFRA = ".venv/bin/pyinfra"
DEPLOY = f"{PYINFRA} -y inventory/rehearsal.py deploy.py"
DESTROY = "python3 -m tests.box destroy"


def main() -> int:
    """Start the box, deploy, and request a completion from outside the box. Arguments are passed to pyinfra."""
    began = time.monotonic()
    try:
        rehearsal = Rehearsal.from_environment()
        up_here(rehearsal)
        local_hub.start(rehearsal)
    except (machine.BoxError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    command = [*shlex.split(DEPLOY), *sys.argv[1:]]
    print(f"$ {shlex.join(command)}", flush=True)
    if code := run_live(command, cwd=REPOSITORY_ROOT):
        return code
    if "--dry" in sys.argv:
        return 0
    address = f"http://{ADDRESS}:{rehearsal.model_port}"
    print(f"\nReply of {address} to 'Say hello.', requested from outside the box:")
    try:
        print("  " + chat(address, "Say hello."))
    except OSError as error:
        print(f"error: the model at {address} did not answer: {error}", file=sys.stderr)
        return 1
    print(f"\nDone in {time.monotonic() - began:.0f} s. The model's words are random, everything else is real.")
    print("What to do next:\n")
    for purpose, step in next_steps(rehearsal).items():
        print(f"  {purpose}:\n    {step}")
    return 0


def next_steps(rehearsal: Rehearsal) -> dict[str, str]:
    """Purpose -> the command of this repository's root that serves it, in the order in which to try them."""
    body = json.dumps({"max_tokens": 24, "messages": [{"role": "user", "content": "Say hello."}]})
    # curl would ask a proxy for this machine's own address, too.
    direct = "--noproxy '*' " if {"http_proxy", "HTTP_PROXY", "ALL_PROXY", "all_proxy"} & os.environ.keys() else ""
    return {
        "Deploy again, and nothing changes": DEPLOY,
        "Audit whether the box is still as declared": f"{PYINFRA} -y inventory/rehearsal.py tasks/audit.py",
        "Plan the model for a simulated graphics card": f"{PYINFRA} -y inventory/rehearsal_card.py tasks/plan.py",
        "Ask the model": f"curl {direct}http://{ADDRESS}:{rehearsal.model_port}/v1/chat/completions -d '{body}'",
        "Look around in the box": "python3 -m tests.box ssh",
        "Delete the box": DESTROY,
    }


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
