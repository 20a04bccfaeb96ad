"""Bytes read from RAM a token, and the predicted time, calibrated on measured runs."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from llamarig.declare.placement import AllOnGpu, CpuMoe, CpuOnly, Fit, Layers, Override, Placement
from llamarig.placement.speed_prediction import calibrate, calibration_runs, ram_bytes_per_token, speed_lines
from llamarig.remote.shared.gguf_header import Header, Tensor, Value
from llamarig.render.placement_arguments import placement_arguments

from tests.checks.bench_entries import RELEASE, entry

MIB = 1 << 20
EXPERTS = 1260 * MIB  # a layer of Qwen3-Coder-Next at Q6_K
SHARED, ATTENTION, OUTPUT = 2 * MIB, 30 * MIB, 240 * MIB
TENSORS = (
    Tensor("token_embd.weight", (2048, 151936), "Q6_K", 240 * MIB),
    *(
        Tensor(f"blk.{layer}.{name}", (), "Q6_K", size)
        for layer in range(48)
        for name, size in [
            ("attn_q.weight", ATTENTION),
            ("ffn_gate_exps.weight", EXPERTS // 3),
            ("ffn_up_exps.weight", EXPERTS // 3),
            ("ffn_down_exps.weight", EXPERTS // 3),
            ("ffn_up_shexp.weight", SHARED),
        ]
    ),
    Tensor("output.weight", (2048, 151936), "Q6_K", OUTPUT),
)
METADATA: dict[str, Value] = {
    "general.architecture": "qwen3next",
    "qwen3next.expert_used_count": 10,
    "qwen3next.expert_count": 512,
}
A_LAYER = EXPERTS * 10 / 512


def reads(placement: Placement) -> float | None:
    words = [word for flag in placement_arguments(placement) for word in flag]
    return ram_bytes_per_token(words, Header(TENSORS, METADATA))


@pytest.mark.parametrize(
    ("placement", "expected"),
    [
        (AllOnGpu(), 0),
        (Layers(gpu=(12, 6), split=(31, 18)), 30 * A_LAYER),
        (Layers(gpu=(15, 6), split=(20, 29)), 27 * A_LAYER),
        (CpuMoe(layers=24), 24 * A_LAYER),
        (Override(rules=(r"blk\.([0-9]|1[0-2])\.=CUDA0", "exps=CPU")), 35 * A_LAYER),
        # 10 layers and the output on the GPU; the first 38 layers entirely in RAM
        (Override(rules=("nothing=CPU",), gpu_layers=11), 38 * (A_LAYER + ATTENTION + SHARED)),
        (CpuOnly(), 48 * (A_LAYER + ATTENTION + SHARED) + OUTPUT),
    ],
)
def test_bytes_a_token_reads(placement: Placement, expected: float) -> None:
    found = reads(placement)
    assert found == pytest.approx(expected)


def test_unknown_placements_have_no_prediction() -> None:
    assert reads(Fit()) is None, "llama.cpp decides that when it loads"
    assert ram_bytes_per_token(["--ctx-size", "8192"], Header(TENSORS, METADATA)) is None, "fit is llama.cpp's default"
    words = ["--n-gpu-layers", "99", "--fit", "off", "--override-tensor", "exps=CPU"]
    assert ram_bytes_per_token(words, Header(TENSORS)) is None, "the header does not say how many experts a token uses"


def test_calibration_on_the_measured_table() -> None:
    """Aligned placements of 18 and 21 whole layers on two H200s, 32 threads: tg128 medians 70.7 and 76.9 tokens/s."""
    runs = [(30 * A_LAYER, 1000 / 70.7), (27 * A_LAYER, 1000 / 76.9)]
    found = calibrate(runs)
    assert found is not None
    assert found.runs == 2
    assert not found.assumed
    assert found.tokens_per_second(30 * A_LAYER) == pytest.approx(70.7)
    # In the same run llama.cpp's own fit kept 19 whole layers and parts of two more: 71.5, and 72.4 with one more.
    assert found.tokens_per_second(28.5 * A_LAYER) == pytest.approx(71.5, rel=0.04)
    assert str(found) == "calibrated on 2 runs: 2.74 ms a token and 67.9 GB/s of RAM"


def test_placements_are_ranked_by_predicted_speed() -> None:
    found = calibrate([(30 * A_LAYER, 1000 / 70.7), (27 * A_LAYER, 1000 / 76.9)])
    placements = [("this plan", 27 * A_LAYER), ("llama.cpp's fit", None), ("everything on the GPUs", 0.0)]
    assert speed_lines(found, placements) == [
        "everything on the GPUs: 364.9 tokens/s (2.74 ms, 0 MB from RAM a token)",
        "this plan: 76.9 tokens/s (13.00 ms, 697 MB from RAM a token)",
        "calibrated on 2 runs: 2.74 ms a token and 67.9 GB/s of RAM",
    ]
    assert speed_lines(None, placements) == []
    assert speed_lines(found, [("fit", None)]) == []


def test_the_answer_of_fit_is_read_too() -> None:
    rule = r"blk\.(1[5-9]|[2-3][0-9]|4[0-7])\.ffn_(up|down|gate_up|gate)_(ch|)exps=CPU"
    answer = ["-c", "262144", "-ngl", "49", "-ts", "16,33", "-ot", rule]
    assert ram_bytes_per_token([*answer, "--fit", "off"], Header(TENSORS, METADATA)) == pytest.approx(33 * A_LAYER)


def test_the_assumption_for_a_single_run_is_named() -> None:
    found = calibrate([(30 * A_LAYER, 1000 / 70.7)])
    assert found is not None
    assert found.tokens_per_second(30 * A_LAYER) == pytest.approx(70.7)
    assert "calibrated on 1 run:" in str(found)
    assert "assumed: only the RAM takes time, so a gain is an upper bound" in str(found)
    assert found.tokens_per_second(27 * A_LAYER) > 76.9, "the bound holds for what was measured"


@pytest.mark.parametrize(
    "runs",
    [
        [],
        [(0.0, 5.0)],  # with everything on the GPU the speed of the RAM is unknown
        [(1e9, 20.0), (2e9, 10.0)],  # more bytes in less time: other conditions differed
    ],
)
def test_runs_that_determine_nothing_give_no_calibration(runs: list[tuple[float, float]]) -> None:
    assert calibrate(runs) is None


@given(
    fixed=st.floats(0.1, 100),
    rate=st.floats(5, 500),
    sizes=st.lists(st.floats(1e7, 1e11), min_size=2, max_size=8),
    other=st.floats(0, 1e11),
)
def test_least_squares_recovers_the_constants(fixed: float, rate: float, sizes: list[float], other: float) -> None:
    if max(sizes) < 1.1 * min(sizes):
        return
    truth = [(size, fixed + size / rate / 1e6) for size in sizes]
    found = calibrate(truth)
    assert found is not None
    assert found.ms_per_token(other) == pytest.approx(fixed + other / rate / 1e6, rel=1e-3, abs=0.1)


@given(st.lists(st.tuples(st.floats(0, 1e12), st.floats(1e-3, 1e6)), max_size=6))
def test_more_reading_is_never_faster(runs: list[tuple[float, float]]) -> None:
    found = calibrate(runs)
    if found is not None:
        assert 0 < found.ms_per_token(1e9) <= found.ms_per_token(2e9)


def test_only_runs_of_this_model_box_build_and_file_are_used() -> None:
    file = "/m/x-00001-of-00003.gguf"
    flags = ("--model", file, "--tensor-split", "20,29")
    deeper = entry().conditions.model_copy(update={"prompt_tokens": 16384})
    ledger = [
        entry(generation=40, flags=flags, ram_bytes_per_token=8e8),
        entry(generation=50, flags=flags, ram_bytes_per_token=8e8),  # the same flags again: the newer one counts
        entry(generation=60, flags=(*flags, "--mlock"), ram_bytes_per_token=6e8),
        entry(generation=1, flags=(*flags, "--a"), ram_bytes_per_token=1e8, box="b"),
        entry(generation=1, flags=(*flags, "--b"), ram_bytes_per_token=1e8, model="y"),
        entry(generation=1, flags=(*flags, "--c"), ram_bytes_per_token=1e8, release="8" * 40),
        entry(generation=1, flags=("--model", "/m/y.gguf"), ram_bytes_per_token=1e8),
        entry(generation=1, flags=(*flags, "--d"), ram_bytes_per_token=1e8, conditions=deeper),
        entry(generation=1, flags=(*flags, "--fit", "on")),
        entry(generation=80, flags=(*flags, "--jinja"), ram_bytes_per_token=4e8),
    ]
    found = calibration_runs(ledger, box="a", model="x", release=RELEASE, file=file)
    assert found == [(8e8, 20.0), (6e8, 1000 / 60), (4e8, 12.5)]


def test_a_placement_without_weights_in_ram_has_no_speed_by_the_ram_alone() -> None:
    """One timing cannot tell how long anything but the RAM takes. Regression: a division by zero."""
    lines = speed_lines(calibrate([(2e9, 40.0)]), [("this plan", 0.0), ("the plan before", 2e9)])
    assert [line.partition(":")[0] for line in lines] == ["the plan before", "calibrated on 1 run"]
    assert speed_lines(calibrate([(2e9, 40.0)]), [("this plan", 0.0)]) == []
