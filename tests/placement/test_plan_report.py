"""The report of a plan."""

from __future__ import annotations

from typing import Any

from llamarig.declare.placement import Layers
from llamarig.placement.plan_report import bar, plan_report
from llamarig.records.plan_file import MarginGain, MeasuredMargin, PlannedLoading

from tests.placement.planned_model import plan


def test_the_report_shows_the_location_of_each_layer() -> None:
    text = "\n".join(plan_report(plan(), "m", ["1.2 ms a token, calibrated on 3 runs"]))
    for words in (
        "m: 21 of 48 layers whole on the GPUs",
        "CUDA0 RTX 4090: layers 0-14 whole; of layers 15-20 only attention, KV cache and state",
        "CUDA1 RTX 5070 Ti: layers 21-26 whole; of layers 27-47 only attention, KV cache and state; the output",
        "RAM: experts of layers 15-20, 27-47; the token embedding",
        "22783 of 24564 MiB: weights 19566, KV cache 1360, state 33, compute 1824, margin 384, others 893, free 504",
        "--tensor-split 21,28",
        "57 a token",
        "calibrated on 3 runs",
        "release 0c1e57098bba-a6a0c45d",
    ):
        assert words in text, text


def test_partial_layers_and_layers_in_ram_are_named() -> None:
    placement = Layers(gpu=(2,), split=(6,), partial=(("down",),), in_ram=3)
    both = plan()
    inputs = both.belongs.model_copy(update={"devices": both.belongs.devices[:1], "margins_mib": (384,)})
    text = "\n".join(plan_report(plan(placement=placement, belongs=inputs, memory=both.memory[1:]), "m"))
    assert "layers 3-4 whole; of layer 5 the experts' down; of layers 6-7 only" in text
    assert "RAM: layers 0-2 entirely; experts of layers 6-7; the other experts of layer 5" in text


def test_the_report_shows_how_weights_are_loaded_and_what_lacked() -> None:
    def line(loading: PlannedLoading, **changes: Any) -> str:
        lines = plan_report(plan(loading=loading, pinnable_mib=34000, **changes), "m")
        (found,) = [each.strip() for each in lines if each.strip().startswith("load mode:")]
        return found

    assert line(PlannedLoading(mode="none")) == (
        "load mode: none, so 34000 MiB of weights in RAM are pinned for the GPU"
    )
    lacking = line(PlannedLoading(mode="auto", ram_lacks_mib=70, why="RAM lacks 70 MiB: and so on"))
    assert "auto, so weights in RAM stay mapped: RAM lacks 70 MiB: and so on; so prompts are read several" in lacking
    assert line(PlannedLoading(mode="mlock")) == "load mode: mlock, as declared"
    assert not [each for each in plan_report(plan(), "m") if "load mode" in each], "a plan of an older version"


def test_the_report_shows_what_a_measured_margin_gains() -> None:
    found = MeasuredMargin(
        cards=("a", "b"),
        release="r",
        flags=(),
        load_mode="none",
        beyond_mib=(300, 250),
        left_mib=(84, 134),
        prompt_tokens=32768,
        date="2026-11-28T12:00:00Z",
    )
    belongs = plan().belongs.model_copy(update={"margins_mib": (428, 378)})
    gain = MarginGain(measured=found, instead_mib=(512, 512), whole_instead=20)
    text = "\n".join(plan_report(plan(belongs=belongs, margin=gain), "m"))
    assert (
        "margins: 428/378 MiB in place of 512/512, which gives 21 whole layers in place of 20: measured 2026-11-28 "
        "with two prompts of 32768 tokens, 300/250 beyond the buffers, and 128 for what is longer"
    ) in text


def test_a_bar_has_its_full_width() -> None:
    assert bar([("#", 1), ("K", 1), ("C", 1)], 4, 8) == "##KKCC.."
    assert len(bar([("#", 1), ("K", 1), ("C", 1)], 3, 10)) == 10
    assert bar([("#", 9)], 3, 6) == "######"
    assert bar([("#", 9)], 0) == ""
