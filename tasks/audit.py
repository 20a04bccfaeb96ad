"""Report how a box differs from its declaration: `pyinfra -y inventory/home.py tasks/audit.py`. Changes nothing.

The exit code is 0 if everything is as declared. Options:

    --data list=1            list every check with what it expects, and its source; reads no box
    --data only=gpu,memory.speed   only these checks, by id or first word; skip= leaves some out
    --data json=FILE         write a report for programs (tasks/llamarig/records/audit_report.schema.json)
    --data prometheus=FILE   write a report for node_exporter's textfile collector
    --data deep=1            read every byte of the model files
    --data disk=1            measure how fast the model store is read
    --data bandwidth=1       measure how fast the RAM is copied
"""

from __future__ import annotations

from llamarig.commands.audit import AuditOptions, audit, begin, checks_listed
from llamarig.engine.connection import require_root, set_tcp_nodelay
from llamarig.engine.rig_of_host import rig_of_host
from pyinfra.context import host


def _names(key: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in str(host.data.get(key) or "").split(",") if name.strip())


if host.data.get("list"):
    checks_listed(name="Audit: the checks")
else:
    options = AuditOptions(
        only=_names("only"),
        skip=_names("skip"),
        json=str(host.data.get("json") or ""),
        prometheus=str(host.data.get("prometheus") or ""),
        disk=bool(host.data.get("disk")),
        bandwidth=bool(host.data.get("bandwidth")),
    )
    begin(options)
    set_tcp_nodelay()
    require_root(or_any_user=True)
    audit(rig_of_host(), options)
