"""A dry run for pinned weights takes no GPU memory from what runs: then it waits."""

from __future__ import annotations

from pathlib import Path

import pytest
from pyinfra.api.operation import operation
from pyinfra.context import host

from tasks.operations import Commands, once
from tasks.operations.planning import measurable_now
from tasks.spec.rig import Rig
from tests.operations.fake_run import run_of
from tests.planning.cuda_rig import rig

DATA = Path(__file__).parents[1] / "facts/data"
CARD = "GPU-abb3f99e-7dc8-fb04-7f9d-6c963a49df37"
H200 = (DATA / "gpu/h200_two_idle.txt").read_text()
OURS = f"MemAvailable: 60000000 kB\npid 812\n812, {CARD}, 9999"
NOBODY = "MemAvailable: 60000000 kB"
FIT = {"placement": {"kind": "fit"}}


@operation()
def measured_names(rig: Rig) -> Commands:
    host.log(f"now: {[model.name for model in measurable_now(rig, list(rig.models))]}")
    yield from ()


def now(of: Rig, held: str, free_mib: int, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(once, "_READ", {})
    caplog.clear()
    caplog.set_level("INFO", logger="pyinfra")
    gpus = H200.replace("143771, 143156", f"143771, {free_mib}", 1)
    with run_of((measured_names, {"rig": of}), responses={"MemAvailable": held, "--query-gpu": gpus}):
        return next(record.getMessage() for record in reversed(caplog.records) if "now: " in record.getMessage())


@pytest.mark.parametrize(
    ("held", "free_mib", "names"),
    [
        (NOBODY, 143156, "['m0', 'm1']"),
        (OURS, 143156, "['m0']"),  # llama.cpp's own fit would go by what the running model leaves
        (OURS, 1000, "[]"),
        (NOBODY, 1000, "[]"),  # whoever holds it
    ],
)
def test_what_is_measured_beside_what_runs(
    held: str, free_mib: int, names: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert now(rig({}, FIT), held, free_mib, caplog, monkeypatch).endswith(f"now: {names}")


def test_a_small_card_that_drives_a_display_is_not_waited_for(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(once, "_READ", {})
    caplog.set_level("INFO", logger="pyinfra")
    gpus = H200.replace("143771, 143156", "1024, 300", 1)
    with run_of((measured_names, {"rig": rig({})}), responses={"MemAvailable": NOBODY, "--query-gpu": gpus}):
        assert any("now: ['m0']" in record.getMessage() for record in caplog.records)


def test_simulated_cards_are_never_in_use(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    cards = [{"name": "RTX 5090", "total_mib": 32607, "free_mib": 32000}]
    simulated = rig({}, FIT, simulated_gpus=cards)
    assert now(simulated, OURS, 1000, caplog, monkeypatch).endswith("now: ['m0', 'm1']")
