"""Measure the speed of the running models: `pyinfra -y inventory/home.py tasks/bench.py`.

Every running model answers requests of known length over its own API, with the flags of its unit, and then a second
turn of the same conversation, most of which is in its cache. The server's own timings give the speed of prompt and
generation. After one warm-up there are five runs, whose medians are stored in rig.bench_ledger on the control machine.
No server is started or stopped. The exit code is not 0 if a model is more than 5 % slower than in its last measurement.

    --data model=NAME     time this model only; it has to be running
    --data runs=5         number of runs
    --data depth=2048     tokens of the prompt, which is also the depth at which generation is timed
    --data generate=128   tokens to generate
    --data margin=1       then send two prompts of 32768 tokens (or of margin=N) to each model with auto(), and record
                          in rig.plan_file what is left on its GPUs, for the margin of the next plan

llama-bench is not used: it loads the model a second time, for which a tuned box has no memory, so the unit would have
to be stopped. It also lacks the unit's --fit, --ctx-size and --prio and its memory locking, so it would time another
server. The overhead of the API (HTTP, sampling) is part of what clients see.

On a server with one slot, the measurement evicts the last conversation. It is restored from the prompt cache
(serve.cache_ram_mib), or computed again.
"""

from __future__ import annotations

from llamarig.commands import bench
from llamarig.commands.bench_margin import PROMPT_TOKENS
from llamarig.engine.connection import require_root, set_tcp_nodelay
from llamarig.engine.rig_of_host import rig_of_host
from pyinfra.api.exceptions import PyinfraError
from pyinfra.context import host


def _number(name: str, default: int, lowest: int) -> int:
    value = str(host.data.get(name, default))
    if not (value.isascii() and value.isdigit() and lowest <= int(value) <= 10**6):
        raise PyinfraError(
            f"--data {name}={value} is not a number from {lowest} to 1000000: write for example {name}={default}"
        )
    return int(value)


def _margin() -> int:
    """Tokens of the prompts for the margin; 0 where it is not to be measured."""
    if host.data.get("margin") is None:
        return 0
    tokens = _number("margin", 1, 1)
    return PROMPT_TOKENS if tokens == 1 else tokens


options = bench.BenchOptions(
    only=str(host.data.get("model") or ""),
    runs=_number("runs", 5, 1),
    depth=_number("depth", 2048, 1) if host.data.get("depth") is not None else 0,
    generate=_number("generate", 128, 2),
    margin=_margin(),
)
set_tcp_nodelay()
require_root()
bench.timed(name="Bench", rig=rig_of_host(), options=options)
