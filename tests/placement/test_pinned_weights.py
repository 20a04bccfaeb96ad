"""Weights in RAM are pinned exactly if prompts get faster and everything fits; otherwise the reason is given."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from llamarig.declare.placement import Fit
from llamarig.declare.rig import Rig
from llamarig.lints.pinned_weights import memory_max_lints, pinned_lints
from llamarig.placement.box_capacity import BoxCapacity
from llamarig.placement.pinned_weights import (
    LoadModeChoice,
    ServerMemory,
    expected_pinned_mib,
    is_pinned_unit,
    load_modes,
    memory_of_plan,
    pinnable_mib,
    pinning,
    with_load_mode,
)
from llamarig.placement.planned_loading import Pinning
from llamarig.records.plan_file import PlannedDevice, PlannedLoading
from llamarig.remote.shared.pinned_pages import is_pageable

from tests.placement.cuda_rig import rig
from tests.placement.example_models import MIB, qwen3_next
from tests.placement.planned_box import planned

GIB = 1 << 30
BOX = BoxCapacity(ram=63 * GIB, kernel="6.12.0-amd64")
EXPERTS = ServerMemory(pinnable=37000, weights=37400, rest=12000, left=(900, 700))


def chosen(declared: Rig, *memory: ServerMemory, box: BoxCapacity = BOX) -> dict[str, LoadModeChoice]:
    return load_modes(declared, {f"m{number}": each for number, each in enumerate(memory)}, box)


def only(declared: Rig, memory: ServerMemory = EXPERTS, box: BoxCapacity = BOX) -> LoadModeChoice:
    return chosen(declared, memory, box=box)["m0"]


def test_experts_in_ram_of_a_cuda_model_are_pinned() -> None:
    assert only(rig({})) == LoadModeChoice("none")


@pytest.mark.parametrize(
    "serve",
    [
        {"placement": {"kind": "cpu-only"}},
        {"placement": {"kind": "all-on-gpu"}},
        {"op_offload": False},
        {"environment": {"GGML_CUDA_NO_PINNED": "1"}},
        {"extra": ["--no-host"]},
    ],
)
def test_nothing_is_pinned_if_prompts_would_not_gain(serve: dict[str, Any]) -> None:
    assert only(rig(serve)) == LoadModeChoice("auto")


def test_only_cuda_was_measured() -> None:
    assert only(rig({}, backend="vulkan")) == LoadModeChoice("auto")
    assert only(rig({}, backend="cpu")) == LoadModeChoice("auto")


def test_without_weights_in_ram_nothing_is_pinned() -> None:
    assert only(rig({}), ServerMemory(pinnable=0, weights=400, rest=9000, left=(10, 10))) == LoadModeChoice("auto")


@pytest.mark.parametrize("mode", ["none", "mmap", "mlock", "mmap+mlock", "dio"])
def test_a_declared_load_mode_is_kept(mode: str) -> None:
    assert only(rig({"load_mode": mode})).mode == mode


def test_without_a_dry_run_nothing_is_pinned_and_the_reason_is_given() -> None:
    choice = chosen(rig({}))["m0"]
    assert choice.mode == "auto"
    assert "no dry run has measured yet" in choice.missing


@pytest.mark.parametrize("left", [(900, 511), (0, 900), (-300, 900)])
def test_a_card_with_less_than_512_mib_left_keeps_the_weights_mapped(left: tuple[int, ...]) -> None:
    memory = ServerMemory(pinnable=37000, weights=37400, rest=12000, left=left)
    choice = only(rig({}), memory)
    assert choice.mode == "auto"
    assert f"a dry run leaves {left[0]}/{left[1]} MiB free on the GPUs, and pinned weights need 512" in choice.missing
    assert "one whole layer fewer" in choice.remedy
    accepted = rig({"accept": {"pinned-margin": "this server is alone on cards without a display"}})
    assert only(accepted, memory) == LoadModeChoice("none")


def test_512_mib_are_enough() -> None:
    assert only(rig({}), ServerMemory(37000, 37400, 12000, (512, 512))) == LoadModeChoice("none")


def test_the_room_is_memtotal_less_the_declared_reserve() -> None:
    total = EXPERTS.total
    fits = BoxCapacity(ram=(total + 4096) * MIB)
    assert only(rig({}), box=fits) == LoadModeChoice("none")
    less = BoxCapacity(ram=fits.ram - MIB)
    choice = only(rig({}), box=less)
    assert choice.mode == "auto"
    assert f"it takes {total} MiB of RAM (weights 37400, buffers and full caches 12000)" in choice.missing
    assert only(rig({}, host={"memory_reserve_mib": 20000}), box=fits).mode == "auto"
    assert only(rig({}, host={"memory_reserve_mib": 4000}), box=less) == LoadModeChoice("none")


@pytest.mark.parametrize(("changed_mib", "mode"), [(-700, "none"), (900, "none"), (-2048, "auto")])
def test_a_small_change_of_memtotal_changes_no_unit(changed_mib: int, mode: str) -> None:
    """Kernels reserve different amounts; only a missing module changes the decision."""
    recorded = EXPERTS.total + 4096
    memory = replace(EXPERTS, recorded_ram=recorded)
    assert only(rig({}), memory, BoxCapacity(ram=(recorded + changed_mib) * MIB)).mode == mode


@pytest.mark.parametrize(
    ("name", "total_mib", "ram_gib"),
    [
        ("NVIDIA GeForce RTX 5090", 32607, 31.2),
        ("NVIDIA GeForce RTX 4090", 24564, 23.4),
        ("NVIDIA RTX 5070 Ti", 16303, 16),
    ],
)
def test_a_card_with_as_much_memory_as_the_box_is_not_taken_for_unified_memory(
    name: str, total_mib: int, ram_gib: float
) -> None:
    card = PlannedDevice(name="CUDA0", description=name, total_mib=total_mib, free_mib=total_mib - 900)
    memory = ServerMemory(pinnable=4000, weights=4400, rest=2000, left=(900,), devices=(card,))
    assert only(rig({}), memory, BoxCapacity(ram=int(ram_gib * GIB))) == LoadModeChoice("none")


def test_a_unit_keeps_its_pinned_weights_while_nothing_can_be_measured() -> None:
    declared = rig({}, {})
    chosen_now = load_modes(declared, {}, BOX, pinned_now={"m0"})
    assert chosen_now["m0"] == LoadModeChoice("none")
    assert chosen_now["m1"].mode == "auto"
    assert is_pinned_unit("ExecStart=llama-server \\\n    --load-mode none \\\n")
    assert is_pinned_unit("ExecStart=llama-server \\\n    --no-mmap \\\n")
    assert not is_pinned_unit("ExecStart=llama-server \\\n    --load-mode mlock \\\n")


def test_a_layer_of_multi_token_prediction_is_not_measured() -> None:
    choice = only(rig({"speculation": {"types": ["draft-mtp"]}}))
    assert choice.mode == "auto"
    assert "multi-token prediction" in choice.missing


@pytest.mark.parametrize("mode", ["none", "mlock", "dio"])
def test_a_declared_mode_with_a_small_margin_is_a_warning(mode: Any) -> None:
    declared = rig({"load_mode": mode})
    memory = replace(EXPERTS, left=(900, 100))
    (lint,) = pinned_lints(declared, declared.models[0], LoadModeChoice(mode), memory)
    assert (lint.rule, lint.severity) == ("pinned-margin", "warning")
    assert "900/100 MiB stay free" in str(lint)
    assert not list(pinned_lints(declared, declared.models[0], LoadModeChoice(mode), EXPERTS))


def test_models_that_run_at_the_same_time_share_the_ram() -> None:
    small = ServerMemory(pinnable=11000, weights=11500, rest=1000, left=(600,))
    together = chosen(rig({}, {"coexists": True}), EXPERTS, small)
    assert together["m0"] == LoadModeChoice("none")
    assert "m0 beside it 49400 MiB" in together["m1"].missing
    # Models that exclude each other are never in RAM at the same time.
    modes = chosen(rig({}, {}), EXPERTS, small)
    assert (modes["m0"], modes["m1"]) == (LoadModeChoice("none"), LoadModeChoice("none"))


def test_a_locked_model_beside_it_is_counted_whole() -> None:
    other = ServerMemory(pinnable=20000, weights=20000, rest=1000, left=(600,))
    mapped = chosen(rig({}, {"coexists": True, "load_mode": "mmap"}), EXPERTS, other)
    assert mapped["m0"] == LoadModeChoice("none"), "a mapped file's pages can be dropped"
    locked = chosen(rig({}, {"coexists": True, "load_mode": "mlock"}), EXPERTS, other)
    assert "m1 beside it 21000 MiB" in locked["m0"].missing


def test_pinned_weights_stay_within_the_memory_limit() -> None:
    choice = only(rig({"memory_max_mib": 20000}))
    assert choice.mode == "auto"
    assert "memory_max_mib 20000 is less than the 49400 MiB" in choice.missing
    assert "raise memory_max_mib to 49400" in choice.remedy
    assert only(rig({"memory_max_mib": 49400})) == LoadModeChoice("none")


@pytest.mark.parametrize(
    ("box", "device", "words"),
    [
        (BoxCapacity(ram=63 * GIB, kernel="5.15.167.4-microsoft-standard-WSL2"), None, "WSL2"),
        (BoxCapacity(), None, "does not report how much RAM"),
        (BOX, ("NVIDIA GB10", 124546), "shares its memory"),
        (BOX, ("Orin (nvgpu)", 30000), "shares its memory"),
    ],
)
def test_boxes_on_which_memory_is_not_pinned(box: BoxCapacity, device: tuple[str, int] | None, words: str) -> None:
    devices: tuple[PlannedDevice, ...] = ()
    if device is not None:
        devices = (PlannedDevice(name="CUDA0", description=device[0], total_mib=device[1], free_mib=9000),)
    choice = only(rig({}), ServerMemory(37000, 37400, 12000, (900,), devices), box)
    assert choice.mode == "auto"
    assert words in choice.missing


def test_a_plan_with_a_small_margin_has_planning_as_its_remedy() -> None:
    """A plan of an older version does not record the size of experts in RAM, so its margins decide."""
    memory = memory_of_plan(planned())
    assert memory.pinnable == planned().ram.weights_mib
    choice = only(rig({"placement": {"kind": "auto"}}), memory)
    assert "its plan leaves 384 MiB free on the GPUs" in choice.missing
    assert "tasks/plan.py --data update=m0" in choice.remedy


def test_a_planned_model_may_take_what_the_others_and_its_own_limit_leave() -> None:
    small = {"m1": ServerMemory(pinnable=9000, weights=9500, rest=1000, left=(600,))}
    room = 63 * 1024 - 4096
    assert pinning(rig({}, {}), rig({}).models[0], small, BOX) == Pinning(ram_mib=room)
    both = rig({}, {"coexists": True, "load_mode": "none"})
    assert pinning(both, both.models[0], small, BOX).ram_mib == room - 10500
    # One that is declared before it and will be pinned is counted whole, too; one after it only with its caches.
    auto = rig({}, {"coexists": True})
    pinned = {"m0": small["m1"]}
    assert pinning(auto, auto.models[1], pinned, BOX).ram_mib == room - 10500
    assert pinning(auto, auto.models[0], small, BOX).ram_mib == room - 1000
    limited = rig({"memory_max_mib": 30000})
    assert pinning(limited, limited.models[0], {}, BOX).ram_mib == 30000


@pytest.mark.parametrize(
    ("serve", "backend", "kernel", "words"),
    [
        ({}, "cuda", "5.15-microsoft-standard", "WSL2"),
        ({"speculation": {"types": ["draft-mtp"]}}, "cuda", "6.12", "multi-token prediction"),
        ({}, "vulkan", "6.12", "faster has not been measured with a build for vulkan"),
        ({"op_offload": False}, "cuda", "6.12", ""),
    ],
)
def test_what_rules_pinned_weights_out_is_named(serve: dict[str, Any], backend: str, kernel: str, words: str) -> None:
    declared = rig(serve, backend=backend)
    found = pinning(declared, declared.models[0], {}, BoxCapacity(ram=63 * GIB, kernel=kernel))
    assert found.ram_mib is None
    assert words in found.obstacle
    assert bool(words) == bool(found.obstacle)


def test_a_declared_mode_is_the_owners_word_that_the_weights_fit() -> None:
    for mode, fits in (("none", True), ("mlock", True), ("mmap", False)):
        declared = rig({"load_mode": mode})
        assert (pinning(declared, declared.models[0], {}, BoxCapacity(ram=GIB)).ram_mib is not None) == fits


def test_the_plan_decides_and_a_deploy_only_takes_back_what_no_longer_fits() -> None:
    auto = rig({"placement": {"kind": "auto"}})
    mapped = PlannedLoading(mode="auto", ram_lacks_mib=70, why="RAM lacks 70 MiB")
    memory = replace(EXPERTS, planned=True, left=(900,))
    choice = only(auto, replace(memory, loading=mapped))
    assert (choice.mode, choice.missing) == ("auto", "RAM lacks 70 MiB")
    assert "tasks/plan.py --data update=m0" in choice.remedy
    pinned = replace(memory, loading=PlannedLoading(mode="none"))
    assert only(auto, pinned) == LoadModeChoice("none")
    assert "the box has" in only(auto, pinned, BoxCapacity(ram=32 * GIB)).missing
    # A margin that was measured may be smaller than the one for all cards.
    small = replace(pinned, left=(430,))
    assert only(auto, small).mode == "auto"
    assert only(auto, replace(small, margin_is_measured=True)) == LoadModeChoice("none")
    declared = rig({"placement": {"kind": "auto"}, "load_mode": "none"})
    assert not list(
        pinned_lints(declared, declared.models[0], LoadModeChoice("none"), replace(small, margin_is_measured=True))
    )


@pytest.mark.parametrize("mode", ["mmap", "mmap+mlock"])
def test_mapped_experts_are_a_warning_with_their_price(mode: Any) -> None:
    in_ram: tuple[dict[str, Any], ...] = ({}, {"placement": {"kind": "cpu-moe", "layers": 3}})
    for serve in in_ram:
        declared = rig({**serve, "load_mode": mode})
        (lint,) = pinned_lints(declared, declared.models[0], LoadModeChoice(mode))
        assert (lint.rule, lint.severity) == ("experts-mapped", "warning")
        assert "4.2 to 6.0 times" in str(lint)
    others: tuple[tuple[dict[str, Any], str], ...] = (
        ({"op_offload": False}, "cuda"),
        ({"placement": {"kind": "all-on-gpu"}}, "cuda"),
        ({"placement": {"kind": "layers", "gpu": [48], "split": [49]}}, "cuda"),
        ({}, "vulkan"),
    )
    for serve, backend in others:
        declared = rig({**serve, "load_mode": mode}, backend=backend)
        assert not list(pinned_lints(declared, declared.models[0], LoadModeChoice(mode)))
    planned_one = rig({"placement": {"kind": "auto"}, "load_mode": mode})
    for pinnable in (0, 9000):
        memory = replace(EXPERTS, pinnable=pinnable)
        assert bool(list(pinned_lints(planned_one, planned_one.models[0], LoadModeChoice(mode), memory))) == bool(
            pinnable
        )


@pytest.mark.parametrize(
    ("serve", "mode", "targets"),
    [
        ({}, "none", (512, 1024)),
        ({"load_mode": "mlock"}, "mlock", (512, 1024)),
        ({}, "auto", (128, 1024)),
        ({"accept": {"pinned-margin": "measured on this box for a month"}}, "none", (128, 1024)),
    ],
)
def test_the_margin_of_fit_is_raised_only_for_pinned_weights(
    serve: dict[str, Any], mode: Any, targets: tuple[int, ...]
) -> None:
    declared = rig({"placement": {"kind": "fit", "target_mib": [128, 1024]}, **serve})
    served = with_load_mode(declared, declared.models[0], mode)
    placement = served.serve.placement
    assert isinstance(placement, Fit)
    assert placement.target_mib == targets
    found = [
        lint
        for lint in pinned_lints(declared, declared.models[0], LoadModeChoice(mode))
        if lint.rule == "pinned-margin"
    ]
    assert bool(found) == (targets[0] == 512)
    assert not found or "fit(target_mib=(128, 1024)) is served as (512, 1024)" in str(found[0])


def test_the_cost_of_mapped_weights_is_named() -> None:
    declared = rig({})
    (lint,) = pinned_lints(declared, declared.models[0], LoadModeChoice("auto", "something is missing", "correct it"))
    assert (lint.rule, lint.severity) == ("weights-not-pinned", "warning")
    assert "something is missing; so prompts are read several times more slowly" in str(lint)
    assert not list(pinned_lints(declared, declared.models[0], LoadModeChoice("auto")))


@pytest.mark.parametrize("mode", ["none", "mlock", "mmap+mlock"])
def test_a_declared_mode_beyond_its_memory_limit_is_refused(mode: str) -> None:
    declared = rig({"load_mode": mode, "memory_max_mib": 8000})
    (lint,) = memory_max_lints(declared, declared.models[0], 9000 * MIB)
    assert lint.severity == "refusal"
    assert "9000 MiB of weights" in str(lint)
    assert not list(memory_max_lints(declared, declared.models[0], 7000 * MIB))
    mapped = rig({"load_mode": "mmap", "memory_max_mib": 8000})
    assert not list(memory_max_lints(mapped, mapped.models[0], 9000 * MIB))


def test_the_token_embedding_is_not_read_by_prompts() -> None:
    tensors = qwen3_next(4).tensors
    embedding = next(tensor.size for tensor in tensors if tensor.name == "token_embd.weight") // MIB
    assert pinnable_mib(embedding, tensors) == 0
    assert pinnable_mib(embedding + 1260, tensors) == 1260


def test_shared_memory_shows_whether_weights_are_pinned() -> None:
    assert is_pageable(shared_mib=1100, pinned_mib=37000)
    assert not is_pageable(shared_mib=38100, pinned_mib=37000)
    served = rig({"load_mode": "none"})
    assert expected_pinned_mib(served, served.models[0], {"m0": EXPERTS}) == 37000
    assert expected_pinned_mib(served, served.models[0], {}) is None
    planned_only = rig(
        {"load_mode": "none"}, backend="cpu", simulated_gpus=[{"name": "RTX", "total_mib": 9000, "free_mib": 8000}]
    )
    assert expected_pinned_mib(planned_only, planned_only.models[0], {"m0": EXPERTS}) is None
