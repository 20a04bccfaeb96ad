"""The sandbox of a process that parses untrusted bytes: what it sees, reaches, and may ask of the kernel.

The unit of a model and the dry runs of its plan have the same, so what a dry run could read and use, the server can.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence

from llamarig.declare.build import Build
from llamarig.declare.front import Front
from llamarig.declare.serve import Serve
from llamarig.declare.serve.endpoint import PRIVATE_NETWORKS
from llamarig.render import layout
from llamarig.render.escaping import path_list
from llamarig.render.release import cuda_root

_SYSTEM = (
    # Programs and libraries of the distribution.
    "/usr",
    # Links into /usr, or directories of their own where a distribution has not merged them.
    *("-/bin", "-/sbin", "-/lib", "-/lib32", "-/lib64"),
    # Where the loader finds libraries. Debian chooses libcuda.so.1 and libblas.so.3 by links in /etc/alternatives.
    *("-/etc/ld.so.cache", "-/etc/alternatives"),
    # Chat templates may ask for today's date.
    "-/etc/localtime",
)
_HELPERS = (f"-{layout.PROGRAMS}", f"-{layout.BIN}", f"-{layout.CPYTHON}")
"""Our programs that run before the server, and their Python. What is missing is reported by what needs it."""
_OF_BACKEND = {
    "cpu": (),
    "cuda": (),
    # Drivers that the owner configured; the distribution's are listed in /usr/share/vulkan.
    "vulkan": ("-/etc/vulkan",),
    # AMD's own packages install into /opt/rocm-VERSION, which ld.so.cache names.
    "hip": ("-/opt",),
}
_OWN = ("/tmp", "/var/tmp", "/dev", "/proc", "/sys")
"""What systemd mounts into the empty root."""

_HARDENING = """\
NoNewPrivileges=yes
# No capabilities (a port below 1024 would need one).
CapabilityBoundingSet=
AmbientCapabilities=
ProtectSystem=strict
ProtectHome=yes
# Mounts stay its own: no other service's file system changes with it.
PrivateMounts=yes
# The only place to write to: a /tmp of its own, gone when it ends.
PrivateTmp=yes
ProtectKernelTunables=yes
ProtectKernelModules=yes
ProtectKernelLogs=yes
ProtectControlGroups=yes
ProtectClock=yes
ProtectHostname=yes
# Hide other users' processes. Not ProcSubset=pid: llama.cpp reads /proc/meminfo.
ProtectProc=invisible
RestrictNamespaces=yes
RestrictSUIDSGID=yes
RemoveIPC=yes
LockPersonality=yes
SystemCallArchitectures=native
# Files are created for the service user alone.
UMask=0077"""

_CPU_ONLY = """\
# HTTP over IP, and no other sockets.
RestrictAddressFamilies=AF_INET AF_INET6
# No devices except /dev/null and similar.
PrivateDevices=yes
# ggml does not generate code at run time.
MemoryDenyWriteExecute=yes
SystemCallFilter=@system-service
SystemCallFilter=~@privileged @resources @debug
# Needed for thread placement and memory locking.
SystemCallFilter=sched_setaffinity sched_setscheduler setpriority mlock mlock2 munlock mbind set_mempolicy
SystemCallErrorNumber=EPERM"""

_ANY_GPU = """\
# GPU drivers use system calls outside @system-service, so only groups that no server uses are denied. All but the last
# three groups need capabilities that the service lacks anyway.
SystemCallFilter=~@clock @module @mount @raw-io @reboot @swap @debug @cpu-emulation @obsolete
SystemCallErrorNumber=EPERM"""

_GPU = {
    "cuda": """\
# HTTP over IP; NVIDIA's driver library also opens a netlink socket and one of AF_UNIX.
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX AF_NETLINK
# Only the NVIDIA devices. Not MemoryDenyWriteExecute=: CUDA works with it, but only one driver was tried.
DevicePolicy=closed
DeviceAllow=char-nvidia rw
DeviceAllow=char-nvidia-uvm rw
DeviceAllow=char-nvidia-caps rw
DeviceAllow=char-nvidia-frontend rw
DeviceAllow=/dev/nvidiactl rw""",
    "vulkan": """\
# HTTP over IP, and what Vulkan's drivers open.
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX
# Only the render nodes and the NVIDIA devices.
DevicePolicy=closed
DeviceAllow=char-drm rw
DeviceAllow=char-nvidia rw
DeviceAllow=char-nvidia-uvm rw
DeviceAllow=char-nvidia-frontend rw
SupplementaryGroups=render video""",
    "hip": """\
