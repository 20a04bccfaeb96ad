"""What a box itself should be: swap, memory speed, driver, GPUs, room kept free, and the findings its owner accepts."""

from __future__ import annotations

import re
from typing import Literal

from pydantic import Field, field_validator

from tasks.spec.base import Declaration


class GpuCard(Declaration):
    """A GPU the box should have. ``None`` leaves a property open."""

    name: str = Field(min_length=2, description="its name, or a part of it: RTX 4090")
    uuid: str | None = Field(default=None, description="as `nvidia-smi -L` prints it: this very card")
    power_limit_w: float | None = Field(default=None, ge=30, le=1500, description="the power limit it should have")

    @field_validator("uuid")
    @classmethod
    def _whole(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"GPU(-[0-9a-f]+){5}", value):
            raise ValueError("not a whole UUID: write it as `nvidia-smi -L` prints it, from GPU- on")
        return value


class NvidiaDriver(Declaration):
    """The NVIDIA kernel driver, from the distribution's own packages: what compute needs of it, and no desktop."""

    series: str | None = Field(
        default=None,
        pattern=r"^\d{3}(-server)?$",
        description="580, or 580-server: which of Ubuntu's several is wanted; elsewhere, what has to be on offer",
    )
    kernel_module: Literal["open", "proprietary"] = Field(
        default="open",
        description="open for RTX 20xx and newer (RTX 50xx know no other), proprietary for GTX 10xx and older",
    )
    reboot: bool = Field(
        default=False, description="whether a deploy may restart the box where the driver needs it; else it says so"
    )


class HostPolicy(Declaration):
    """Settings of the machine. ``None`` leaves a setting as the box has it."""

    swappiness: int | None = Field(
        default=10,
        ge=0,
        le=200,
        description="vm.swappiness; low keeps expert weights in RAM, 0 does not switch swap off",
    )
    memory_reserve_mib: int = Field(
        default=4096,
        ge=0,
        description="MiB of RAM that pinned weights leave to the system and its other programs: they cannot be swapped",
    )
    memory_mts: int | None = Field(
        default=None,
        ge=800,
        le=12800,
        description="the RAM's rated speed in MT/s (its XMP/EXPO profile): DDR5-6000 is 6000",
    )
    nvidia_driver: NvidiaDriver | None = Field(
        default=None, description="install and hold the NVIDIA driver; where left out, its absence is only told"
    )
    gpus: tuple[GpuCard, ...] = Field(
        default=(), description="the GPUs the box should have, NVIDIA's in nvidia-smi's order"
    )
    liveness_probe: bool = Field(
        default=True, description="every minute, restart a model server that answers /health but completes nothing"
    )
    keep_releases: int = Field(
        default=2, ge=0, description="how many releases no build makes any more tasks/prune.py keeps, the newest ones"
    )
    disk_reserve_gib: float = Field(default=5, ge=0, description="GiB a download must leave free on the model store")
    python_mirror: str | None = Field(
        default=None,
        description="where a box whose python3 is older than 3.9 finds a copy of the releases of "
        "python-build-standalone (URL, or file:///directory on the box); None: GitHub",
    )
    accepted: dict[str, str] = Field(
        default={},
        description="findings of tasks/audit.py to live with: check's id (or `id about`) -> the reason, for the reader",
    )

    @field_validator("python_mirror")
    @classmethod
    def _a_url(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"(https?://|file:///)[^\s'\"]+[^\s'\"/]", value):
            raise ValueError("not a URL: write https://..., or file:///directory, without a slash at its end")
        return value

    @field_validator("accepted")
    @classmethod
    def _with_a_reason(cls, value: dict[str, str]) -> dict[str, str]:
        for check, reason in value.items():
            if not re.match(r"[a-z]+\.[a-z-]+( .+)?$", check):
                raise ValueError(f"{check!r} is no check: `--data list=1` of tasks/audit.py lists them")
            if len(reason.split()) < 2:
                raise ValueError(f"{check}: say why in a few words: who reads it next year was not there")
        return value
