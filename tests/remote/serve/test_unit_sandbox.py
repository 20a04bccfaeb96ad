"""The sandbox of a unit as systemd-run takes it, and a switch whose server would see no GPU in it.

Scripts stand in for systemd-run and for a llama-server with a GPU, because tests have neither.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from llamarig.declare.build import Build
from llamarig.remote.serve.unit_sandbox import character_drivers, closed_devices, sandbox_properties
from llamarig.render.sandbox import sandbox_lines

from tests.remote.serve.switched_box import UNIT, SwitchedBox

CUDA = Build(name="b", backend="cuda", architectures=("89-real",), cuda_toolkit="13.5")
SERVICE = "[Service]\nUser=llamarig\nExecStart=/r/bin/llama-server\nRestart=on-failure\nLoadCredential=api-key:/k\n"
TEXT = SERVICE + "\n".join(sandbox_lines(CUDA, "/opt/r", ["/srv/m.gguf"]))
LISTS_A_GPU = "printf 'Available devices:\\n  CUDA0: RTX 4090 (24080 MiB, 23671 MiB free)\\n'"


# As driver 580.159.04 lists them on an H200, with another name for the driver of nvidia-uvm.
DEVICES = """\
Character devices:
  4 tty
195 nvidia
195 nvidiactl
234 nvidia-new
241 nvidia-caps

Block devices:
259 blkext
"""


def test_the_whole_sandbox_and_nothing_else_is_taken_over() -> None:
    lines = [line for line in sandbox_lines(CUDA, "/opt/r", ["/srv/m.gguf"]) if not line.startswith("#")]
    assert sandbox_properties(TEXT) == ["User=llamarig", *lines]


def test_devices_that_a_unit_does_not_open(tmp_path: Path) -> None:
    try:
        for name, mode, minor in (
            ("nvidia0", 0o666, 0),
            ("nvidia1", 0o600, 1),
            ("nvidia-uvm", 0o666, 0),
            ("nvidia-cap1", 0o400, 1),
            ("tty9", 0, 9),
        ):
            major = {"nvidia-uvm": 234, "nvidia-cap1": 241, "tty9": 4}.get(name, 195)
            os.mknod(tmp_path / name, stat.S_IFCHR, os.makedev(major, minor))
            (tmp_path / name).chmod(mode)
    except PermissionError:
        pytest.skip("only root makes device nodes")
    (tmp_path / "nvidia-log").symlink_to("/nowhere")
    assert closed_devices(TEXT, tmp_path.iterdir(), character_drivers(DEVICES)) == [
        f"{tmp_path}/nvidia-uvm (char-nvidia-new is not in DeviceAllow=)",
        f"{tmp_path}/nvidia1 (mode 600)",
    ]


def switched(box: SwitchedBox, in_sandbox: str, text: str = "") -> str:
    """Switch a served unit to one that needs a GPU."""
    box.program("systemd-run", in_sandbox)
    box.program("llama-server", LISTS_A_GPU)
    box.serve(UNIT, "old")
    return box.switch(text or box.text("new"), needs_gpu=True, check=[str(box.root / "bin/llama-server")])


def test_a_gpu_that_only_root_sees_stops_nothing(box: SwitchedBox) -> None:
    ended = switched(box, "printf 'Available devices:\\n  (none)\\n'")
    assert ended.startswith(
        "failed: this build of llama-server sees a GPU as root, but none in the sandbox of its unit"
    )
    assert ended.endswith("nothing was changed")
    assert box.answers() == "old"


def with_device(box: SwitchedBox, mode: str) -> str:
    """A unit whose server has a file open that is called like a GPU's device."""
    (box.root / "nvidia0").touch()
    return box.text(mode, "--device-file", str(box.root / "nvidia0"))


def test_a_gpu_in_the_sandbox_lets_the_switch_begin(box: SwitchedBox) -> None:
    assert switched(box, LISTS_A_GPU, with_device(box, "new")).startswith("done: ")
    assert box.answers() == "new"


def test_a_server_whose_log_says_that_it_found_no_gpu_is_not_kept(box: SwitchedBox) -> None:
    ended = switched(box, LISTS_A_GPU, with_device(box, "without-gpu"))
    assert ended.startswith(
        f"failed: {UNIT} serves from the CPU, although its model is placed on a GPU (its log: warning: no usable GPU "
        "found, --gpu-layers option will be ignored): check the driver (nvidia-smi, vulkaninfo, rocminfo)"
    )
    assert box.answers() == "old"


def test_a_server_that_has_no_device_open_is_not_kept(box: SwitchedBox) -> None:
    ended = switched(box, LISTS_A_GPU, box.text("new"))
    assert "serves from the CPU, although its model is placed on a GPU (it has no device of a GPU open)" in ended
    assert box.answers() == "old"
