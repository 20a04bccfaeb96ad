"""The start plan of a switch, and the proposal of a start that had to take a step down."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace

import pytest
from llamarig.declare.placement import Layers
from llamarig.declare.rig import Rig
from llamarig.facts.start_records import BackOffs, RecordedBackOff
from llamarig.items.start_plan import proposal_line, start_plan, with_back_off
from llamarig.items.unit_differences import switch_job
from llamarig.items.wanted_unit import Wanted, wanted_unit
from llamarig.placement.steps_down import effective_placement
from llamarig.records.plan_file import DeviceMemory, Plan, PlanInputs, PlannedDevice, RamBudget
from llamarig.remote.shared.jobs import BackOff
from llamarig.remote.shared.unit_directives import directives_sha256
from llamarig.render.server_arguments import ModelFiles

from tests.placement.example_models import moe
from tests.render.golden_units import PINNED, rigs

PLACEMENT = Layers(gpu=(12, 6), split=(31, 18))
SMALLER = Layers(gpu=(11, 6), split=(31, 18))


def plan() -> Plan:
    names = ("CUDA0", "CUDA1")
    return Plan(
        belongs=PlanInputs(
            header="0" * 64,
            devices=tuple(PlannedDevice(name=name, description="x", total_mib=24564, free_mib=23671) for name in names),
            margins_mib=(384, 1024),
            others_mib=(900, 0),
            flags=(),
            release="x",
        ),
        placement=PLACEMENT,
        context=262144,
        ubatch=2048,
        cache_type_k="q8_0",
        cache_type_v="q8_0",
        memory=(
            DeviceMemory(name="CUDA0", model_mib=19309, context_mib=2226, compute_mib=1744),
            DeviceMemory(name="CUDA1", model_mib=9242, context_mib=1113, compute_mib=1744),
            DeviceMemory(name="Host", model_mib=37871, context_mib=0, compute_mib=1056),
        ),
        ram=RamBudget(weights_mib=0, buffers_mib=0, cache_mib=0, checkpoints_mib=0, reserve_mib=0, available_mib=0),
    )


def rig() -> Rig:
    return rigs()["rtx4090_rtx5070ti"]


def rendered(placement: Layers) -> Wanted:
    declared = rig()
    model = declared.models[0]
    model = model.model_copy(update={"serve": model.serve.model_copy(update={"placement": placement})})
    return wanted_unit(
        declared,
        model,
        release="/opt/llamarig/llama.cpp/x",
        flags=PINNED,
        files=ModelFiles("/m.gguf"),
        inputs="",
        model_bytes=64 << 30,
        running=True,
    )


def test_the_description_of_a_planned_start() -> None:
    described = start_plan(plan(), moe(48), rendered)
    assert described.predicted_mib == {"CUDA0": 23279, "CUDA1": 12099}
    assert described.margins_mib == {"CUDA0": 1284, "CUDA1": 1024}, "what is loaded after the model has to fit as well"
    first = described.rungs[0]
    assert first.what == "12 + 5 whole layers"
    assert first.frees_mib == {"CUDA0": 0, "CUDA1": 1260}
    assert "blk[.](12|13|" in first.text
    assert "|36|" in first.text, "the sixth layer of the second card went to RAM"
    assert first.check[-1] == "--help"
    wanted = rendered(PLACEMENT)
    job = switch_job(wanted, rig().build_of(wanted.model), [], 64 << 30, described)
    assert len(json.dumps(job.to_json())) < 200_000
    assert all(step.text != job.text for step in described.rungs)


def by_plan(plan: Plan) -> Wanted:
    return rendered(effective_placement(plan))


def with_other_comments(text: str) -> str:
    """A unit's text as another version writes it."""
    return "# Written by another version.\n" + text


def recorded(text: str, served: str = "", *, of_directives: bool = False) -> RecordedBackOff:
    """The record of a start that fell back from this unit text to SMALLER.

    :param of_directives: as this version writes it
    """
    taken = BackOff(
        of=hashlib.sha256(text.encode()).hexdigest(),
        what="11 + 6 whole layers",
        placement=SMALLER.model_dump(mode="json"),
        reason="CUDA0 lacks 153 MiB: cudaMalloc failed: out of memory",
        missing_mib={"CUDA0": 153},
        of_directives=directives_sha256(text) if of_directives else "",
    )
    return RecordedBackOff(taken, directives_sha256(served))


