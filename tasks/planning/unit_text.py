"""The text of a model's systemd unit: its flags, its limits, and every hardening line with its reason."""

from __future__ import annotations

import ipaddress
import math
from collections.abc import Sequence

from tasks.planning import layout
from tasks.planning.escaping import environment, exec_start
from tasks.spec.build import Build
from tasks.spec.model import Model
from tasks.spec.placement import CpuOnly

_STARTS = 10
_RESTART_S = 10

_AFTER_DEVICES = (
    "# CUDA's devices and kernel module are made ready there: from in here that is not allowed.",
    f"Wants={layout.GPUS_UNIT}",
    f"After={layout.GPUS_UNIT}",
)

_WAIT_FOR_VRAM = (
    "# The server before this one may still be giving its GPU memory back. Bounded, and never a reason not to start.",
    f"ExecStartPre=-{layout.PYTHON} -I -B {layout.PROGRAMS}/tasks/files/wait_for_vram.py",
)

_HARDENING = """\
# A server that parses what strangers may send it gets nothing it does not need.
NoNewPrivileges=yes
# No capability: it listens on a high port and reads files it may read anyway.
CapabilityBoundingSet=
AmbientCapabilities=
# Everything is read-only to it, homes and other users' temporary files are not even there.
ProtectSystem=strict
ProtectHome=yes
PrivateTmp=yes
ProtectKernelTunables=yes
ProtectKernelModules=yes
ProtectKernelLogs=yes
ProtectControlGroups=yes
ProtectClock=yes
ProtectHostname=yes
# Other users' processes are none of its business; CUDA needs the rest of /proc.
ProtectProc=invisible
# HTTP over IP and systemd's own sockets; nothing raw, no netlink configuration.
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX AF_NETLINK
RestrictNamespaces=yes
RestrictSUIDSGID=yes
RemoveIPC=yes
LockPersonality=yes
SystemCallArchitectures=native
# Files it may create are for itself alone.
UMask=0077
"""

_CPU_ONLY = """\
# No device at all beyond /dev/null and its like.
PrivateDevices=yes
# ggml generates no code at run time.
MemoryDenyWriteExecute=yes
SystemCallFilter=@system-service
SystemCallFilter=~@privileged @resources
# Thread placement and memory locking are part of serving a model.
SystemCallFilter=sched_setaffinity sched_setscheduler setpriority mlock mlock2 munlock mbind set_mempolicy
SystemCallErrorNumber=EPERM
"""

_ANY_GPU = """\
# GPU drivers ask for more than a filter list of theirs could know; these no server asks for. All but the last two need
# capabilities that it does not have, so they failed already.
SystemCallFilter=~@clock @module @mount @raw-io @reboot @swap @cpu-emulation @obsolete
SystemCallErrorNumber=EPERM
"""

_GPU = {
    "cuda": """\
# The NVIDIA devices and no others. CUDA maps executable memory and asks for ioctls no filter list knows.
DevicePolicy=closed
DeviceAllow=char-nvidia rw
DeviceAllow=char-nvidia-uvm rw
DeviceAllow=char-nvidia-caps rw
DeviceAllow=char-nvidia-frontend rw
DeviceAllow=/dev/nvidiactl rw
""",
    "vulkan": """\
# The render nodes and the NVIDIA devices, no others.
DevicePolicy=closed
DeviceAllow=char-drm rw
DeviceAllow=char-nvidia rw
SupplementaryGroups=render video
""",
    "hip": """\
# The AMD compute device and the render nodes, no others.
DevicePolicy=closed
DeviceAllow=char-drm rw
DeviceAllow=/dev/kfd rw
SupplementaryGroups=render video
""",
}


def api_key_credential(model: Model) -> str | None:
    """Where the model's unit finds its API key file, handed over by systemd; None where it has none."""
    if model.serve.api_key_file is None:
        return None
    return f"/run/credentials/{layout.unit_name(model.name)}/api-key"


def load_timeout(model: Model, model_bytes: int) -> int:
    """Seconds a load may take: as declared, else two minutes and what a hard disk of 100 MB/s needs for the files.

    :param model_bytes: of all files of the model
    """
    return model.serve.load_timeout_s or 120 + math.ceil(model_bytes / 100e6)


