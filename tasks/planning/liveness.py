"""The timer and the service that look after hung model servers, as unit text."""

from __future__ import annotations

from collections.abc import Iterable

from tasks.planning import layout

SERVICE = "llamarig_liveness.service"
TIMER = "llamarig_liveness.timer"
"""With an underscore, which no model's name has: `llamarig-*` are the models."""

_SERVICE = f"""\
# Written by llamarig; a later deploy puts edits back.
[Unit]
Description=Restart llama.cpp servers that answer /health but complete nothing

[Service]
Type=oneshot
WorkingDirectory={layout.PROGRAMS}
ExecStart={layout.PYTHON} -B -m tasks.files.probe_servers /run/llamarig_liveness/state.json
# Two minutes for each answer of each server, and an end to it.
TimeoutStartSec=900
# What was seen in the last round, for the next one; gone after a boot, as the servers' processes are.
RuntimeDirectory=llamarig_liveness
RuntimeDirectoryMode=0700
RuntimeDirectoryPreserve=yes
# Root, because systemd restarts units for root and root owns the key files; it needs none of root's capabilities.
CapabilityBoundingSet=
NoNewPrivileges=yes
ProtectSystem=strict
ProtectHome=yes
PrivateTmp=yes
PrivateDevices=yes
ProtectKernelTunables=yes
ProtectKernelModules=yes
ProtectKernelLogs=yes
ProtectControlGroups=yes
ProtectClock=yes
ProtectHostname=yes
# It asks the box's own servers, and systemd over its socket.
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX
IPAddressDeny=any
IPAddressAllow={{addresses}}
RestrictNamespaces=yes
RestrictSUIDSGID=yes
RestrictRealtime=yes
LockPersonality=yes
MemoryDenyWriteExecute=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service
UMask=0077
"""

_TIMER = """\
# Written by llamarig; a later deploy puts edits back.
[Unit]
Description=Look after llama.cpp servers every minute

[Timer]
OnActiveSec=60
OnUnitInactiveSec=60
AccuracySec=10

[Install]
WantedBy=timers.target
"""


def service_text(hosts: Iterable[str]) -> str:
    """The oneshot service.

    :param hosts: addresses the models listen on
    """
    addresses = ["localhost", *sorted(set(hosts) - {"0.0.0.0", "::", "127.0.0.1", "::1"})]
    return _SERVICE.format(addresses=" ".join(addresses))


def timer_text() -> str:
    """The timer that starts it."""
    return _TIMER
