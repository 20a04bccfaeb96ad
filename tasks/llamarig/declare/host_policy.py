"""The machine itself: swap, memory speed, driver, GPUs, reserves, and accepted findings."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import Field, field_validator

from llamarig.declare.base import Declaration, Form
from llamarig.declare.secrets import url_secret


class GpuCard(Declaration):
    """A GPU that the box should have. A property that is ``None`` is not checked."""

    name: str = Field(min_length=2)
    """Its name, or a part of it: RTX 4090."""
    uuid: str | None = None
    """As `nvidia-smi -L` prints it, for one particular card."""
    power_limit_w: float | None = Field(default=None, ge=30, le=1500)
    """The power limit it should have."""

    @field_validator("uuid")
    @classmethod
    def _whole(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"GPU(-[0-9a-f]+){5}", value):
            raise ValueError("not a whole UUID: write it as `nvidia-smi -L` prints it, from GPU- on")
        return value


class NvidiaDriver(Declaration):
    """The NVIDIA kernel driver from the distribution's packages, without the parts that only a desktop needs."""

    series: Annotated[str | None, Form("three digits, or these and -server", "580-server")] = Field(
        default=None, pattern=r"^\d{3}(-server)?$"
    )
    """580, or 580-server: one of the series in Ubuntu; elsewhere, the series that must be available."""
    kernel_module: Literal["open", "proprietary"] = "open"
    """``open`` for RTX 20xx and newer (RTX 50xx need it), ``proprietary`` for GTX 10xx and older."""
    reboot: bool = False
    """Whether a deploy may reboot the box for the driver; if not, it asks for a reboot."""


class HostPolicy(Declaration):
    """Settings of the machine. A setting that is ``None`` stays as it is."""

    swappiness: int | None = Field(default=10, ge=0, le=200)
    """vm.swappiness; a low value keeps expert weights in RAM, 0 does not disable swap."""
    memory_reserve_mib: int = Field(default=4096, ge=0)
    """MiB of RAM that pinned weights, which cannot be swapped, leave to the system and other programs."""
    memory_mts: int | None = Field(default=None, ge=800, le=12800)
    """The RAM's rated speed in MT/s (its XMP/EXPO profile): DDR5-6000 is 6000."""
    nvidia_driver: NvidiaDriver | None = None
    """Install and hold the NVIDIA driver; if left out, a missing driver is only reported."""
    gpus: tuple[GpuCard, ...] = ()
    """The GPUs the box should have, NVIDIA's in nvidia-smi's order."""
    liveness_probe: bool = True
    """Every minute, restart a model server that answers /health but completes nothing."""
    keep_releases: int = Field(default=2, ge=0)
    """How many obsolete releases tasks/prune.py keeps, newest first."""
    disk_reserve_gib: float = Field(default=5, ge=0)
    """GiB a download must leave free on the model store."""
    python_mirror: str | None = None
    """Where a box whose python3 is older than 3.9 finds a copy of the releases of python-build-standalone (URL, or
    file:///directory on the box); None: GitHub."""
    accepted: dict[str, str] = Field(default={})
    """Accepted findings of tasks/audit.py: id of the check (or `id about`) -> the reason."""

    @field_validator("python_mirror")
    @classmethod
    def _a_url(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"(https?://|file:///)[^\s'\"]+[^\s'\"/]", value):
            raise ValueError("not a URL: write https://..., or file:///directory, without a slash at its end")
        if value is not None and (secret := url_secret(value)):
            raise ValueError(
                f"{secret} in a URL would be in command lines and messages: declare a mirror without it, or copy it"
                " to the box and declare file:///directory"
            )
        return value

    @field_validator("accepted")
    @classmethod
    def _with_a_reason(cls, value: dict[str, str]) -> dict[str, str]:
        for check, reason in value.items():
            if not re.match(r"[a-z]+\.[a-z-]+( .+)?$", check):
                raise ValueError(f"{check!r} is not a check: `--data list=1` of tasks/audit.py lists them")
            if len(reason.split()) < 2:
                raise ValueError(f"{check}: write the reason in a few words, for those who read it later")
        return value
