"""Drift that no deploy fixes: each is exactly one finding, also with several at a time."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.box.audit_report import audit, failing
from tests.box.deployment import Deployment

pytestmark = pytest.mark.box

STAND_IN = Path(__file__).with_name("nvidia_smi_stand_in.py")
PROGRAM = "/usr/local/bin/nvidia-smi"
STORE = "/var/lib/llamarig/models"
_FIRST_SHARD = "sed -n 's/.*--model \\([^ ]*\\)00001-of-00003[.]gguf.*/\\1/p' /etc/systemd/system/llamarig-tiny.service"
SHARD = f"$({_FIRST_SHARD})00002-of-00003.gguf"
FIRST, SECOND = "NVIDIA H200 (00000000:00:06.0)", "NVIDIA H200 (00000000:00:07.0)"
FREE, WIDTH, DISPLAY, THROTTLED, ECC = "4", "10", "17", "19", "20"
"""Columns of the nvidia-smi query in tasks/llamarig/facts/gpus.py."""
MISMATCH = "Failed to initialize NVML: Driver/library version mismatch\nNVML library version: 580.159"


def test_a_deep_audit_finds_a_changed_byte(deployment: Deployment, tmp_path: Path) -> None:
    change = (
        f"f={SHARD}; touch -r $f /run/shard-stamp; tail -c 1 $f >/run/shard-byte; "
        "tail -c 1 $f | tr '\\000-\\377' '\\001-\\377\\000' | "
        "dd of=$f bs=1 conv=notrunc status=none seek=$(($(stat -c %s $f) - 1)); touch -r /run/shard-stamp $f"
    )
    undo = (
        f"f={SHARD}; dd if=/run/shard-byte of=$f bs=1 conv=notrunc status=none seek=$(($(stat -c %s $f) - 1)); "
        "touch -r /run/shard-stamp $f"
    )
    deployment.shell(change)
    try:
        outcome, host = audit(deployment, tmp_path / "report.json", "deep=1")
    finally:
        deployment.shell(undo)
    found = [("llama.model-files", "model file Tiny-Qwen3-Next-F16-00002-of-00003.gguf")]
    assert failing(host) == found, str(outcome)
    assert audit(deployment, tmp_path / "report.json", "deep=1")[0].code == 0


def test_five_drifts_are_five_findings(variant: Deployment, tmp_path: Path) -> None:
    """The model lock is unreadable, so model files are not checked and the hidden store adds no finding for them."""
    serve = variant.rig["models"][0]["serve"]
    serve["threads"], serve["cpu_affinity"], serve["load_mode"] = 4096, "0,4095", "mlock"
    Path(variant.rig["model_lock"]).write_text("{")
    # Run as the server's user, because root in a CI sandbox may lack the right to change limits of other users.
    limit = "runuser -u llamarig -- prlimit --pid $(systemctl show llamarig-tiny -P MainPID) --memlock"
    soft = variant.shell(f"{limit} --output SOFT --noheadings --raw")
    variant.shell(f"{limit}=8192: && mount -t tmpfs -o size=4g,mode=755 tmpfs {STORE}")
    try:
        outcome, host = audit(variant, tmp_path / "report.json")
    finally:
        variant.shell(f"umount {STORE}; {limit}={soft}:")
    assert sorted(failing(host)) == [
        ("cpu.affinity", "tiny"),
        ("cpu.threads", "tiny"),
        ("disk.filesystem", ""),
        ("llama.model-lock", variant.rig["model_lock"]),
        ("memory.locked", "llamarig-tiny.service"),
    ], str(outcome)


@pytest.fixture
def cards(variant: Deployment) -> Iterator[Deployment]:
    """A box with two simulated H200 as declared, and a model that is declared to run on them."""
    build, serve = variant.rig["builds"][0], variant.rig["models"][0]["serve"]
    build |= {"backend": "cuda", "cuda_toolkit": "13.0", "architectures": ["90-real"]}
    serve["placement"] = {"kind": "fit"}
    variant.rig["host"]["gpus"] = [{"name": "H200"}, {"name": "H200"}]
    variant.write(PROGRAM, STAND_IN.read_text())
    variant.shell(f"chmod 755 {PROGRAM}; systemctl stop llamarig-tiny")
    yield variant
    variant.shell(f"rm -f {PROGRAM} /run/cards-drift.json; systemctl start llamarig-tiny")


@pytest.mark.parametrize(
    ("drift", "found"),
    [
        ({}, []),
        (
            {"0": {DISPLAY: "Enabled", THROTTLED: "0x0000000000000040"}, "1": {WIDTH: "8", ECC: "3", FREE: "90000"}},
            [
                ("gpu.display", FIRST),
                ("gpu.ecc", SECOND),
                ("gpu.memory", SECOND),
                ("gpu.pcie", SECOND),
                ("gpu.throttle", FIRST),
            ],
        ),
        ({"1": None}, [("gpu.cards", "")]),
        (MISMATCH, [("gpu.driver", "")]),
    ],
    ids=["none", "five at once", "a card is gone", "the driver was upgraded"],
)
def test_each_drift_of_a_card_is_one_finding(
    cards: Deployment, tmp_path: Path, drift: Any, found: list[tuple[str, str]]
) -> None:
    cards.write("/run/cards-drift.json", json.dumps(drift))
    if drift == MISMATCH:
        cards.rig["host"]["gpus"] = []
    outcome, host = audit(cards, tmp_path / "report.json", "only=gpu")
    # A container does not show its kernel's messages; tests/vm/test_kernel.py has them.
    findings = [item for item in host["findings"] if item["check"] != "gpu.errors"]
    assert sorted((item["check"], item["about"]) for item in findings) == found, str(outcome)
    assert [item["fails"] for item in findings if item["check"] == "gpu.display"] in ([], [False]), "only a note"
