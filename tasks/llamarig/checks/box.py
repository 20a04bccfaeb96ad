"""The input of the checks: the facts of a box and the control machine's records, as plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from llamarig.engine.item import Difference
from llamarig.facts.cuda_toolkits import Version
from llamarig.facts.gpus import GpuState
from llamarig.facts.kernel_messages import KernelLog
from llamarig.facts.machine import Machine
from llamarig.facts.ram import Ram
from llamarig.facts.ram_users import RamUsers
from llamarig.facts.sandbox_support import Filtering
from llamarig.facts.stray_settings import Strays
from llamarig.records.model_lock import LockedModel
from llamarig.records.plan_file import Plan


@dataclass(frozen=True)
class Box:
    """Everything that checks read."""

    unproved: tuple[str, ...] = ()
    """Units of declared models that do not run, and whose file has never answered a prompt."""
    ram: Ram = field(default_factory=Ram)
    machine: Machine = field(default_factory=Machine)
    gpus: GpuState = field(default_factory=GpuState)
    kernel: KernelLog = field(default_factory=lambda: KernelLog(readable=True))
    toolkits: Mapping[str, Version] = field(default_factory=dict)
    """Path -> version of the CUDA toolkits that builds declare by path."""
    strays: Strays = field(default_factory=Strays)
    packet_filter: Filtering = ""
    """Whether IPAddressDeny= of units is applied."""
    systemd: int | None = None
    """Its version."""
    ram_users: RamUsers = field(default_factory=RamUsers)
    locked: tuple[LockedModel, ...] = ()
    differences: Mapping[str, list[Difference]] = field(default_factory=dict)
    """Item name -> its differences. Items whose needs differ are left out."""
    plans: Mapping[str, Plan] = field(default_factory=dict)
    """Model name -> its plan, of models that are placed by a plan."""
    plan_problem: str = ""
    """Why the plan file cannot be read; empty if it can."""
    selected: frozenset[str] = frozenset()
    """Ids of the checks that this audit runs."""
    pinned_mib: Mapping[str, int] = field(default_factory=dict)
    """Unit -> MiB of weights that its server should hold in pinned memory."""
    vram_held_mib: Mapping[str, int] = field(default_factory=dict)
    """UUID of a card -> MiB that our servers hold there now, as far as the driver reports it."""
    requested: frozenset[str] = frozenset()
    """Ids of the checks whose measurement was requested."""
    read_mb_s: float | None = None
    """Measured read speed of the model store, if it was requested."""
    copy_gb_s: float | None = None
    """Measured memory bandwidth, if it was requested."""

    @property
    def measured(self) -> dict[str, str]:
        """Check id -> its measurement with the unit. Reported also if there is no finding."""
        measured = {}
        if self.copy_gb_s is not None:
            measured["memory.bandwidth"] = f"{self.copy_gb_s:.1f} GB/s"
        if self.read_mb_s is not None:
            measured["disk.read-speed"] = f"{self.read_mb_s:.0f} MB/s"
        return measured
