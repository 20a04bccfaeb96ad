"""How fast are the models that run? `pyinfra -y inventory/home.py tasks/bench.py` times them as they serve.

Every running model answers requests of known length over its own API, with its unit's own flags; prompt and generation
are told apart by the server's own timings. One run to warm up, then five; medians go into rig.bench_ledger here on this
machine. The same processes run on. The exit code is not 0 when one is more than 5 % slower than the last time.

    --data model=NAME     this one alone; it has to be running
    --data runs=5         how often
    --data depth=2048     tokens of prompt, and so the depth at which generation is timed
    --data generate=128   tokens generated

Not by llama-bench: it would have to load the model a second time, for which a tuned box has no room, so the unit would
have to be stopped; and it knows neither the unit's --fit, --ctx-size, --prio nor its memory locking, so what it timed
would be another server. What the API adds (HTTP, sampling) is what every client pays.

With one slot, what the server remembered of its last conversation makes room; it comes back from its prompt cache
(serve.cache_ram_mib), or is computed again.
"""

from __future__ import annotations

from pyinfra.api.exceptions import PyinfraError
from pyinfra.context import host

from tasks.box import rig_of_host
from tasks.connection import send_at_once
from tasks.operations import bench


def _number(name: str, default: int, lowest: int) -> int:
    said = str(host.data.get(name, default))
    if not (said.isascii() and said.isdigit() and lowest <= int(said) <= 10**6):
        raise PyinfraError(
            f"--data {name}={said} is no number from {lowest} to 1000000: write for example {name}={default}"
        )
    return int(said)


options = bench.Options(
    only=str(host.data.get("model") or ""),
    runs=_number("runs", 5, 1),
    depth=_number("depth", 2048, 1) if host.data.get("depth") is not None else 0,
    generate=_number("generate", 128, 2),
)
send_at_once()
bench.benched(name="Bench", rig=rig_of_host(), options=options)
