"""A quant on a box: contexts, what fits by a memory model in place of dry runs, the rule, the table, and its words."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any

import pytest
from llamarig.declare.placement import CpuOnly, Layers
from llamarig.placement import quant_memory
from llamarig.placement.quant_choice import QuantRow, QuantShape, chosen
from llamarig.placement.quant_memory import AtContext, QuantRequest, at_contexts, contexts_up_to
from llamarig.placement.quant_table import cache_notes, context_cell, shortage, table_lines
from llamarig.placement.side_by_side import Steps, one_by_one, side_by_side
from llamarig.placement.speed_prediction import calibrate, runs_of_files
from llamarig.records.plan_file import RamBudget
from llamarig.remote.shared.gguf_header import Header, Tensor, Value

from tests.checks.bench_entries import entry
from tests.placement.example_models import model

GIB = 1024**3


def ram(need_mib: int, available_mib: int = 50000, cache_mib: int = 0) -> RamBudget:
    return RamBudget(
        weights_mib=need_mib - cache_mib - 2048,
        buffers_mib=0,
        cache_mib=cache_mib,
        checkpoints_mib=0,
        reserve_mib=2048,
        available_mib=available_mib,
    )


def on_gpus(context: int, whole: int, *, need_mib: int = 9000, layers: int = 48) -> AtContext:
    placed = Layers(gpu=(whole,), split=(layers + 1,))
    return AtContext(context, placed, (20000,), ram=ram(need_mib))


def short_of_vram(context: int, *over: int) -> AtContext:
    return AtContext(context, None, (25000,) * len(over), over, ram(9000))


def row(label: str, gib: int, *at: AtContext, bits: float = 5.0, experts: bool = True, **fields: Any) -> QuantRow:
    return QuantRow(label, gib * GIB, QuantShape(48, experts, bits), at, **fields)


# --- contexts ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("trained", "contexts"),
    [
        (262144, (32768, 65536, 131072, 262144)),
        (40960, (32768, 40960)),
        (32768, (32768,)),
        (8192, (8192,)),
        (None, (32768,)),
    ],
)
def test_contexts_are_doubled_up_to_the_models_own(trained: int | None, contexts: tuple[int, ...]) -> None:
    metadata: dict[str, Value] = {"general.architecture": "qwen3moe"}
    if trained is not None:
        metadata["qwen3moe.context_length"] = trained
    assert contexts_up_to(metadata) == contexts


def bisected(answers: dict[int, AtContext], monkeypatch: pytest.MonkeyPatch) -> tuple[list[AtContext], list[list[int]]]:
    """The contexts' answers, and which of them were measured in each round."""

    def measured(request: QuantRequest, context: int) -> Steps[Any, Any, AtContext]:
        (answer,) = yield [context]
        return answer  # type: ignore[no-any-return]  # what is sent below

    # Only the measuring of one context is replaced, which needs a release: tests/box/test_choose.py has that.
    monkeypatch.setattr(quant_memory, "at_context", measured)
    request = QuantRequest(model(), Header(()), frozenset(), "", "", 0)
    steps = at_contexts(request, sorted(answers))
    rounds = []
    try:
        asked: list[Any] = next(steps)
        while True:
            rounds.append(asked)
            asked = steps.send([answers[context] for context in asked])  # type: ignore[misc]  # as above
    except StopIteration as end:
        return end.value, rounds


STEPS = (32768, 65536, 131072, 262144)


def test_contexts_between_two_equal_answers_are_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    found, rounds = bisected({context: on_gpus(context, 48) for context in STEPS}, monkeypatch)
    assert rounds == [[32768, 262144]]
    assert [(at.context, at.whole) for at in found] == [(context, 48) for context in STEPS]


