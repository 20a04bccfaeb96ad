"""The planner, from a model and its devices to a plan.

A simple memory model that reads the real arguments stands for llama-fit-params; tests/box/test_plan.py runs the real
one.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import pytest
from llamarig.placement.dry_run import DryRunError
from llamarig.placement.fallbacks import NothingFitsError
from llamarig.placement.measured_margins import SAFETY_MIB
from llamarig.placement.model_layers import layer_of
from llamarig.placement.plan_request import PlanRequest
from llamarig.placement.plan_runs import performed
from llamarig.placement.planned_loading import Pinning
from llamarig.placement.planner import make_plan
from llamarig.placement.staleness import plan_flags
from llamarig.placement.tensor_overrides import rule_coverage
from llamarig.records.plan_file import MeasuredMargin, Plan, PlanInputs, PlannedLoading

from tests.placement.example_models import CARDS, MIB, model, qwen3_next
from tests.placement.planned_model import UUIDS
from tests.render.golden_units import PINNED

HEADER = qwen3_next()


@dataclass
class FakeFitParams:
    """A memory model by tensor sizes, in MiB: a cache of 30 a layer, 900 of buffers, and logits on the output's GPU."""

    short: bool = True
    broken_after: int = 1000
    runs: list[list[str]] = field(default_factory=list)
    waves: list[int] = field(default_factory=list)
    """How many dry runs were asked for at a time."""

    def all(self, requests: Sequence[Sequence[str]]) -> list[str]:
        self.waves.append(len(requests))
        return [self(each) for each in requests]

    def __call__(self, arguments: Sequence[str]) -> str:
        self.runs.append(list(arguments))
        if len(self.runs) > self.broken_after:
            return "error: something broke\nexit=1"
        flags = {
            flag: value for flag, value in zip(arguments, [*arguments[1:], ""], strict=True) if flag.startswith("-")
        }
        if "--fit-print" not in flags:
            return '-c 65536 -ngl 49 -ts 20,29 -ot "blk\\..*_exps=CPU"\nexit=0'
        shares = [int(share) for share in (flags.get("--tensor-split") or flags["-ts"]).split(",")]
        rules = flags.get("--override-tensor") or flags.get("-ot", "")
        in_ram = {
            tensor.name
            for rule in rule_coverage(rules.split(",") if rules else [], HEADER.tensors)
            for tensor in rule.tensors
        }
        is_short = flags["--model"] == "/short.gguf"
        weights, context = [0.0] * len(shares), [0] * len(shares)
        last = max(gpu for gpu, share in enumerate(shares) if share)
        ram = 0.0
        for tensor in HEADER.tensors:
            layer, size = layer_of(tensor.name), tensor.size / MIB
            if tensor.name == "token_embd.weight" or tensor.name in in_ram:
                ram += size
            else:
                gpu = last if layer is None else _gpu(layer, shares)
                weights[gpu] += size * (0.01 if layer is None and is_short else 1)
        for layer in range(48):
            context[_gpu(layer, shares)] += 30 * int(flags.get("--ctx-size") or flags["-c"]) // 65536
        logits = 2374 if not is_short else 1
        lines = [
            f"CUDA{gpu} {int(weights[gpu])} {context[gpu]} {900 + (logits if gpu == last else 0)} "
            for gpu in range(len(shares))
        ]
        splits = 2 * len({layer_of(name) for name in in_ram}) + len(shares)
        return "\n".join([f"0.0 I graph: splits = 9 / {splits}", *lines, f"Host {int(ram)} 0 500 ", "exit=0"])


def _gpu(layer: int, shares: Sequence[int]) -> int:
    reached = 0
    for gpu, share in enumerate(shares):
        reached += share
        if layer < reached:
            return gpu
    return len(shares) - 1


def request(
    *,
    short: bool = True,
    ram: int = 90000,
    others: tuple[int, ...] = (),
    simulated: bool = False,
    pinned_ram: int | None = None,
    **serve: Any,
) -> PlanRequest:
    declared = model(ubatch=4096, batch=4096, **serve)
    belongs = PlanInputs(
        header="a" * 64,
        devices=CARDS,
        margins_mib=(384, 384),
        others_mib=others,
        flags=plan_flags(declared, PINNED),
        release="r",
    )
    shortened = "/short.gguf" if short else None
    pinning = Pinning(ram_mib=pinned_ram)
    return PlanRequest(declared, PINNED, HEADER, "/m.gguf", shortened, simulated, belongs, ram, pinning)


