"""From a model and its devices to a plan, asked step by step.

llama-fit-params is played by a simple memory model that reads the very arguments it would be given; what the real one
says is asked in tests/box/test_plan.py.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from tasks.planning.coverage import covered, layer_of
from tasks.planning.plans.conceding import NothingFitsError
from tasks.planning.plans.dry_run import DryRunError
from tasks.planning.plans.making import Case, make_plan
from tasks.planning.plans.staleness import flags_of
from tasks.spec.plan_file import Belongs, Plan, PlannedDevice
from tests.planning.golden_units import PINNED
from tests.planning.plans.test_dry_run import CARDS, model
from tests.planning.test_lints import MIB, qwen3_next

HEADER = qwen3_next()


@dataclass
class Toy:
    """MiB by the tensors' sizes; a cache of 30 a layer, 900 of buffers, and logits for the output's GPU."""

    short: bool = True
    broken_after: int = 1000
    asked: list[list[str]] = field(default_factory=list)

    def __call__(self, arguments: Sequence[str]) -> str:
        self.asked.append(list(arguments))
        if len(self.asked) > self.broken_after:
            return "error: something broke\nexit=1"
        said = {
            flag: value for flag, value in zip(arguments, [*arguments[1:], ""], strict=True) if flag.startswith("-")
        }
        if "--fit-print" not in said:
            return '-c 65536 -ngl 49 -ts 20,29 -ot "blk\\..*_exps=CPU"\nexit=0'
        shares = [int(share) for share in (said.get("--tensor-split") or said["-ts"]).split(",")]
        rules = said.get("--override-tensor") or said.get("-ot", "")
        in_ram = {
            tensor.name
            for rule in covered(rules.split(",") if rules else [], HEADER.tensors)
            for tensor in rule.tensors
        }
        is_short = said["--model"] == "/short.gguf"
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
            context[_gpu(layer, shares)] += 30 * int(said.get("--ctx-size") or said["-c"]) // 65536
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


def case(
    *,
    short: bool = True,
    ram: int = 90000,
    others: tuple[int, ...] = (),
    simulated: bool = False,
    pinned_ram: int | None = None,
    **serve: Any,
) -> Case:
    declared = model(ubatch=4096, batch=4096, **serve)
    devices = tuple(
        PlannedDevice(name=card.name, description=card.description, total_mib=card.total_mib, free_mib=card.free_mib)
        for card in CARDS
    )
    belongs = Belongs(
        header="a" * 64,
        devices=devices,
        margins_mib=(384, 384),
        others_mib=others,
        flags=flags_of(declared, PINNED),
        release="r",
    )
    shortened = "/short.gguf" if short else None
    return Case(declared, PINNED, HEADER, "/m.gguf", shortened, CARDS, simulated, belongs, ram, pinned_ram)


def made(of: Case, toy: Toy) -> Plan:
    asking = make_plan(of)
    try:
        arguments = next(asking)
        while True:
            arguments = asking.send(toy(arguments))
    except StopIteration as end:
        plan: Plan = end.value
        return plan


def test_a_plan_is_proved_on_the_whole_header() -> None:
    toy = Toy()
    plan = made(case(), toy)
    assert plan.dry_runs == len(toy.asked) <= 15
    # The whole header's weights, the short one's logits, and what llama-fit-params prints for the whole one.
    assert plan.gpus[1].compute_mib == 901
    assert plan.output_compute_mib == 900 + 2374
    words = dict(zip(toy.asked[-3][:-1], toy.asked[-3][1:], strict=True))
    assert plan.placement.split == tuple(int(share) for share in words["--tensor-split"].split(","))
    for row, free in zip(plan.gpus, (23671, 12761), strict=True):
        assert row.total_mib <= free - 384


def test_the_servers_logits_leave_room_for_more_than_a_batchs() -> None:
    assert sum(made(case(), Toy()).placement.gpu) > sum(made(case(short=False), Toy()).placement.gpu)


def test_a_plan_with_too_many_logits_says_so() -> None:
    plan = made(case(short=False), Toy())
    assert plan.output_compute_mib is None
    assert "more logits are counted" in plan.notes[0]


def test_others_on_a_gpu_are_left_their_memory() -> None:
    plan = made(case(others=(1400, 0)), Toy())
    assert plan.gpus[0].total_mib <= 23671 - 384 - 1400


def test_fit_stands_beside_the_plan() -> None:
    toy = Toy()
    plan = made(case(others=(100, 0)), toy)
    assert plan.fit is not None
    assert (plan.fit.whole, plan.fit.spread) == ((0, 0), 0)
    assert plan.fit.splits == (9, 98)
    asked = next(arguments for arguments in toy.asked if "--fit-print" not in arguments)
    assert asked[-2:] == ["--fit-target", "484,384"]


def test_margins_are_larger_where_weights_in_ram_will_be_pinned() -> None:
    mapped, pinned = made(case(), Toy()), made(case(pinned_ram=90000), Toy())
    assert mapped.belongs.margins_mib == (384, 384)
    assert pinned.belongs.margins_mib == (512, 512)
    for row, device in zip(pinned.gpus, CARDS, strict=True):
        assert row.total_mib <= device.free_mib - 512
    assert any("margins are 512/512 MiB instead of 384/384" in note for note in pinned.notes)
    assert 0 < pinned.pinnable_mib < pinned.host.model_mib, "without the token embedding"
    assert pinned.dry_runs <= 40


def test_weights_that_cannot_be_pinned_cost_no_margin() -> None:
    """Too little RAM for them: then the declared margin stays, and the layers it has room for."""
    plan = made(case(pinned_ram=20000), Toy())
    assert plan.belongs.margins_mib == (384, 384)
    assert plan.placement == made(case(), Toy()).placement


def test_nothing_is_given_up_for_a_margin_of_pinned_weights() -> None:
    """Cards on which attention and caches just fit: with the larger margin something would have to be lowered."""
    of = case(pinned_ram=90000, placement={"kind": "auto", "give_up": ["context"]})
    would_give_up = 0
    for free in range(2600, 3600, 64):
        here = replace(of, devices=tuple(replace(device, free_mib=free) for device in CARDS))
        larger = replace(here, belongs=here.belongs.model_copy(update={"margins_mib": (512, 512)}))
        try:
            plain, wide = (made(replace(each, pinned_ram_mib=None), Toy()) for each in (here, larger))
        except NothingFitsError:
            continue
        would_give_up += wide.given_up != plain.given_up
        assert made(here, Toy()).given_up == plain.given_up
    assert would_give_up


def test_a_margin_beyond_what_pinned_weights_want_is_kept() -> None:
    of = case(pinned_ram=90000)
    larger = replace(of, belongs=of.belongs.model_copy(update={"margins_mib": (2048, 300)}))
    assert made(larger, Toy()).belongs.margins_mib == (2048, 512)


def test_simulated_devices_are_named_in_every_dry_run() -> None:
    toy = Toy()
    made(case(simulated=True), toy)
    assert all(arguments[arguments.index("--device") + 1] == "CUDA0,CUDA1" for arguments in toy.asked)


def test_what_nobody_can_hold_in_ram_is_refused() -> None:
    with pytest.raises(NothingFitsError, match="MiB of RAM at once"):
        made(case(ram=20000, load_mode="mlock"), Toy())
    assert "MiB of RAM at once" in made(case(ram=20000, load_mode="mlock", simulated=True), Toy()).notes[0]
    assert re.search("RAM: .* read from the disk again", made(case(ram=20000), Toy()).notes[0])


@pytest.mark.parametrize("broken_after", [0, 1, 4])
def test_a_dry_run_that_breaks_ends_the_planning_with_its_words(broken_after: int) -> None:
    with pytest.raises(DryRunError, match="something broke"):
        made(case(), Toy(broken_after=broken_after))