def test_contexts_between_different_answers_are(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = dict(zip(STEPS, (on_gpus(32768, 48), on_gpus(65536, 44), on_gpus(131072, 40)), strict=False))
    answers[262144] = short_of_vram(262144, 900)
    found, rounds = bisected(answers, monkeypatch)
    assert rounds == [[32768, 262144], [131072], [65536]]
    assert found == list(answers.values())


def test_what_does_not_fit_with_the_smallest_context_is_not_tried_between(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = {context: short_of_vram(context, context // 100) for context in STEPS}
    found, rounds = bisected(answers, monkeypatch)
    assert rounds == [[32768, 262144]]
    assert [at.over_mib for at in found] == [(327,), (327,), (327,), (2621,)]


def test_generators_are_answered_together() -> None:
    def counts(name: str, steps: int) -> Generator[str, int, int]:
        total = 0
        for number in range(steps):
            total += yield f"{name}{number}"
        return total

    steps: Steps[str, int, list[int]] = side_by_side([one_by_one(counts("a", 2)), one_by_one(counts("b", 0))])
    assert next(steps) == ["a0"]
    assert steps.send([1]) == ["a1"]
    with pytest.raises(StopIteration) as end:
        steps.send([10])
    assert end.value.value == [11, 0]


# --- the rule ---------------------------------------------------------------------------------------------------------


def label(rows: Sequence[QuantRow]) -> str | None:
    found = chosen(rows)
    return found.label if found is not None else None


def test_the_largest_that_is_whole_on_the_gpus_comes_before_larger_ones_in_ram() -> None:
    rows = [
        row("Q8_0", 31, on_gpus(32768, 40), bits=8.5),
        row("Q5", 20, on_gpus(32768, 48)),
        row("Q4", 17, on_gpus(32768, 48)),
    ]
    assert label(rows) == "Q5"


def test_one_below_four_bits_that_is_whole_does_not() -> None:
    rows = [row("Q6", 60, on_gpus(32768, 20), bits=6.6), row("Q2", 24, on_gpus(32768, 48), bits=2.6)]
    assert label(rows) == "Q6"


def test_sixteen_bits_are_chosen_only_where_there_is_nothing_else() -> None:
    large = row("BF16", 60, on_gpus(32768, 10), bits=16.0)
    assert label([large, row("Q8_0", 31, on_gpus(32768, 30), bits=8.5)]) == "Q8_0"
    assert label([large]) == "BF16"


def test_without_experts_that_with_most_layers_on_the_gpus_is_chosen() -> None:
    rows = [row("Q8_0", 34, on_gpus(32768, 20), experts=False), row("Q4", 19, on_gpus(32768, 40), experts=False)]
    assert label(rows) == "Q4"


def test_nothing_is_chosen_where_nothing_fits() -> None:
    assert label([row("Q4", 17, short_of_vram(32768, 100)), QuantRow("broken", 1, problem="is no GGUF file")]) is None


def test_the_processor_alone_gets_the_largest_that_its_ram_holds() -> None:
    held = AtContext(32768, CpuOnly(), ram=ram(40000))
    too_large = AtContext(32768, CpuOnly(), ram=ram(60000))
    assert label([row("Q8_0", 31, too_large), row("Q6", 25, held), row("Q4", 17, held)]) == "Q6"


@pytest.mark.parametrize(
    ("whole", "context"),
    [((48, 48, 44, 40), 65536), ((40, 38, 36, 35), 131072), ((40, 30, 20, 10), 32768), ((0, 0, 0, 0), 262144)],
)
def test_the_context_costs_no_layer_or_a_tenth_of_them(whole: tuple[int, ...], context: int) -> None:
    """None where every layer can be whole, because then the processor computes nothing."""
    best = row("Q5", 20, *(on_gpus(step, count) for step, count in zip(STEPS, whole, strict=True))).best
    assert best is not None
    assert best.context == context


def test_a_context_that_the_ram_does_not_hold_is_not_chosen() -> None:
    best = row("Q5", 20, on_gpus(32768, 10), on_gpus(65536, 10, need_mib=60000)).best
    assert best is not None
    assert best.context == 32768


def test_the_shape_is_counted_from_the_header() -> None:
    tensors = (
        Tensor("token_embd.weight", (256, 1000), "Q8_0", 272000),
        Tensor("blk.0.ffn_up_exps.weight", (256, 256, 4), "Q4_K", 147456),
    )
    shape = QuantShape.of(Header(tensors, {"general.architecture": "x", "x.block_count": 1}), 419456)
    assert (shape.layers, shape.has_experts) == (1, True)
    assert shape.bits == pytest.approx(8 * 419456 / (256000 + 262144))


# --- the table --------------------------------------------------------------------------------------------------------


def test_the_table_has_a_line_for_each_quant() -> None:
    rows = [
        row("BF16", 61, short_of_vram(32768, 1536, 0), short_of_vram(65536, 2048, 0), bits=16.0),
        row("Q8_0", 31, on_gpus(32768, 40), on_gpus(65536, 39), speed="~21.3", download_s=300.0),
        row("Q4_K_M", 18, on_gpus(32768, 48), on_gpus(65536, 48, need_mib=60000)),
        QuantRow("Q3_K", 15 * GIB, problem="its header has no token_embd.weight"),
    ]
    assert table_lines(rows, ["RTX 4090", "RTX 5070 Ti"], "Q4_K_M") == [
        "whole layers of 48 on the GPUs, by context; -1.5G: so many GiB too little",
        "  quant    GiB    32K    64K  context  VRAM GiB  RAM GiB  tokens/s    download",
        "  BF16    61.0  -1.5G  -2.0G  does not fit with 32K: RTX 4090 1.5 GiB short",
        "  Q8_0    31.0     40     39      64K      19.5      8.8     ~21.3       5 min",
        "* Q4_K_M  18.0     48  -9.8G      32K      19.5      8.8         ?  on the box",
        "  Q3_K    15.0                its header has no token_embd.weight",
    ]


def test_without_gpus_a_context_fits_or_not() -> None:
    fits, not_at_all = AtContext(32768, CpuOnly(), ram=ram(9000)), AtContext(32768, CpuOnly(), ram=ram(51024))
    assert context_cell(fits) == "yes"
    assert context_cell(not_at_all) == "-1.0G"
    assert shortage(not_at_all, []) == "does not fit with 32K: RAM 1.0 GiB short"
    assert table_lines([row("Q4", 17, fits)], [])[1].split() == [
        *("quant", "GiB", "32K", "context", "RAM", "GiB", "tokens/s", "download")
    ]


def test_a_smaller_prompt_cache_is_noted() -> None:
    at = AtContext(32768, CpuOnly(), ram=ram(9000, cache_mib=1792), cache_ram_mib=1792)
    assert list(cache_notes([row("Q4", 17, at)])) == [
        "Q4: the RAM has room for a prompt cache of 1792 MiB, so that is declared"
    ]


# --- speed ------------------------------------------------------------------------------------------------------------


def test_timings_of_other_quants_of_the_repository_count_for_a_rough_prediction() -> None:
    release = "c-1"
    timed = [
        entry(box="box", release=release, flags=("--model", f"/m/acme/x/{quant}.gguf"), ram_bytes_per_token=reads)
        for quant, reads in (("Q4", 1e9), ("Q8", 2e9))
    ]
    exact = runs_of_files(timed, "box", release, lambda path: path.endswith("Q4.gguf"))
    rough = runs_of_files(timed, "box", release, lambda path: path.startswith("/m/acme/x/"))
    assert (len(exact), len(rough)) == (1, 2)
    assert runs_of_files(timed, "other", release, lambda path: True) == []
    assert calibrate(exact) is not None