# HTTP over IP, and what ROCm opens.
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX
# Only the AMD compute device and the render nodes.
DevicePolicy=closed
DeviceAllow=char-drm rw
DeviceAllow=/dev/kfd rw
SupplementaryGroups=render video""",
}


def sandbox_lines(build: Build, release: str, files: Sequence[str]) -> list[str]:
    """Directives, with comments, for what a server sees and may do; its network is ``network_lines``.

    :param release: directory of the release that serves
    :param files: paths that it reads besides: the model's files, and those that the owner declares
    """
    needed = [*system_paths(build), f"-{release}", *_HELPERS]
    return [
        "# Sandbox: the server parses untrusted input. What it needs is bound into an empty root directory.",
        *view_lines(needed, files),
        *_HARDENING.splitlines(),
        *(_CPU_ONLY if build.backend == "cpu" else f"{_GPU[build.backend]}\n{_ANY_GPU}").splitlines(),
    ]


def reading_lines(files: Sequence[str]) -> list[str]:
    """Directives for our own programs that read files of strangers, which need no release and no device."""
    return [*view_lines([*_SYSTEM, *_HELPERS], files), *_HARDENING.splitlines(), *_CPU_ONLY.splitlines()]


def view_lines(needed: Sequence[str], files: Sequence[str]) -> list[str]:
    """Directives for a file system with nothing but these paths, read-only.

    :param needed: a path with a dash in front may be missing
    :param files: may all be missing; the program reports it in its own words
    """
    bound = [*needed, *(f"-{path}" for path in files)]
    tops = sorted(
        {f"/{path.lstrip('-').split('/')[1]}" for path in bound if path.lstrip("-").count("/") > 1} | {"/var"}
    )
    return [
        f"RootDirectory={layout.EMPTY_ROOT}",
        "MountAPIVFS=yes",
        # In memory, or the names of what is bound would stay in the empty directory, for every model to see.
        f"TemporaryFileSystem={' '.join(f'{top}:ro' for top in tops)}",
        f"BindReadOnlyPaths={path_list(needed)}",
        *(f"BindReadOnlyPaths={path_list([f'-{path}'])}" for path in files),
    ]


def system_paths(build: Build) -> list[str]:
    """What every program of a build reads of the box; a path with a dash in front may be missing."""
    return [*_SYSTEM, *_OF_BACKEND[build.backend], *_toolkit(build)]


def _toolkit(build: Build) -> list[str]:
    """The CUDA toolkit, whose libraries the release is linked with."""
    if build.backend != "cuda":
        return []
    root = cuda_root(build)
    if root.startswith(f"{layout.CUDA}/"):
        return [f"-{root.rpartition('/')[0]}"]  # the root is a link into the virtual environment beside it
    return [] if _is_below(root, ["/usr"]) else [f"-{root}"]


def unseen(build: Build, readable: Iterable[str], words: Iterable[str]) -> list[str]:
    """Those of the words that are absolute paths which a server does not see.

    :param readable: ``serve.readable_paths``
    """
    seen = [*(path.lstrip("-") for path in system_paths(build)), *readable, *_OWN]
    return [word for word in words if word.startswith("/") and not _is_below(word, seen)]


def _is_below(path: str, directories: Iterable[str]) -> bool:
    return any(path == directory or path.startswith(f"{directory.rstrip('/')}/") for directory in directories)


def network_lines(serve: Serve | Front) -> list[str]:
    """Directives, with comments, for the port that a server opens and the addresses that it exchanges packets with."""
    own_port = ["# No other port than its own.", "SocketBindDeny=any", f"SocketBindAllow=tcp:{serve.port}"]
    host = ipaddress.ip_address(serve.host)
    if host.is_loopback:
        local = ["# Only local clients; no outgoing connections.", "IPAddressDeny=any", "IPAddressAllow=localhost"]
        return [*own_port, *local]
    # The box's own questions to the server come from the address that they go to.
    own = () if host.is_unspecified else (serve.host,)
    clients = PRIVATE_NETWORKS if serve.clients is None else serve.clients
    return [
        *own_port,
        "# Only these clients (serve.clients) are answered, and nothing else is reached.",
        "IPAddressDeny=any",
        "IPAddressAllow=localhost",
        *([f"IPAddressAllow={' '.join((*own, *clients))}"] if own or clients else ()),
    ]