def test_a_step_down_becomes_a_proposal_and_is_served() -> None:
    declared, text = plan(), "the unit by this plan"
    off = recorded(text)
    assert with_back_off(declared, None, text) is declared
    assert with_back_off(declared, off, "another text") is declared
    assert proposal_line(declared) is None
    found = with_back_off(declared, off, text)
    assert effective_placement(found) == SMALLER
    assert found.placement == PLACEMENT, "the plan itself is kept"
    assert found.proposals[0].missing_mib == (153, 0)
    assert proposal_line(found) == (
        "served with 11 + 6 whole layers in place of 12 + 6 whole layers, because CUDA0 lacks 153 MiB: cudaMalloc "
        "failed: out of memory; this remains until you plan again (raise auto(margin_mib=...) by the missing memory, "
        "or free it)"
    )
    described = start_plan(found, moe(48), rendered)
    assert described.predicted_mib is None, "no dry run measured it"
    assert [step.what for step in described.rungs][:2] == ["11 + 5 whole layers", "10 + 6 whole layers"]


@pytest.mark.parametrize("of_directives", [True, False])
def test_a_step_down_is_recognised_where_only_comments_changed(of_directives: bool) -> None:
    """Of records of this version by the unit that did not fit, of earlier ones by the unit that serves."""
    now = by_plan(plan()).text
    off = recorded(with_other_comments(now), with_other_comments(rendered(SMALLER).text), of_directives=of_directives)
    assert effective_placement(with_back_off(plan(), off, now, by_plan)) == SMALLER


@pytest.mark.parametrize("of_directives", [True, False])
def test_a_step_down_from_a_unit_with_other_flags_is_no_proposal(of_directives: bool) -> None:
    declared, now = plan(), by_plan(plan()).text
    others = [text.replace("[Service]\n", "[Service]\nMemoryMax=1\n") for text in (now, rendered(SMALLER).text)]
    assert now not in others
    off = recorded(*others, of_directives=of_directives)
    assert with_back_off(declared, off, now, by_plan) is declared


def test_an_old_record_is_no_proposal_for_a_plan_that_has_no_such_step_down() -> None:
    """Planned again with fewer layers, the model would otherwise get back the layer that did not fit."""
    off = recorded(with_other_comments(rendered(PLACEMENT).text), rendered(SMALLER).text)
    again = plan().model_copy(update={"placement": Layers(gpu=(11, 5), split=(31, 18))})
    assert with_back_off(again, off, by_plan(again).text, by_plan) is again


def test_an_old_record_is_no_second_proposal() -> None:
    off = recorded(with_other_comments(rendered(PLACEMENT).text), rendered(SMALLER).text)
    once = with_back_off(plan(), off, by_plan(plan()).text, by_plan)
    assert with_back_off(once, off, by_plan(once).text, by_plan) is once


def test_a_record_whose_placement_cannot_be_read_is_no_proposal() -> None:
    declared, now = plan(), by_plan(plan()).text
    off = recorded(now)
    damaged = replace(off, taken=replace(off.taken, placement={"gpu": [1]}))
    assert with_back_off(declared, damaged, now) is declared


def test_back_offs_are_read_from_start_records() -> None:
    off = {"of": "0", "what": "w", "placement": {"gpu": [1]}, "reason": "x", "missing_mib": {}}
    lines = [
        "llamarig-a.service\t" + json.dumps({"text": "t", "backed_off": off}),
        "llamarig-b.service\t" + json.dumps({"text": "t", "job": {"backed_off": off}}),
        "llamarig-c.service\t" + json.dumps({"backed_off": {"missing_mib": 3}}),
        "llamarig-d.service\t" + json.dumps({"backed_off": []}),
        'llamarig-e.service\t{"backed_off": {',
        "llamarig-f.service\t[]",
        "",
    ]
    assert BackOffs().process(lines) == {
        "llamarig-a.service": RecordedBackOff(BackOff.from_json(off), directives_sha256("t"))
    }
