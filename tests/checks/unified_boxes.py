"""A box with AMD's Strix Halo, whose graphics share the RAM, as owners report it (nix-amd-ai #42)."""

from __future__ import annotations

import importlib
from typing import Any

from llamarig.facts.gpus import Gpus, GpuState

from tests.checks.example_boxes import rig

_BOX_D: dict[str, Any] = importlib.import_module("group_data.rx7900xt").rig
_MODEL: dict[str, Any] = _BOX_D["models"][0]
STRIX_HALO = rig(
    {**_BOX_D, "models": [{**_MODEL, "serve": {**_MODEL["serve"], "placement": {"kind": "all-on-gpu"}}}]}, gpus=()
)


def strix(*, vram_mib: int = 512, gtt_mib: int = 98304) -> GpuState:
    """The graphics, with what the firmware has set aside and the kernel allows besides."""
    link = "16.0 GT/s PCIe|16.0 GT/s PCIe|16.0 GT/s PCIe|16|16|16|0|0|120000000|120000000"
    line = f"0000:c3:00.0|AMD Radeon 8060S|{vram_mib << 20}|209715200|{link}|{gtt_mib << 20}|3"
    return Gpus().process(["== nvidia", "none", "== amd", line])
