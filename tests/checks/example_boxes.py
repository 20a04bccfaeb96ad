"""Boxes for the tests of checks, made of the output of real boxes."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from llamarig.checks.base import Finding
from llamarig.checks.box import Box
from llamarig.checks.registry import CHECKS, findings
from llamarig.declare.rig import Rig
from llamarig.facts.gpus import Gpus, GpuState
from llamarig.facts.machine import Machine, MachineState
from llamarig.facts.ram import Ram, parse
from llamarig.facts.stray_settings import ServerProcess, Strays
from llamarig.records.model_lock import LockedFile, LockedModel

from tests.placement.planned_box import H200_UUID

DATA = Path(__file__).parents[1] / "facts/data"
BOX_A: dict[str, Any] = importlib.import_module("group_data.rtx4090_rtx5070ti").rig
BOX_B: dict[str, Any] = importlib.import_module("group_data.rtx4070").rig
REHEARSAL: dict[str, Any] = importlib.import_module("group_data.rehearsal").rig
H200_LINES = (DATA / "gpu/h200_two_idle.txt").read_text().splitlines()
UNIT_B = "llamarig-qwen3-coder-mxfp4.service"


def rig(data: dict[str, Any], **host: Any) -> Rig:
    return Rig.model_validate({**data, "host": {**data["host"], **host}})


def ram(name: str, *changed: tuple[str, str]) -> Ram:
    text = (DATA / "dmidecode" / name).read_text()
    for old, new in changed:
        assert old in text
        text = text.replace(old, new)
    return parse(text.splitlines())


def machine(*changed: tuple[str, str], name: str = "vm_debian12") -> Machine:
    """The output of this Debian 12 machine, with the texts replaced that differ on the box in question."""
    text = (DATA / "machine" / f"{name}.txt").read_text()
    for old, new in changed:
        assert old in text, old
        text = text.replace(old, new)
    return MachineState().process(text.splitlines())


def gpus(*changed: tuple[str, str]) -> GpuState:
    """The output of nvidia-smi for the first of two H200, with the texts replaced that differ on the box in
    question."""
    text = "\n".join(line for line in H200_LINES if not line.startswith("1, "))
    for old, new in changed:
        assert old in text, old
        text = text.replace(old, new)
    return Gpus().process(text.splitlines())


def packages(*wished: str, rules: str = "") -> tuple[str, str]:
    """The driver's packages as dpkg lists them.

    :param wished: for each package: what is wanted for it, and its name
    :param rules: what else holds packages back
    """
    lines = "".join(f"installed {each} nvidia-graphics-drivers\n" for each in wished)
    return "== held\n", f"== driver-packages\n{lines}\n== held\n{rules}\n"


def served(**values: Any) -> Strays:
    return Strays(servers=(ServerProcess(pid=7, command=("/x/llama-server",), unit=UNIT_B, **values),))


# In the driver's passive mode this is the generic governor, which keeps the lowest clock.
GENERIC_POWERSAVE = ("== governors\n", "== governors\npowersave\n\n== scaling-drivers\nintel_cpufreq\n")
UPGRADES = ("== upgrades\nno", "== upgrades\nyes")
SWAPPINESS_0 = [
    ("== swappiness\n60", "== swappiness\n0"),
    ("== meminfo", "# /etc/sysctl.d/90-llamarig.conf\nvm.swappiness = 0\n== meminfo"),
]
TWELVE_CPUS = ("0,0,0\n1,1,0\n", "".join(f"{cpu},{cpu // 2 if cpu < 12 else cpu - 6},0\n" for cpu in range(16)))
H200 = {"gpus": [{"name": "H200", "uuid": H200_UUID, "power_limit_w": 700}]}
WORKS = ("0x0000000000000001", "0x0000000000000000")
MISMATCH = "Failed to initialize NVML: Driver/library version mismatch\nNVML library version: 580.159"
LARGE = LockedModel(
    repo="a/b", commit="0" * 40, shards=(LockedFile(path="m.gguf", size=40 * 1024**3, sha256="0" * 64),)
)
SMALL = LARGE.model_copy(update={"shards": (LARGE.shards[0].model_copy(update={"size": 1024**3}),)})
# The card of these outputs is not one of box A's.
B, A, R = rig(BOX_B), rig(BOX_A, gpus=()), rig(REHEARSAL)


def look(check: str, of: Rig, box: Box) -> list[Finding]:
    return findings([item for item in CHECKS if item.id == check], of, box)
