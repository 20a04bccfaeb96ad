"""Is this box what it should be? `pyinfra -y inventory/home.py tasks/audit.py` looks, and changes nothing.

Exit code 0 when everything is as declared. What can be asked for:

    --data list=1            every check, what it expects and from where; nothing is looked at
    --data only=gpu,memory.speed   these alone, by id or first word; skip= leaves some out
    --data json=FILE         the report for programs, here on this machine (tasks/spec/audit_report.schema.json)
    --data prometheus=FILE   the report for node_exporter's textfile collector
    --data deep=1            reads every byte of the model files
    --data disk=1            measures how fast the model store is read
    --data bandwidth=1       measures how fast the RAM is copied
"""

from __future__ import annotations

from pyinfra.context import host

from tasks.box import rig_of_host
from tasks.connection import send_at_once
from tasks.host import PROGRAMS, host_settings
from tasks.llama_cpp import llama_cpp
from tasks.models import models
from tasks.operations import audit
from tasks.services import services
from tasks.toolchain import toolchain


def _names(key: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in str(host.data.get(key) or "").split(",") if name.strip())


def _file(key: str) -> str:
    return str(host.data.get(key) or "")


if host.data.get("list"):
    audit.checks_listed(name="Audit: the checks")
else:
    options = audit.Options(
        only=_names("only"),
        skip=_names("skip"),
        json=_file("json"),
        prometheus=_file("prometheus"),
        deep=bool(host.data.get("deep")),
        disk=bool(host.data.get("disk")),
        bandwidth=bool(host.data.get("bandwidth")),
    )
    send_at_once()
    audit.asked_at_once(rig_of_host(), options, PROGRAMS)
    if audit.asks_the_deploy(options):
        with audit.looked_at_only():
            host_settings()
            toolchain()
            llama_cpp()
            models()
            services()
    audit.box_looked_at(name="Audit: looking", rig=rig_of_host(), options=options)
    audit.findings_reported(name="Audit", options=options)
