"""A placement covers exactly the declared layers, which hand-written --override-tensor rules often miss."""

from __future__ import annotations

import re
from itertools import product

import pytest
from llamarig.declare.placement import AllOnGpu, Auto, CpuMoe, CpuOnly, Fit, Layers, Override, Placement
from llamarig.render.placement_arguments import experts_on_cpu, layers_with_experts_on_cpu, placement_arguments

# Qwen3-Coder-Next (src/models/qwen3next.cpp, pinned commit): 48 layers, every fourth with full attention.
LAYERS = 48
EXPERTS = ("ffn_up_exps", "ffn_down_exps", "ffn_gate_exps", "ffn_gate_up_exps", "ffn_up_chexps", "ffn_down_chexps")
OTHERS = (
    *("attn_q", "attn_k", "attn_v", "attn_output", "attn_qkv", "attn_gate", "attn_norm", "post_attention_norm"),
    *("ssm_conv1d", "ssm_ba", "ssm_out", "ssm_norm", "ffn_gate_inp", "ffn_gate_inp_shexp"),
    *("ffn_up_shexp", "ffn_down_shexp", "ffn_gate_shexp", "ffn_up", "ffn_down", "ffn_gate"),
)
GLOBAL = ("token_embd.weight", "output_norm.weight", "output.weight")


def _matches(pattern: str, name: str) -> bool:
    """As llama.cpp matches: std::regex_search, which agrees with Python on these patterns."""
    return re.search(pattern, name) is not None


def _flags(placement: Placement) -> dict[str, str]:
    return {flag: value for flag, *values in placement_arguments(placement) for value in values}


@pytest.mark.parametrize(
    ("placement", "on_cpu"),
    [
        pytest.param(Layers(gpu=(13, 6), split=(32, 17)), {*range(13, 32), *range(38, 48)}, id="box A, Q6"),
        pytest.param(Layers(gpu=(15, 7), split=(32, 17)), {*range(15, 32), *range(39, 48)}, id="box A, Q5"),
        pytest.param(Layers(gpu=(12,), split=(49,)), set(range(12, 48)), id="box D"),
        pytest.param(Layers(gpu=(0, 0), split=(1, 48)), set(range(48)), id="no experts on any GPU"),
        pytest.param(Layers(gpu=(1, 47), split=(1, 48)), set(), id="everything on the GPUs"),
        pytest.param(Layers(gpu=(0, 5, 9), split=(16, 17, 16)), {*range(16), *range(21, 33), *range(42, 48)}, id="3"),
        pytest.param(Layers(gpu=(48, 0), split=(49, 0)), set(), id="everything on the first of two"),
        pytest.param(Layers(gpu=(20, 0), split=(49, 0)), set(range(20, 48)), id="the second holds nothing"),
        pytest.param(Layers(gpu=(3,), split=(39,), in_ram=10), set(range(13, 48)), id="ten layers wholly in RAM"),
    ],
)
def test_experts_of_all_other_layers_are_in_ram(placement: Layers, on_cpu: set[int]) -> None:
    assert layers_with_experts_on_cpu(placement) == sorted(on_cpu)
    rule = _flags(placement).get("--override-tensor")
    if not on_cpu:
        assert rule is None
        return
    assert rule is not None
    pattern, device = rule.rsplit("=", 1)
    assert device == "CPU"
    for layer, tensor, kind in product(range(LAYERS), EXPERTS, ("weight", "bias", "scale")):
        assert _matches(pattern, f"blk.{layer}.{tensor}.{kind}") == (layer in on_cpu), (layer, tensor)
    for layer, tensor in product(range(LAYERS), OTHERS):
        assert not _matches(pattern, f"blk.{layer}.{tensor}.weight"), (layer, tensor)
    assert not any(_matches(pattern, name) for name in GLOBAL)


def test_a_split_layer_keeps_the_named_expert_tensors_on_its_gpu() -> None:
    placement = Layers(gpu=(15, 6), split=(21, 28), partial=(("down",), ()))
    rules = _flags(placement)["--override-tensor"].split(",")
    assert all(rule.endswith("=CPU") for rule in rules)
    patterns = [rule.removesuffix("=CPU") for rule in rules]
    for tensor, moved in {"ffn_down_exps": False, "ffn_up_exps": True, "ffn_gate_exps": True}.items():
        assert any(_matches(pattern, f"blk.15.{tensor}.weight") for pattern in patterns) == moved
        assert not any(_matches(pattern, f"blk.14.{tensor}.weight") for pattern in patterns)
        assert any(_matches(pattern, f"blk.16.{tensor}.bias") for pattern in patterns)
    assert not any(_matches(pattern, "blk.15.ffn_gate_inp.weight") for pattern in patterns)


def test_the_first_layers_are_those_wholly_in_ram() -> None:
    """llama.cpp leaves the first layers out when --n-gpu-layers is less than all; the output counts as one."""
    assert _flags(Layers(gpu=(3,), split=(39,), in_ram=10))["--n-gpu-layers"] == "39"
    assert _flags(Layers(gpu=(3,), split=(49,)))["--n-gpu-layers"] == "99"