def planned(of: PlanRequest, fit_params: FakeFitParams) -> Plan:
    return performed(make_plan(of), fit_params.all)


def test_a_plan_is_verified_with_the_whole_header() -> None:
    fit_params = FakeFitParams()
    plan = planned(request(), fit_params)
    assert plan.dry_runs == len(fit_params.runs) <= 15
    # Weights are those of the whole header, logits those of the short one; both are printed for the whole one.
    assert plan.gpus[1].compute_mib == 901
    assert plan.output_compute_mib == 900 + 2374
    whole = next(run for run in reversed(fit_params.runs) if run[1] == "/m.gguf" and "--tensor-split" in run)
    words = dict(pairwise(whole))
    assert plan.placement.split == tuple(int(share) for share in words["--tensor-split"].split(","))
    for row, free in zip(plan.gpus, (23671, 12761), strict=True):
        assert row.total_mib <= free - 384


def test_with_the_logits_of_the_server_more_layers_fit() -> None:
    with_short, without = (planned(request(short=short), FakeFitParams()).placement for short in (True, False))
    assert sum(with_short.gpu) > sum(without.gpu)


def test_a_plan_with_too_many_logits_has_a_note() -> None:
    plan = planned(request(short=False), FakeFitParams())
    assert plan.output_compute_mib is None
    assert "more logits are counted" in plan.notes[0]


def test_projector_and_draft_keep_their_memory() -> None:
    plan = planned(request(others=(1400, 0)), FakeFitParams())
    assert plan.gpus[0].total_mib <= 23671 - 384 - 1400


def test_a_plan_records_the_result_of_fit() -> None:
    fit_params = FakeFitParams()
    plan = planned(request(others=(100, 0)), fit_params)
    assert plan.fit is not None
    assert (plan.fit.whole, plan.fit.spread) == ((0, 0), 0)
    assert plan.fit.splits == (9, 98)
    fit_run = next(arguments for arguments in fit_params.runs if "--fit-print" not in arguments)
    assert fit_run[-2:] == ["--fit-target", "484,384"]


def test_margins_are_raised_if_weights_will_be_pinned() -> None:
    mapped, pinned = planned(request(), FakeFitParams()), planned(request(pinned_ram=90000), FakeFitParams())
    assert mapped.belongs.margins_mib == (384, 384)
    assert pinned.belongs.margins_mib == (512, 512)
    for row, device in zip(pinned.gpus, CARDS, strict=True):
        assert row.total_mib <= device.free_mib - 512
    assert any("margins are 512/512 MiB instead of 384/384" in note for note in pinned.notes)
    assert 0 < pinned.pinnable_mib < pinned.host.model_mib, "without the token embedding"
    assert pinned.loading == PlannedLoading(mode="none")
    assert mapped.loading == PlannedLoading(mode="auto"), "whether pinning would fit was not asked"


def test_a_plan_with_pinned_weights_takes_no_more_dry_runs_and_few_waves() -> None:
    """A dry run is a CUDA context of every card, so those that do not wait for each other go side by side."""
    mapped, pinned = FakeFitParams(), FakeFitParams()
    planned(request(), mapped)
    planned(request(pinned_ram=90000), pinned)
    assert len(pinned.runs) <= len(mapped.runs) + 2
    assert len(pinned.waves) < len(pinned.runs) - 1
    assert len({tuple(run) for run in pinned.runs}) == len(pinned.runs), "none is made twice"


def test_llama_cpp_own_fit_runs_alone() -> None:
    """It divides by the memory that is free, of which another dry run's context would take some."""
    seen: list[int] = []

    def run(requests: Sequence[Sequence[str]]) -> list[str]:
        seen.extend(len(requests) for each in requests if "--fit-print" not in each)
        return [fit_params(each) for each in requests]

    fit_params = FakeFitParams()
    performed(make_plan(request(pinned_ram=90000)), run)
    assert seen == [1]


