"""A box's facts, as the checks see them. Plain data: facts fill it, checks read it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tasks.planning.difference import Difference
from tasks.planning.gpus import GpuState, Version
from tasks.planning.ram.modules import Ram
from tasks.spec.model_lock import LockedModel
from tasks.spec.plan_file import Plan

if TYPE_CHECKING:
    from tasks.planning.checks.base import Check


@dataclass(frozen=True)
class ServerProcess:
    """A running llama-server. Memory in KiB; ``listens``: address:port pairs; ``unit``: its systemd unit, if any."""

    pid: int
    command: tuple[str, ...] = ()
    unit: str = ""
    llama_environment: tuple[str, ...] = ()
    listens: tuple[str, ...] = ()
    locked_kib: int = 0
    swapped_kib: int = 0
    shared_kib: int = 0
    """Shared memory, as the kernel counts CUDA's pinned buffers."""
    memlock_limit_kib: int | None = None
    """None: unlimited, or not told."""


@dataclass(frozen=True)
class Machine:
    """The machine itself. Memory in KiB, disk in bytes; None where the box does not tell."""

    virtualization: str = ""
    swappiness: int | None = None
    swappiness_at_boot: int | None = None
    swappiness_file: str = ""
    total_kib: int | None = None
    available_kib: int | None = None
    swap_used_kib: int | None = None
    swap_devices: tuple[str, ...] = ()
    huge_pages: str = ""
    """Of /sys/kernel/mm/transparent_hugepage/enabled: always, madvise or never."""
    cpu_model: str = ""
    cpus_online: frozenset[int] = frozenset()
    cores: int = 0
    governors: tuple[str, ...] = ()
    scaling_drivers: tuple[str, ...] = ()
    """Of cpufreq: intel_pstate, intel_cpufreq, amd-pstate-epp, acpi-cpufreq."""
    energy_preferences: tuple[str, ...] = ()
    oom_killed_units: tuple[str, ...] = ()
    oom_kills: int | None = None
    """Programs the kernel killed for want of memory since boot."""
    filesystem: str = ""
    disk_free: int | None = None
    unattended_upgrades: bool | None = None
    """Whether the distribution upgrades packages by itself; None where that cannot be told."""
    driver_packaged: bool = False
    """Whether NVIDIA's driver came with packages of the distribution's kind; one of a .run file no upgrade touches."""
    driver_held: bool = False
    """Whether the GPU driver's packages are held back from such upgrades."""

    @property
    def is_container(self) -> bool:
        """Whether it shares the kernel of a host, so that the kernel's settings and counters are not its own."""
        return self.virtualization in ("systemd-nspawn", "docker", "podman", "lxc", "lxc-libvirt", "openvz", "wsl")


@dataclass(frozen=True)
class Strays:
    """What reaches llama.cpp behind the declared flags. ``environment``: name=file it is set in."""

    config_files: tuple[str, ...] = ()
    environment: tuple[str, ...] = ()
    servers: tuple[ServerProcess, ...] = ()
    unseen: str = ""
    """Why servers of other users may run unseen, empty where none can."""
    ports_unseen: str = ""
    """Why it is not known where a server listens, empty where it is."""


@dataclass(frozen=True)
class RamUser:
    """A process and its RAM in KiB. ``own_kib``: what there is again when it ends; ``mapped_kib``: of files."""

    pid: int
    name: str
    own_kib: int = 0
    mapped_kib: int = 0
    locked_kib: int = 0

    @property
    def gives_back_kib(self) -> int:
        """What its end makes available: its own, and the pages of files that it keeps from being dropped."""
        return self.own_kib + min(self.locked_kib, self.mapped_kib)


@dataclass(frozen=True)
class RamUsers:
    """Who holds the RAM. ``told``: whether the box said it. ``units``: running unit of ours -> its process, if seen.

    ``others``: processes that hold much. ``unclaimed_kib``: what neither a process nor the kernel is charged with.
    """

    told: bool = False
    units: Mapping[str, RamUser | None] = field(default_factory=dict)
    others: tuple[RamUser, ...] = ()
    unclaimed_kib: int = 0


@dataclass(frozen=True)
class Box:
    """Everything an audit reads. ``differences``: check id -> what deploy.py itself found of that kind.

    ``operations``: deploy.py's operations that would change this box, with the checks whose findings they close.
    ``refusals``: of these, those that would refuse to, with their reason.
    """

    ram: Ram = field(default_factory=Ram)
    machine: Machine = field(default_factory=Machine)
    gpus: GpuState = field(default_factory=GpuState)
    toolkits: Mapping[str, Version] = field(default_factory=dict)
    """Path -> version of the CUDA toolkits that builds declare by path."""
    strays: Strays = field(default_factory=Strays)
    ram_users: RamUsers = field(default_factory=RamUsers)
    locked: tuple[LockedModel, ...] = ()
    differences: Mapping[str, list[Difference]] = field(default_factory=dict)
    operations: Mapping[str, tuple[type[Check], ...]] = field(default_factory=dict)
    refusals: Mapping[str, str] = field(default_factory=dict)
    plans: Mapping[str, Plan] = field(default_factory=dict)
    """Model -> its plan, of the models that a plan places and that have one."""
    unread: Mapping[str, str] = field(default_factory=dict)
    """Check id -> why the plan file cannot be read, for the one check that tells it."""
    pinned_mib: Mapping[str, int] = field(default_factory=dict)
    """Unit -> MiB of weights that its server should hold in pinned memory."""
    vram_held_mib: Mapping[str, int] = field(default_factory=dict)
    """UUID -> what our own servers hold of that card now, as far as the driver tells."""
    asked: frozenset[str] = frozenset()
    """Ids of the checks whose measurement was asked for."""
    read_mb_s: float | None = None
    """Measured read speed of the model store, where it was asked for."""
    copy_gb_s: float | None = None
    """Measured memory bandwidth, where it was asked for."""

    @property
    def measured(self) -> dict[str, str]:
        """Check id -> what was measured for it, in words. A report tells it whether or not it is a finding."""
        told = {}
        if self.copy_gb_s is not None:
            told["memory.bandwidth"] = f"{self.copy_gb_s:.1f} GB/s"
        if self.read_mb_s is not None:
            told["disk.read-speed"] = f"{self.read_mb_s:.0f} MB/s"
        return told
