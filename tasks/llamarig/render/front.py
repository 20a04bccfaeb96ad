"""The files of a front: settings, the list of units that it may start, and its systemd units."""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Iterable, Mapping

from llamarig.declare.front import Front
from llamarig.declare.model import Model
from llamarig.declare.rig import Rig
from llamarig.remote.front.settings import FrontAlias, FrontKey, FrontModel, FrontSettings
from llamarig.remote.shared.server_url import server_url
from llamarig.render import layout
from llamarig.render.sandbox import network_lines, reading_lines

SERVICE = "llamarig_front.service"
SOCKET = "llamarig_front.socket"
HELPER = "llamarig_front_units@.service"
HELPER_SOCKET = "llamarig_front_units.socket"
"""With an underscore, which no model's name has: `llamarig-*` are the units of models."""
UNITS = (SERVICE, SOCKET, HELPER, HELPER_SOCKET)
USER = "llamarig_front"
"""Its user and group: not the models', so that neither reads or ends the other."""
SETTINGS = f"{layout.FRONT}/settings.json"
UNITS_FILE = f"{layout.FRONT}/units.json"
KEYS = f"{layout.FRONT}/keys"
_HELPER_PATH = "/run/llamarig_front/units.sock"
_DRAIN_S = 1800
"""Seconds for which a stop waits for answers that have begun."""

_SERVICE = """\
# Written by llamarig; the next deploy overwrites edits.
# Started with {digest}: a deploy restarts it when that changes.
[Unit]
Description=One address for the llama.cpp servers of this box
Requires={socket} {helper_socket}
After={socket} {helper_socket} network.target

[Service]
Type=notify
User={user}
WorkingDirectory={programs}
ExecStart={venv}/bin/python -B -m llamarig.remote.front.service {settings} {keys} {helper_path}
{credentials}# Restarted also where it runs and does nothing.
WatchdogSec=60
Restart=always
RestartSec=1
# A stop ends the answers that have begun; new clients wait in the queue of {socket}.
KillMode=mixed
TimeoutStopSec={drain}
# Each client takes two files, one for itself and one to its model.
LimitNOFILE=16384
# It takes 40 MiB, and 256 KiB for each request that waits (tests/benchmarks/front.py); larger bodies are on the disk.
MemoryMax=768M
MemorySwapMax=0
{network}
{sandbox}
# The helper's socket, and that of systemd's notifications.
RestrictAddressFamilies=AF_UNIX
"""

_SOCKET = """\
# Written by llamarig; the next deploy overwrites edits.
[Unit]
Description=Address of the front of the llama.cpp servers of this box

[Socket]
ListenStream={address}
# It stays open while the service is restarted, so that no client is refused.
Backlog=4096
NoDelay=yes
KeepAlive=yes
{clients}
[Install]
WantedBy=sockets.target
"""

_HELPER = """\
# Written by llamarig; the next deploy overwrites edits.
[Unit]
Description=Start or stop a model's unit for the front
CollectMode=inactive-or-failed

[Service]
# One process for each request. It knows the units of {units_file} alone.
ExecStart={python} -I -B {programs}/llamarig/remote/front/unit_helper.py {units_file}
StandardInput=socket
StandardOutput=socket
StandardError=journal
MemoryMax=128M
MemorySwapMax=0
# Runs as root to start units and to read the keys of their servers, without any capability.
CapabilityBoundingSet=
NoNewPrivileges=yes
ProtectSystem=strict
ProtectHome=yes
PrivateTmp=yes
PrivateNetwork=yes
ProtectKernelTunables=yes
ProtectKernelModules=yes
ProtectKernelLogs=yes
ProtectControlGroups=yes
ProtectClock=yes
ProtectHostname=yes
# systemd's socket.
RestrictAddressFamilies=AF_UNIX
RestrictNamespaces=yes
RestrictSUIDSGID=yes
RestrictRealtime=yes
LockPersonality=yes
MemoryDenyWriteExecute=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service
UMask=0077
"""

_HELPER_SOCKET = """\
# Written by llamarig; the next deploy overwrites edits.
[Unit]
Description=Requests of the front to start or stop a model's unit

[Socket]
ListenStream={helper_path}
# Only the front may connect.
SocketUser=root
SocketGroup={user}
SocketMode=0660
Accept=yes
MaxConnections=64

[Install]
WantedBy=sockets.target
"""


