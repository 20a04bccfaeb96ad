"""What a switch to another release is compared by, and when nothing is compared."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from llamarig.declare.placement import Layers
from llamarig.declare.rig import Rig
from llamarig.declare.upgrade_gate import UpgradeGate
from llamarig.facts.units import Unit
from llamarig.items.speed_gates import GENERATED_TOKENS, PROMPT_TOKENS, GateOutcome, speed_gate
from llamarig.items.wanted_unit import Wanted, wanted_unit
from llamarig.records.bench_ledger import BenchEntry, Conditions, TimedGpu, TokenRate
from llamarig.records.timing_changes import speed_flags
from llamarig.remote.shared.jobs import SpeedGate
from llamarig.render.server_arguments import ModelFiles

from tests.render.golden_units import PINNED, rigs

OLD, NEW = f"{'a' * 40}-11111111", f"{'b' * 40}-22222222"
CARD = TimedGpu(name="RTX 4090", uuid="GPU-1", power_limit_w=450)
NOW = Conditions(
    date="2026-11-28T10:00:00Z", driver="580.1", cards=(CARD,), prompt_tokens=1, generated_tokens=0, kernel="6.12"
)


def rig(**changes: Any) -> Rig:
    return rigs()["rtx4090_rtx5070ti"].model_copy(update={"upgrade_gate": UpgradeGate(), **changes})


def wanted(declared: Rig, release: str = NEW, **serve: Any) -> Wanted:
    model = declared.models[0]
    model = model.model_copy(update={"serve": model.serve.model_copy(update=serve)})
    return wanted_unit(
        declared,
        model,
        release=f"/opt/llamarig/llama.cpp/{release}",
        flags=PINNED,
        files=ModelFiles("/m.gguf"),
        inputs="",
        model_bytes=1,
        running=True,
    )


def unit(declared: Rig, release: str = OLD, **serve: Any) -> Unit:
    return Unit(text="x", active="active", arguments=wanted(declared, release, **serve).arguments)


def entry(declared: Rig, prompt: float = 1000, release: str = OLD, **conditions: Any) -> BenchEntry:
    then = {"ram_mts": 6000, "prompt_tokens": 4096, "generated_tokens": 64, **conditions}
    rate = TokenRate(median=prompt, lowest=prompt, highest=prompt)
    return BenchEntry(
        box="box",
        model=declared.models[0].name,
        release=release,
        flags=speed_flags(unit(declared).arguments),
        runs=5,
        prompt=rate,
        generation=rate.model_copy(update={"median": 50}),
        conditions=NOW.model_copy(update=then),
    )


def gate(declared: Rig, *ledger: BenchEntry, item: Wanted | None = None, now: Unit | None = None) -> GateOutcome:
    return speed_gate(declared, item or wanted(declared), now or unit(declared), ledger, "box", NOW)


def test_the_last_timing_of_the_release_that_serves_is_compared_with() -> None:
    declared = rig()
    found = gate(declared, entry(declared, 900), entry(declared, 1000), entry(declared, 2000, release=NEW))
    assert found == GateOutcome(SpeedGate(0.05, OLD, 4096, 64, 1000, 50))


@pytest.mark.parametrize(
    "conditions",
    [{"driver": "570.9"}, {"kernel": "6.18"}, {"beside": ("other",)}, {"cards": ()}],
)
def test_a_timing_under_other_conditions_is_not_compared_with(conditions: dict[str, Any]) -> None:
    """Then the release that serves is timed before it is stopped."""
    declared = rig()
    without = GateOutcome(SpeedGate(0.05, OLD, PROMPT_TOKENS, GENERATED_TOKENS))
    assert gate(declared, entry(declared, **conditions)) == without
    assert gate(declared) == without
    earlier = gate(declared, entry(declared, 900), entry(declared, 1000, **conditions)).gate
    assert earlier is not None
    assert earlier.prompt_per_second == 900, "the last one under the same conditions"


def test_an_entry_before_kernels_and_clocks_were_kept_is_compared_with() -> None:
    declared = rig()
    found = gate(declared, entry(declared, kernel="")).gate
    assert found is not None
    assert found.prompt_per_second == 1000


def test_nothing_is_compared_unless_a_running_model_changes_its_release() -> None:
    declared, nothing = rig(), GateOutcome()
    assert gate(rig(upgrade_gate=None)) == nothing
    assert gate(declared, now=unit(declared, NEW)) == nothing
    assert gate(declared, now=replace(unit(declared), active="inactive")) == nothing
    assert gate(declared, now=Unit()) == nothing
    assert gate(declared, item=replace(wanted(declared), running=False)) == nothing
    own_build = replace(unit(declared), arguments=("llama-server", *unit(declared).arguments[1:]))
    assert gate(declared, now=own_build) == nothing


def test_a_model_has_a_limit_of_its_own() -> None:
    declared = rig()
    models = (declared.models[0].model_copy(update={"upgrade_gate": UpgradeGate(slower_than_percent=10)}),)
    for of in (declared, rig(upgrade_gate=None)):
        found = gate(of.model_copy(update={"models": models})).gate
        assert found is not None
        assert found.limit == 0.1


def test_placement_and_load_mode_may_change_with_the_release() -> None:
    """A new plan for the new release, for example."""
    declared = rig()
    item = wanted(declared, placement=Layers(gpu=(12, 6), split=(32, 17)), load_mode="none")
    assert gate(declared, item=item).gate is not None


@pytest.mark.parametrize("serve", [{"context": 65536}, {"cache_type_k": "f16"}, {"op_offload": False}, {"threads": 3}])
def test_where_other_flags_change_with_the_release_nothing_is_compared(serve: dict[str, Any]) -> None:
    declared = rig()
    found = gate(declared, item=wanted(declared, **serve))
    assert found.gate is None
    assert found.missing.endswith("changed with the release")


def test_a_flag_that_only_the_new_release_knows_is_no_other_declaration() -> None:
    declared = rig()
    item = wanted(declared)
    assert gate(declared, item=replace(item, arguments=(*item.arguments, "--a-new-flag", "on"))).gate is not None


def test_a_model_that_generates_nothing_is_not_compared() -> None:
    declared = rig()
    found = gate(declared, item=wanted(declared, task="embedding"))
    assert found.missing == "it generates nothing that could be timed"


def test_the_request_fits_into_a_slot() -> None:
    declared = rig()
    item = wanted(declared, context=4096, parallel=8)
    found = gate(declared, item=item, now=unit(declared, context=4096, parallel=8)).gate
    assert found is not None
    assert found.prompt_tokens + found.generated_tokens <= 512
