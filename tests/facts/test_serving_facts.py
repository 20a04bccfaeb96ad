"""What a box prints about its capacity, its model headers and its unit files, and what is made of it."""

from __future__ import annotations

import base64
import json
import platform
import subprocess

from tasks.facts.capacity import Capacity
from tasks.facts.model_headers import ModelHeaders
from tasks.facts.unit_files import UnitFile, UnitFiles
from tasks.planning.box import Box
from tasks.planning.gguf_header import Header, Tensor

MEMORY = "MemTotal:       65742180 kB"
UUIDS = ("GPU-11111111-2222-3333-4444-555555555555", "GPU-aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee")
# /proc/driver/nvidia/gpus/*/information, as its driver writes it.
GPU = ["Model: \t\t NVIDIA GeForce RTX 4090", "IRQ:   \t\t 148", "GPU UUID: \t {uuid}", "Video BIOS: \t 95.02.3c.00.8d"]


def gpu(uuid: str) -> list[str]:
    return [line.format(uuid=uuid) for line in GPU]


def test_capacity() -> None:
    output = [MEMORY, "kernel 6.12.57-1-cachyos", "cpus 0-15", "driver", *gpu(UUIDS[0]), *gpu(UUIDS[1])]
    expected = Box(65742180 * 1024, frozenset(range(16)), frozenset(UUIDS), kernel="6.12.57-1-cachyos")
    assert Capacity().process(output) == expected


def test_capacity_of_this_machine() -> None:
    """Its command, run where the tests run."""
    output = subprocess.run(["sh", "-c", Capacity().command()], capture_output=True, text=True, check=True).stdout
    box = Capacity().process(output.splitlines())
    assert box.kernel == platform.release()
    assert box.ram > 0


def test_capacity_without_a_driver() -> None:
    assert Capacity().process([MEMORY, "cpus 0,2"]) == Box(65742180 * 1024, frozenset({0, 2}), None)


def test_a_driver_that_does_not_tell_its_uuids_yet_is_not_believed() -> None:
    output = [MEMORY, "cpus 0", "driver", *gpu("GPU-????????-????-????-????-????????????")]
    assert Capacity().process(output).gpus is None


def test_capacity_of_a_box_that_says_nothing() -> None:
    assert Capacity().process([]) == Box()


def test_headers_are_read_back() -> None:
    own = {"metadata": {"general.alignment": 32}, "length": 96, "sha256": "0" * 64}
    line = json.dumps({"path": "/m.gguf", "tensors": [["t", [2, 3], "F32", 24]], **own})
    wrong = json.dumps({"path": "/x.gguf", "error": "does not begin with GGUF"})
    expected = Header((Tensor("t", (2, 3), "F32", 24),), {"general.alignment": 32}, 96, "0" * 64)
    assert ModelHeaders().process(["noise", line, wrong]) == {"/m.gguf": expected}


def test_unit_files() -> None:
    text = "[Unit]\nDescription=x\n"
    output = [
        "unit=a.timer",
        f"text={base64.b64encode(text.encode()).decode()}",
        "ActiveState=active",
        "UnitFileState=enabled",
        "NeedDaemonReload=yes",
        "unit=b.service",
        "ActiveState=inactive",
        "UnitFileState=",
        "NeedDaemonReload=no",
    ]
    assert UnitFiles().process(output) == {"a.timer": UnitFile(text, True, True, True), "b.service": UnitFile()}