def settings_of(rig: Rig, front: Front) -> FrontSettings:
    """The settings of the service."""
    return FrontSettings(
        models=tuple(_model(rig, front, model) for model in rig.models),
        default=rig.default_model.name,
        keys=tuple(FrontKey(key.name, key.models, key.concurrency) for key in front.keys),
        preload=front.preload,
        default_returns_s=front.default_returns_s,
        least_residency_s=front.least_residency_s,
        longest_wait_s=front.longest_wait_s,
        queue_length=front.queue_length,
        keepalive_s=front.keepalive_s,
        max_body_mib=front.max_body_mib,
        hosts=front.hosts,
        cors_origins=front.cors_origins,
    )


def settings_text(rig: Rig, front: Front) -> str:
    """The file of the settings."""
    return json.dumps(settings_of(rig, front).to_json(), indent=1) + "\n"


def units_file_text(rig: Rig) -> str:
    """The file of the units that the front may have started, with the key file of each model's server."""
    units = {
        model.name: {"unit": layout.unit_name(model.name), "key_file": model.serve.api_key_file or ""}
        for model in rig.models
    }
    return json.dumps(units, indent=1) + "\n"


def unit_texts(front: Front, digest: str) -> Mapping[str, str]:
    """Name of each unit -> its text.

    :param digest: of what the service is started with, besides this text
    """
    names = {
        "socket": SOCKET,
        "helper_socket": HELPER_SOCKET,
        "helper_path": _HELPER_PATH,
        "user": USER,
        "settings": SETTINGS,
        "units_file": UNITS_FILE,
        "keys": KEYS,
        "programs": layout.PROGRAMS,
        "venv": layout.FRONT_VENV,
        "python": layout.PYTHON,
    }
    network = [
        line for line in network_lines(front) if "its own" not in line and not line.startswith("SocketBindAllow")
    ]
    addresses = [line for line in network if line.startswith("IPAddress")]
    service = _SERVICE.format(
        **names,
        digest=digest,
        credentials="".join(f"LoadCredential={name}:{path}\n" for name, path in _credentials(front).items()),
        drain=_DRAIN_S,
        network="\n".join(["# Its port is opened by systemd, and it opens none.", *network]),
        sandbox="\n".join(
            [
                "# Sandbox: it parses untrusted input. What it needs is bound into an empty root directory.",
                *reading_lines([layout.FRONT_VENV, layout.FRONT, _HELPER_PATH.rpartition("/")[0]]),
            ]
        ),
    )
    return {
        HELPER_SOCKET: _HELPER_SOCKET.format(**names),
        HELPER: _HELPER.format(**names),
        SOCKET: _SOCKET.format(address=_listen(front), clients="".join(f"{line}\n" for line in addresses)),
        SERVICE: service,
    }


def _model(rig: Rig, front: Front, model: Model) -> FrontModel:
    serve = model.serve
    alias = [serve.alias] if serve.alias not in (None, model.name) else []
    return FrontModel(
        name=model.name,
        unit=layout.unit_name(model.name),
        url=server_url(serve.host, serve.port, prefix=serve.api_prefix or ""),
        concurrency=front.concurrency.get(model.name, serve.parallel),
        context=serve.context,
        served_as=serve.alias or model.name,
        excludes=_excluded(rig, model),
        aliases=(
            *(FrontAlias(name, {}) for name in alias if name is not None),
            *(FrontAlias(one.name, one.defaults) for one in front.aliases if one.model == model.name),
        ),
        idle_stop_s=front.idle_stop_s.get(model.name),
        key_file=serve.api_key_file or "",
    )


def _excluded(rig: Rig, model: Model) -> tuple[str, ...]:
    if model.serve.coexists:
        return ()
    return tuple(one.name for one in rig.models if one.name != model.name and not one.serve.coexists)


def _credentials(front: Front) -> dict[str, str]:
    files = {"tls-certificate": front.tls_certificate_file, "tls-key": front.tls_key_file}
    return {name: path for name, path in files.items() if path is not None}


def _listen(front: Front) -> str:
    is_ipv6 = ipaddress.ip_address(front.host).version == 6
    return f"[{front.host}]:{front.port}" if is_ipv6 else f"{front.host}:{front.port}"


def key_paths(front: Front) -> Iterable[str]:
    """The files with the hashes of the clients' keys."""
    return [f"{KEYS}/{key.name}" for key in front.keys]
