"""What --override-tensor rules do in whole layers."""

from __future__ import annotations

import pytest
from llamarig.adopt.adopted_model import Known, adopted_model
from llamarig.adopt.launch import Launch
from llamarig.adopt.override_rules import WholeLayers, whole_layers
from llamarig.declare.placement import AllOnGpu, CpuMoe, CpuOnly, Fit, Layers, Override, Placement
from llamarig.placement.tensor_overrides import rule_coverage, tensors_in_ram
from llamarig.remote.shared.gguf_header import Header, Tensor
from llamarig.render.placement_arguments import placement_arguments

RULES = {
    "two cards": ((r"blk\.([0-9]|1[0-2])\.=CUDA0", r"blk\.(1[3-8])\.=CUDA1", "exps=CPU"), WholeLayers(gpu=(13, 6))),
    "one card": ((r"blk\.[0-9]\.=CUDA0", "exps=CPU"), WholeLayers(gpu=(10,))),
    "no card": (("exps=CPU",), WholeLayers(first_whole=0)),
    "first layers in RAM": ((r"blk\.[0-9]\.ffn_.*_exps\.=CPU",), WholeLayers(first_in_ram=10)),
    "last layers in RAM": (
        (r"\.([1-9][0-9])\.ffn_(up|down|gate|gate_up)_(ch|)exps=CPU",),
        WholeLayers(first_whole=10),
    ),
    "the middle in RAM": ((r"blk\.1[0-9]\.ffn_.*_exps\.=CPU",), None),
    "cards in another order": ((r"blk\.[0-9]\.=CUDA1", r"blk\.1[0-9]\.=CUDA0", "exps=CPU"), None),
    "a gap": ((r"blk\.[0-4]\.=CUDA0", r"blk\.[6-9]\.=CUDA1", "exps=CPU"), None),
    "only some experts": ((r"ffn_(up|down)_exps=CPU",), None),
    "only the experts on a card": ((r"blk\.[0-9]\.ffn_.*_exps=CUDA0", "exps=CPU"), None),
    "the output": ((r"^output=CPU", "exps=CPU"), None),
    "whole layers in RAM": ((r"blk\.[0-9]\.=CPU",), None),
    "no regular expression": (("(",), None),
}


@pytest.mark.parametrize(("rules", "expected"), RULES.values(), ids=RULES.keys())
def test_what_rules_do_in_whole_layers(rules: tuple[str, ...], expected: WholeLayers | None) -> None:
    assert whole_layers(rules, 48) == expected


def header(layers: int = 48) -> Header:
    kinds = ("attn_q", "attn_norm", "ffn_gate_inp", "ffn_gate_exps", "ffn_up_exps", "ffn_down_exps")
    names = [f"blk.{layer}.{kind}.weight" for layer in range(layers) for kind in kinds]
    tensors = tuple(Tensor(name, (32,), "F16", 64) for name in ("token_embd.weight", *names, "output.weight"))
    return Header(tensors, {"general.architecture": "x", "x.block_count": layers, "x.context_length": 32768})


def placement(text: str, known: Known | None = None) -> Placement:
    model = adopted_model(Launch(("-m", "/m/m-Q8_0.gguf", "-c", "4096", *text.split())), known or Known()).model
    assert model is not None
    return model.serve.placement


FLAGS: dict[str, tuple[str, Placement]] = {
    "nothing": ("", Fit()),
    "auto": ("-ngl auto", Fit()),
    "fit": ("-fit on -fitt 512,1024 -fitc 8192", Fit(target_mib=(512, 1024), minimum_context=8192)),
    "no fit": ("--fit off", AllOnGpu()),
    "all": ("-ngl all", AllOnGpu()),
    "99": ("-ngl 99", AllOnGpu()),
    "none": ("-ngl 0", CpuOnly()),
    "no device": ("-ngl 99 --device none", CpuOnly()),
    "some": ("-ngl 20", Override(gpu_layers=20)),
    "a split": ("-ngl 99 -ts 3,1", Override(split=(3, 1))),
    "a split of fractions": ("-ts 0.6,0.4", Override(split=(3, 2))),
    "a split with slashes": ("-ts 24/16/0", Override(split=(24, 16, 0))),
    "some, and a split": ("-ngl 20 -ts 3,1", Override(gpu_layers=20, split=(3, 1))),
    "experts of some layers": ("-ncmoe 24", CpuMoe(layers=24)),
    "experts of some layers, and a split": ("-ngl 99 -ncmoe 24 -ts 5,2", CpuMoe(layers=24, split=(5, 2))),
    "all experts": ("--cpu-moe", Override(rules=("ffn_(up|down|gate|gate_up)_(ch|)exps=CPU",))),
    "some layers, with rules": ("-ngl 20 -ot exps=CPU", Override(rules=("exps=CPU",), gpu_layers=20)),
    "an unknown number of layers": (
        r"-ot blk\.[0-9]\.=CUDA0,exps=CPU",
        Override(rules=("blk[.][0-9][.]=CUDA0", "exps=CPU")),
    ),
}


@pytest.mark.parametrize(("text", "expected"), FLAGS.values(), ids=FLAGS.keys())
def test_the_placement_that_flags_mean(text: str, expected: Placement) -> None:
    assert placement(text) == expected


def test_with_the_models_file_at_hand() -> None:
    known = Known(header())
    assert placement(r"-ot blk\.([0-9]|1[0-2])\.=CUDA0,blk\.(1[3-8])\.=CUDA1,exps=CPU", known) == Layers(
        gpu=(13, 6), split=(34, 15)
    )
    assert placement(r"-ts 32,17 -ot blk\.([0-9]|1[0-2])\.=CUDA0,blk\.(1[3-8])\.=CUDA1,exps=CPU", known) == Layers(
        gpu=(13, 6), split=(32, 17)
    )
    assert placement("--cpu-moe", known) == CpuMoe(layers=48)
    assert placement("-ngl 49", known) == AllOnGpu()
    assert placement("-ngl 48", known) == Override(gpu_layers=48)
    # A model with more than 98 layers.
    assert placement("-ngl 99", Known(header(126))) == Override(gpu_layers=99)
    assert placement("-ngl all", Known(header(126))) == AllOnGpu()


@pytest.mark.parametrize("text", [r"\.([1-9][0-9])\.ffn_.*_exps=CPU", "exps=CPU", r"blk\.[0-9]\.=CUDA0,exps=CPU"])
def test_the_declared_placement_keeps_the_same_tensors_in_ram(text: str) -> None:
    declared = placement(f"-ot {text}", Known(header()))
    flags = {pair[0]: pair[1] for pair in placement_arguments(declared)}
    kept = {tensor.name for tensor in tensors_in_ram(flags, header(), mtp=False)}
    original = {
        tensor.name
        for rule in rule_coverage(text.split(","), header().tensors)
        if rule.device == "CPU"
        for tensor in rule.tensors
    }
    assert kept == original


def test_the_whole_context_of_a_model_at_hand() -> None:
    model = adopted_model(Launch(("-m", "/m/m-Q8_0.gguf")), Known(header())).model
    assert model is not None
    assert model.serve.context == 32768
