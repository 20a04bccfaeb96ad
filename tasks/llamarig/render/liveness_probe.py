"""The timer and the service that restart hung model servers, as unit text."""

from __future__ import annotations

from collections.abc import Iterable

from llamarig.render import layout

SERVICE = "llamarig_liveness.service"
TIMER = "llamarig_liveness.timer"
"""With an underscore, which no model's name has: `llamarig-*` are the units of models."""

_SERVICE = f"""\
# Written by llamarig; the next deploy overwrites edits.
[Unit]
Description=Restart llama.cpp servers that answer /health but complete nothing

[Service]
Type=oneshot
WorkingDirectory={layout.PROGRAMS}
ExecStart={layout.PYTHON} -B -m llamarig.remote.serve.probe_servers /run/llamarig_liveness/state.json
# At most 400 s for each server, all at once.
TimeoutStartSec=900
# An answer has at most 8 MiB, of which Python makes up to 300 MiB (measured with Python 3.11).
MemoryMax=512M
MemorySwapMax=0
# State for the next round. Lost at a reboot, like the processes it describes.
RuntimeDirectory=llamarig_liveness
RuntimeDirectoryMode=0700
RuntimeDirectoryPreserve=yes
# Runs as root to restart units and to read key files, without any capability.
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
# Connects to the servers of this box and to systemd's socket.
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
# Written by llamarig; the next deploy overwrites edits.
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
    """Text of the oneshot service.

    :param hosts: addresses that models listen on
    """
    addresses = ["localhost", *sorted(set(hosts) - {"0.0.0.0", "::", "127.0.0.1", "::1"})]
    return _SERVICE.format(addresses=" ".join(addresses))


def timer_text() -> str:
    """Text of the timer that starts the service."""
    return _TIMER