def test_auto_cannot_be_rendered_without_its_plan() -> None:
    with pytest.raises(ValueError, match="rendered from its plan"):
        placement_arguments(Auto())


def test_there_is_one_margin_per_gpu() -> None:
    assert Auto().margins(2) == (384, 384)
    assert Auto(per_gpu=(384, 1024)).margins(2) == (384, 1024)
    with pytest.raises(ValueError, match="2 margins, and there are 3 GPUs"):
        Auto(per_gpu=(384, 1024)).margins(3)


def test_a_rule_matches_whole_layer_numbers() -> None:
    pattern = experts_on_cpu([1, 10]).removesuffix("=CPU")
    covered = [layer for layer in range(200) if _matches(pattern, f"blk.{layer}.ffn_up_exps.weight")]
    assert covered == [1, 10]


def test_a_rule_needs_no_quoting() -> None:
    """A backslash is eaten by shells and warned about by systemd; a comma splits rules in llama.cpp."""
    assert not set(experts_on_cpu(range(48))) & set("\\,;#%$\"' ")


def test_gpt_oss_on_two_gpus() -> None:
    placement = Layers(gpu=(12, 4), split=(25, 12))  # 36 layers and the output
    assert layers_with_experts_on_cpu(placement) == [*range(12, 25), *range(29, 36)]


def test_weights_follow_the_split_and_no_rule_names_a_gpu() -> None:
    """KV cache and state stay where the split puts a layer, so a rule that moves weights to a GPU costs a copy."""
    flags = _flags(Layers(gpu=(13, 6), split=(32, 17)))
    assert flags["--tensor-split"] == "32,17"
    assert flags["--n-gpu-layers"] == "99"
    assert flags["--fit"] == "off"
    assert flags["--override-tensor"].endswith("=CPU")
    assert "CUDA" not in flags["--override-tensor"]


@pytest.mark.parametrize("split", [(32, 17), (31, 18), (25, 12), (1, 48), (16, 17, 16), (49,)])
def test_llama_cpp_splits_layers_the_same_way(split: tuple[int, ...]) -> None:
    """Layer i goes to the first GPU whose cumulated share is greater than i / (layers + 1), all in 32-bit floats
    (src/llama-model.cpp, pinned commit; the numbers are small enough for Python's doubles to decide alike)."""
    total = sum(split)
    shares = [sum(split[: index + 1]) / total for index in range(len(split))]
    placed = [next(gpu for gpu, share in enumerate(shares) if share > layer / total) for layer in range(total)]
    assert tuple(placed.count(gpu) for gpu in range(len(split))) == split


@pytest.mark.parametrize(
    ("placement", "flags"),
    [
        (CpuOnly(), {"--n-gpu-layers": "0", "--fit": "off"}),
        (AllOnGpu(), {"--n-gpu-layers": "99", "--fit": "off"}),
        (CpuMoe(layers=24), {"--n-gpu-layers": "99", "--fit": "off", "--n-cpu-moe": "24"}),
        (
            CpuMoe(layers=24, split=(30, 10)),
            {"--n-gpu-layers": "99", "--fit": "off", "--tensor-split": "30,10", "--n-cpu-moe": "24"},
        ),
        (Fit(), {"--fit": "on", "--fit-target": "1024"}),
        (
            Fit(target_mib=(128, 1024), minimum_context=131072),
            {"--fit": "on", "--fit-target": "128,1024", "--fit-ctx": "131072"},
        ),
        (
            Override(gpu_layers=20),
            {"--n-gpu-layers": "20", "--fit": "off"},
        ),
        (
            Override(split=(3, 0, 1)),
            {"--n-gpu-layers": "99", "--fit": "off", "--tensor-split": "3,0,1"},
        ),
        (
            Override(rules=("blk[.]1[.]=CUDA0", "exps=CPU"), gpu_layers=40, split=(3, 1)),
            {
                "--n-gpu-layers": "40",
                "--fit": "off",
                "--tensor-split": "3,1",
                "--override-tensor": "blk[.]1[.]=CUDA0,exps=CPU",
            },
        ),
    ],
    ids=lambda value: getattr(value, "kind", ""),
)
def test_flags_of_the_other_placements(placement: Placement, flags: dict[str, str]) -> None:
    assert _flags(placement) == flags


@pytest.mark.parametrize("pattern", [r"\.([0-1][2-9]|[2-9][0-9]|[0-9][0-9][0-9])\.ffn_(up|down|gate)_exps."])
def test_a_hand_written_regex_for_10_and_up_matches_12_and_up(pattern: str) -> None:
    """Its owner wrote it for layers 10 and up, and it misses fused experts: why rules are generated here."""
    covered = {layer for layer in range(LAYERS) if _matches(pattern, f"blk.{layer}.ffn_up_exps.weight")}
    assert covered == set(layers_with_experts_on_cpu(Layers(gpu=(12,), split=(49,))))
    assert not _matches(pattern, "blk.20.ffn_gate_up_exps.weight")
