"""Measurements and plans: which models can be measured while servers run, and which plan files are refused."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from llamarig.declare.rig import Rig
from llamarig.engine.control_machine import ControlMachine
from llamarig.engine.item import Query, Seen, query
from llamarig.facts.gpus import Gpus
from llamarig.facts.plannable_devices import HeldByServers
from llamarig.facts.releases import Release, Releases
from llamarig.items.plan_maker import full_gpus
from llamarig.items.plans import Measurements, ReadablePlanFile, ValidPlans, measurable_now
from llamarig.items.releases import release_directories
from llamarig.placement.dry_run import DryRunError

from tests.items.converged_box import FLAGS, control_machine
from tests.placement.cuda_rig import rig
from tests.placement.planned_box import BY_PLAN, MODEL, planned

DATA = Path(__file__).parents[1] / "facts/data"
CARD = "GPU-abb3f99e-7dc8-fb04-7f9d-6c963a49df37"
H200 = (DATA / "gpu/h200_two_idle.txt").read_text()
OURS = f"MemAvailable: 60000000 kB\nMainPID=812\nId=llamarig-m.service\n\npid 812\n812, {CARD}, 9999"
NOTHING = "MemAvailable: 60000000 kB"
FIT = {"placement": {"kind": "fit"}}


def seen(held: str, gpus: str, here: ControlMachine | None = None) -> Seen:
    """Facts of a box by what their commands print."""
    values: Mapping[Query[Any], Any] = {
        query(HeldByServers): HeldByServers().process(held.splitlines()),
        query(Gpus): Gpus().process(gpus.splitlines()),
    }
    return Seen("box", here or ControlMachine(), values)


def now(of: Rig, held: str, memory: str) -> list[str]:
    """Models that can be measured beside what runs. ``memory``: total and free MiB of the first card."""
    gpus = H200.replace("143771, 143156", memory, 1)
    return [model.name for model in measurable_now(of, seen(held, gpus), list(of.models))]


@pytest.mark.parametrize(
    ("held", "free_mib", "names"),
    [
        (NOTHING, 143156, ["m0", "m1"]),
        (OURS, 143156, ["m0"]),  # llama.cpp's own fit would go by what the running model leaves
        (OURS, 1000, []),
        (NOTHING, 1000, []),  # another program holds it
    ],
)
def test_which_models_can_be_measured_while_servers_run(held: str, free_mib: int, names: list[str]) -> None:
    assert now(rig({}, FIT), held, f"143771, {free_mib}") == names


def test_a_small_card_that_drives_a_display_is_not_waited_for() -> None:
    assert now(rig({}), NOTHING, "1024, 300") == ["m0"]


def test_simulated_cards_are_never_in_use() -> None:
    cards = [{"name": "RTX 5090", "total_mib": 32607, "free_mib": 32000}]
    assert now(rig({}, FIT, simulated_gpus=cards), OURS, "143771, 1000") == ["m0", "m1"]


def test_a_box_that_plans_and_measures_nothing_is_not_read() -> None:
    of = rig({}, backend="cpu")
    assert list(ValidPlans().queries(of, ControlMachine())) == []
    assert list(Measurements().queries(of, ControlMachine())) == []


def test_a_plan_file_that_cannot_be_read_is_its_owners_to_restore() -> None:
    here = ControlMachine(plan_problem="plans.json is not a valid plan file: restore it from git")
    (difference,) = ReadablePlanFile().differences(BY_PLAN, Seen("box", here, {}))
    assert difference.refusal == "plans.json is not a valid plan file: restore it from git"
    assert not difference.by_deploy
    for item in (ValidPlans(), Measurements()):
        assert item.differences(BY_PLAN, Seen("box", here, {})) == [], "reported once"
    # Also of a box without plans: the file may hold tuned settings that were accepted.
    assert ReadablePlanFile().differences(rig({}, backend="cpu"), Seen("box", here, {})) == [difference]


def test_a_missing_plan_is_made_by_a_deploy() -> None:
    item = ValidPlans()
    here = ControlMachine()
    values = {one: one.fact().default() for one in item.queries(BY_PLAN, here)}
    (difference,) = item.differences(BY_PLAN, Seen("box", here, values))
    assert difference.what == f"plan of {MODEL}"
    assert difference.by_deploy


@pytest.mark.parametrize(
    ("release", "words"),
    [
        (Release({"files": {}, "flags": sorted(FLAGS)}), "has no llama-fit-params"),
        (
            Release({"files": {}, "flags": ["--model"]}, {"llama-fit-params": 1}),
            "which this build of llama-server does not have",
        ),
    ],
)
def test_a_release_that_can_make_no_plan_is_known_before_a_deploy_starts(release: Release, words: str) -> None:
    item, here = ValidPlans(), control_machine(BY_PLAN)
    values = {one: one.fact().default() for one in item.queries(BY_PLAN, here)}
    directories = release_directories(BY_PLAN)
    values[query(Releases, directories=directories)] = dict.fromkeys(directories, release)
    (refused,) = item.differences(BY_PLAN, Seen("box", here, values))
    assert not refused.by_deploy
    assert words in refused.refusal


def test_a_plan_of_a_model_whose_release_is_missing_is_not_compared() -> None:
    item, here = ValidPlans(), ControlMachine(plans={MODEL: planned()})
    values = {one: one.fact().default() for one in item.queries(BY_PLAN, here)}
    assert item.differences(BY_PLAN, Seen("box", here, values)) == []


def test_a_dry_run_on_a_full_card_names_what_to_stop() -> None:
    """The errors of a dry run on an H200 beside the server of the same plan."""
    failed = "ggml_backend_cuda_device_get_memory: cudaMemGetInfo failed (out of memory), returning 0/0"
    error = DryRunError(f"llama-fit-params with model 'm' printed no prediction of its memory: {failed}")
    found = full_gpus(error, HeldByServers().process(OURS.splitlines()))
    assert found is not None
    assert "`systemctl stop llamarig-m.service`) and run this again" in found
    assert "nvidia-smi" in (full_gpus(error, HeldByServers().process([NOTHING])) or "")
    assert full_gpus(DryRunError("error loading model"), HeldByServers().process(OURS.splitlines())) is None