def unit_text(
    model: Model,
    build: Build,
    release: str,
    arguments: Sequence[str],
    peers: Sequence[str],
    model_bytes: int,
    pinned: bool = False,
) -> str:
    """The whole unit file.

    :param release: directory of the release that serves
    :param arguments: llama-server's arguments for that release
    :param peers: units that must not run beside this one
    :param model_bytes: of all files of the model
    :param pinned: whether it loads weights into pinned memory (tasks/planning/pinned_weights.py)
    """
    serve = model.serve
    earlier = [peer for peer in peers if peer < layout.unit_name(model.name)]
    lines = [
        f"# {model.name}: {model.repo}. Written by llamarig; a later deploy puts edits back.",
        "[Unit]",
        f"Description=llama.cpp server for {model.name}",
        "After=network.target",
        *(_AFTER_DEVICES if build.backend == "cuda" else ()),
        *([f"Conflicts={' '.join(peers)}"] if peers else []),
        # With an order between two units systemd stops the one before it starts the other. One direction a pair.
        *([f"After={' '.join(earlier)}"] if earlier else []),
        f"# {_STARTS} starts in the time of {_STARTS} loads are not going to heal: stay down and say so. By hand:",
        f"# systemctl reset-failed {layout.unit_name(model.name)}",
        f"StartLimitIntervalSec={_STARTS * (load_timeout(model, model_bytes) + _RESTART_S)}",
        f"StartLimitBurst={_STARTS}",
        "",
        "[Service]",
        "Type=exec",
        f"User={layout.USER}",
        *(_WAIT_FOR_VRAM if build.backend == "cuda" and not isinstance(serve.placement, CpuOnly) else ()),
        f"ExecStart={_command_line([f'{release}/bin/llama-server', *arguments])}",
        *(f"Environment={environment(name, value)}" for name, value in unit_environment(model, build).items()),
        *(
            [f"LoadCredential=api-key:{serve.api_key_file}"]
            if serve.api_key_file is not None
            else ["# No API key: it listens on loopback alone."]
        ),
        *([f"CPUAffinity={serve.cpu_affinity}"] if serve.cpu_affinity is not None else []),
        *_limits(model, pinned),
        *_network(model),
        "Restart=on-failure",
        f"RestartSec={_RESTART_S}",
        "# Killed for memory it would be killed again: it stays down, failed, until its owner has made room.",
        "RestartPreventExitStatus=SIGKILL",
        "# SIGTERM ends its computing at once, but then it waits for clients whose answers never come to hang up.",
        "TimeoutStopSec=10",
        "",
        _HARDENING + (_CPU_ONLY if build.backend == "cpu" else _GPU[build.backend] + _ANY_GPU),
        "[Install]",
        "WantedBy=multi-user.target",
    ]
    return "\n".join(lines) + "\n"


def _command_line(words: Sequence[str]) -> str:
    """ExecStart's value with a flag a line, so that a unit can be read and two can be compared."""
    lines: list[list[str]] = [[]]
    for word in words:
        if word.startswith("--"):
            lines.append([])
        lines[-1].append(word)
    return " \\\n    ".join(exec_start(line) for line in lines)


def unit_environment(model: Model, build: Build) -> dict[str, str]:
    """The environment a model is served in."""
    ours = {
        # Where GPU libraries and llama.cpp look for caches; the service has no home.
        "HOME": "/tmp",
        # nvidia-smi counts by PCI bus, CUDA by speed unless told: one numbering for people and programs.
        **({"CUDA_DEVICE_ORDER": "PCI_BUS_ID"} if build.backend == "cuda" else {}),
        # Only these cards, in this order, whichever slots they are in: CUDA0 is the first.
        **({"CUDA_VISIBLE_DEVICES": ",".join(model.serve.gpus)} if model.serve.gpus else {}),
    }
    return ours | model.serve.environment


def _network(model: Model) -> list[str]:
    lines = [
        "# Its own port and no other.",
        "SocketBindDeny=any",
        f"SocketBindAllow=tcp:{model.serve.port}",
    ]
    if ipaddress.ip_address(model.serve.host).is_loopback:
        lines += [
            "# It serves this box alone, and has nobody else to talk to.",
            "IPAddressDeny=any",
            "IPAddressAllow=localhost",
        ]
    return lines


def _limits(model: Model, pinned: bool) -> list[str]:
    limits = []
    if model.serve.load_mode in ("mlock", "mmap+mlock"):
        limits += ["# Locking a model into RAM needs the right to lock it all.", "LimitMEMLOCK=infinity"]
    if model.serve.memory_max_mib is not None:
        limits += [
            "# More than planned is a leak: end this server, not the box.",
            f"MemoryMax={model.serve.memory_max_mib}M",
        ]
        limits += ["# Without this it would take the same again from the swap.", "MemorySwapMax=0"]
    elif pinned:
        limits += [
            "# Weights that the driver would not pin are ordinary memory, without a word: keep them out of the swap.",
            "MemorySwapMax=0",
        ]
    if model.serve.priority > 0:
        limits += ["# --prio asks for real-time scheduling.", "LimitRTPRIO=90", "LimitNICE=-20"]
    else:
        limits += ["# No real-time scheduling for a program that did not ask for it.", "RestrictRealtime=yes"]
    return limits