def test_weights_that_cannot_be_pinned_cost_no_margin() -> None:
    """With too little RAM for them the declared margin stays, and so do the layers that fit with it."""
    fit_params = FakeFitParams()
    plan = planned(request(pinned_ram=20000), fit_params)
    assert plan.belongs.margins_mib == (384, 384)
    assert plan.placement == planned(request(), FakeFitParams()).placement
    assert len(fit_params.runs) == planned(request(), FakeFitParams()).dry_runs, "nothing is searched for in vain"
    assert plan.loading is not None
    assert plan.loading.mode == "auto"
    assert plan.loading.ram_lacks_mib == plan.ram.total_mib - plan.ram.reserve_mib - 20000
    assert f"RAM lacks {plan.loading.ram_lacks_mib} MiB" in plan.loading.why


def test_what_ram_lacks_is_counted_with_the_margins_of_pinned_weights() -> None:
    """They leave fewer layers on the GPUs, so more in RAM than the plan that is made in the end."""
    mapped = planned(request(), FakeFitParams())
    room = mapped.ram.total_mib - mapped.ram.reserve_mib
    plan = planned(request(pinned_ram=room), FakeFitParams())
    assert plan.placement == mapped.placement
    assert plan.loading is not None
    assert plan.loading.ram_lacks_mib > 0
    enough = room + plan.loading.ram_lacks_mib
    assert planned(request(pinned_ram=enough), FakeFitParams()).loading == PlannedLoading(mode="none")
    assert planned(request(pinned_ram=enough - 1), FakeFitParams()).loading != PlannedLoading(mode="none")


def test_a_plan_says_how_much_vram_pinned_weights_lack() -> None:
    """Without experts on the GPU the declared margin just fits, and that of pinned weights does not."""
    of = request(pinned_ram=90000)
    for free in range(2600, 3600, 32):
        cards = tuple(device.model_copy(update={"free_mib": free}) for device in CARDS)
        here = replace(of, inputs=of.inputs.model_copy(update={"devices": cards}))
        try:
            plan = planned(here, FakeFitParams())
        except NothingFitsError:
            continue
        assert plan.loading is not None
        if plan.loading.mode == "auto":
            left = [free - row.total_mib for row in plan.gpus]
            assert plan.loading.vram_lacks_mib == tuple(max(0, 512 - mib) for mib in left)
            assert any(plan.loading.vram_lacks_mib)
            assert "VRAM lacks" in plan.loading.why
            return
    pytest.fail("no card was small enough")


def test_a_declared_load_mode_is_the_plans() -> None:
    declared = replace(request(load_mode="mlock"), pinning=Pinning("mlock", 1 << 40))
    plan = planned(declared, FakeFitParams())
    assert plan.loading == PlannedLoading(mode="mlock")
    assert plan.belongs.margins_mib == (512, 512)


def measured(**changes: Any) -> MeasuredMargin:
    of = request().inputs
    fields = {
        "cards": UUIDS,
        "release": of.release,
        "flags": of.flags,
        "load_mode": "none",
        "beyond_mib": (300, 250),
        "left_mib": (90, 140),
        "prompt_tokens": 32768,
        "date": "2026-11-28T12:00:00Z",
    }
    return MeasuredMargin.model_validate({**fields, **changes})


def with_cards(**more: Any) -> PlanRequest:
    of = request(**more)
    cards = tuple(card.model_copy(update={"uuid": uuid}) for card, uuid in zip(CARDS, UUIDS, strict=True))
    return replace(of, inputs=of.inputs.model_copy(update={"devices": cards}))


def test_the_next_plan_keeps_what_was_measured_and_a_stated_safety() -> None:
    of = replace(with_cards(pinned_ram=90000), measured=(measured(),))
    plan = planned(of, FakeFitParams())
    assert plan.belongs.margins_mib == (300 + SAFETY_MIB, 250 + SAFETY_MIB)
    assert plan.margin is not None
    assert plan.margin.instead_mib == (512, 512)
    default = planned(with_cards(pinned_ram=90000), FakeFitParams())
    assert plan.margin.whole_instead == sum(default.placement.gpu)
    assert not any("margins are" in note for note in plan.notes)


