"""Measure the flags that only measurement can choose: `pyinfra -y inventory/home.py tasks/tune.py`.

Each model with a workload is tuned: settings are tried with its work on the box, by its own unit, and compared with
what is served now. What serves now serves again afterwards, whatever happens. A winner becomes a proposal in the plan
file.

    --data model=NAME,NAME   tune only these models
    --data minutes=30        time for each model; what is not done then goes on with the next run
    --data builds=a,b        compare these declared builds, too
    --data accept=NAME,NAME  accept the proposals of these models; the next deploy serves them
    --data takeover=1        stop jobs of other runs that are in the way
"""

from __future__ import annotations

from llamarig.commands import tune
from llamarig.engine.connection import require_root, set_tcp_nodelay
from llamarig.engine.rig_of_host import rig_of_host
from pyinfra.api.exceptions import PyinfraError
from pyinfra.context import host


def _names(key: str) -> tuple[str, ...]:
    return tuple(name for name in str(host.data.get(key) or "").split(",") if name)


def _minutes() -> int:
    value = str(host.data.get("minutes", 30))
    if not (value.isascii() and value.isdigit() and 1 <= int(value) <= 1440):
        raise PyinfraError(f"--data minutes={value} is not a number from 1 to 1440: write for example minutes=30")
    return int(value)


options = tune.TuneOptions(
    only=_names("model"),
    minutes=_minutes(),
    builds=_names("builds"),
    accept=_names("accept"),
    takeover=bool(host.data.get("takeover")),
)
set_tcp_nodelay()
require_root()
tune.tuned(name="Tune", rig=rig_of_host(), options=options)
