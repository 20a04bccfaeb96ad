"""The planner, from a model and its devices to a plan.

A simple memory model that reads the real arguments stands for llama-fit-params; tests/box/test_plan.py runs the real
one.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from llamarig.placement.dry_run import DryRunError
from llamarig.placement.fallbacks import NothingFitsError
from llamarig.placement.model_layers import layer_of
from llamarig.placement.planner import PlanRequest, make_plan
from llamarig.placement.staleness import plan_flags
from llamarig.placement.tensor_overrides import rule_coverage
from llamarig.records.plan_file import Plan, PlanInputs

from tests.placement.example_models import CARDS, MIB, model, qwen3_next
from tests.render.golden_units import PINNED

HEADER = qwen3_next()


@dataclass
class FakeFitParams:
    """A memory model by tensor sizes, in MiB: a cache of 30 a layer, 900 of buffers, and logits on the output's GPU."""

    short: bool = True
    broken_after: int = 1000
    runs: list[list[str]] = field(default_factory=list)

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
    return PlanRequest(declared, PINNED, HEADER, "/m.gguf", shortened, simulated, belongs, ram, pinned_ram)


def planned(of: PlanRequest, fit_params: FakeFitParams) -> Plan:
    steps = make_plan(of)
    try:
        arguments = next(steps)
        while True:
            arguments = steps.send(fit_params(arguments))
    except StopIteration as end:
        plan: Plan = end.value
        return plan


def test_a_plan_is_verified_with_the_whole_header() -> None:
    fit_params = FakeFitParams()
    plan = planned(request(), fit_params)
    assert plan.dry_runs == len(fit_params.runs) <= 15
    # Weights are those of the whole header, logits those of the short one; both are printed for the whole one.
    assert plan.gpus[1].compute_mib == 901
    assert plan.output_compute_mib == 900 + 2374
    words = dict(zip(fit_params.runs[-3][:-1], fit_params.runs[-3][1:], strict=True))
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
    assert pinned.dry_runs <= 40


def test_weights_that_cannot_be_pinned_cost_no_margin() -> None:
    """With too little RAM for them the declared margin stays, and so do the layers that fit with it."""
    plan = planned(request(pinned_ram=20000), FakeFitParams())
    assert plan.belongs.margins_mib == (384, 384)
    assert plan.placement == planned(request(), FakeFitParams()).placement


def test_nothing_is_lowered_for_the_margin_of_pinned_weights() -> None:
    """Cards on which attention and caches just fit: the larger margin would lower a setting."""
    of = request(pinned_ram=90000, placement={"kind": "auto", "give_up": ["context"]})
    would_give_up = 0
    for free in range(2600, 3600, 64):
        cards = tuple(device.model_copy(update={"free_mib": free}) for device in CARDS)
        here = replace(of, inputs=of.inputs.model_copy(update={"devices": cards}))
        larger = replace(here, inputs=here.inputs.model_copy(update={"margins_mib": (512, 512)}))
        try:
            plain, wide = (planned(replace(each, pinned_ram_mib=None), FakeFitParams()) for each in (here, larger))
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