@pytest.mark.parametrize("free", range(22000, 23000, 100))
def test_the_layers_without_the_measurement_are_those_of_a_plan_without_it(free: int) -> None:
    cards = [{"free_mib": free, "uuid": UUIDS[0]}, {"free_mib": 12761, "uuid": UUIDS[1]}]
    of = with_cards(pinned_ram=90000)
    devices = tuple(card.model_copy(update=update) for card, update in zip(CARDS, cards, strict=True))
    of = replace(of, inputs=of.inputs.model_copy(update={"devices": devices}))
    plan = planned(replace(of, measured=(measured(beyond_mib=(100, 100)),)), FakeFitParams())
    default = planned(of, FakeFitParams())
    assert plan.margin is not None
    assert plan.margin.whole_instead == sum(default.placement.gpu)
    assert sum(plan.placement.gpu) >= sum(default.placement.gpu)


@pytest.mark.parametrize(
    "changes",
    [
        {"release": "another"},
        {"cards": (UUIDS[1], UUIDS[0])},
        {"flags": ("--ctx-size", "4096")},
        {"load_mode": "auto"},
        {"offload_min_batch": "1024"},
    ],
)
def test_a_margin_of_other_cards_builds_flags_or_load_modes_is_not_used(changes: dict[str, Any]) -> None:
    plan = planned(replace(with_cards(pinned_ram=90000), measured=(measured(**changes),)), FakeFitParams())
    assert plan.belongs.margins_mib == (512, 512)
    assert plan.margin is None


def test_a_declared_margin_is_kept_whatever_was_measured() -> None:
    of = with_cards(pinned_ram=90000)
    of = replace(of, inputs=of.inputs.model_copy(update={"margins_mib": (384, 2048)}), measured=(measured(),))
    assert planned(of, FakeFitParams()).belongs.margins_mib == (300 + SAFETY_MIB, 2048)


def test_nothing_is_lowered_for_the_margin_of_pinned_weights() -> None:
    """Cards on which attention and caches just fit: the larger margin would lower a setting."""
    of = request(pinned_ram=90000, placement={"kind": "auto", "give_up": ["context"]})
    would_give_up = 0
    for free in range(2600, 3600, 64):
        cards = tuple(device.model_copy(update={"free_mib": free}) for device in CARDS)
        here = replace(of, inputs=of.inputs.model_copy(update={"devices": cards}))
        larger = replace(here, inputs=here.inputs.model_copy(update={"margins_mib": (512, 512)}))
        try:
            plain, wide = (planned(replace(each, pinning=Pinning()), FakeFitParams()) for each in (here, larger))
        except NothingFitsError:
            continue
        would_give_up += wide.given_up != plain.given_up
        assert planned(here, FakeFitParams()).given_up == plain.given_up
    assert would_give_up


def test_a_margin_larger_than_pinned_weights_need_is_kept() -> None:
    of = request(pinned_ram=90000)
    larger = replace(of, inputs=of.inputs.model_copy(update={"margins_mib": (2048, 300)}))
    assert planned(larger, FakeFitParams()).belongs.margins_mib == (2048, 512)


def test_simulated_devices_are_named_in_every_dry_run() -> None:
    fit_params = FakeFitParams()
    planned(request(simulated=True), fit_params)
    assert all(arguments[arguments.index("--device") + 1] == "CUDA0,CUDA1" for arguments in fit_params.runs)


def test_a_lock_on_more_ram_than_available_is_refused() -> None:
    with pytest.raises(NothingFitsError, match="MiB of RAM at once"):
        planned(request(ram=20000, load_mode="mlock"), FakeFitParams())
    assert (
        "MiB of RAM at once" in planned(request(ram=20000, load_mode="mlock", simulated=True), FakeFitParams()).notes[0]
    )
    assert re.search("RAM: .* read from the disk again", planned(request(ram=20000), FakeFitParams()).notes[0])


@pytest.mark.parametrize("broken_after", [0, 1, 4])
def test_a_failed_dry_run_ends_planning_with_its_error(broken_after: int) -> None:
    with pytest.raises(DryRunError, match="something broke"):
        planned(request(), FakeFitParams(broken_after=broken_after))
