"""Recognizes what a set of --override-tensor rules does to whole layers."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from llamarig.placement.model_layers import EXPERTS, layer_of
from llamarig.remote.shared.gguf_header import Tensor

MOST_LAYERS = 128
"""Layers that rules are tried on where the model's number is not known; no model with experts has more."""
_EXPERT_TENSORS = ("ffn_gate_exps", "ffn_up_exps", "ffn_down_exps")
_DENSE_TENSORS = (
    *("attn_norm", "attn_q", "attn_k", "attn_v", "attn_output", "ffn_norm", "post_attention_norm", "attn_qkv"),
    *("ssm_in", "ssm_out", "ssm_conv1d", "ffn_gate_inp", "ffn_gate_shexp", "ffn_up_shexp", "ffn_down_shexp"),
)
_OUTSIDE = ("token_embd.weight", "output_norm.weight", "output.weight")


def stand_in_tensors(layers: int) -> list[Tensor]:
    """Names of tensors as a model with experts has them, for rules of a model whose header is not at hand."""
    names = [f"blk.{layer}.{kind}.weight" for layer in range(layers) for kind in (*_DENSE_TENSORS, *_EXPERT_TENSORS)]
    return [Tensor(name, (32,), "F16", 64) for name in (*_OUTSIDE, *names)]


State = Literal["experts", "split", "other"] | int
"""Of a layer: its experts are in RAM, it is where the split puts it, or whole on the GPU of this number."""


@dataclass(frozen=True)
class WholeLayers:
    """What rules do, where whole layers describe it.

    :param gpu: the number of whole layers on each GPU that the rules name, from the first layer on, in their order
    :param first_in_ram: the first layers whose experts are in RAM, where the layers after them are whole
    :param first_whole: the first layers that are whole, where the experts of all after them are in RAM
    """

    gpu: tuple[int, ...] = ()
    first_in_ram: int | None = None
    first_whole: int | None = None


def whole_layers(
    rules: Sequence[str], layers: int | None, tensors: Sequence[Tensor] | None = None
) -> WholeLayers | None:
    """What the rules do; None where they do something else, or cannot be read.

    :param layers: of the model; None where their number is not known
    :param tensors: of the model; stand-ins where its header is not at hand
    """
    number = layers or MOST_LAYERS
    try:
        states = _states(rules, number, tensors if tensors is not None else stand_in_tensors(number))
    except re.error:
        return None
    if states is None:
        return None
    return _named_gpus(states) or _one_boundary(states, is_known=layers is not None)


def _named_gpus(states: Sequence[State]) -> WholeLayers | None:
    """Layers on CUDA0, then on CUDA1 and so on, and the experts of all others in RAM."""
    gpu: list[int] = []
    at = 0
    while at < len(states) and states[at] == len(gpu):
        end = at
        while end < len(states) and states[end] == len(gpu):
            end += 1
        gpu.append(end - at)
        at = end
    rest = states[at:]
    return WholeLayers(gpu=tuple(gpu)) if gpu and all(state == "experts" for state in rest) else None


def _one_boundary(states: Sequence[State], *, is_known: bool) -> WholeLayers | None:
    in_ram = [number for number, state in enumerate(states) if state == "experts"]
    if any(state not in ("experts", "split") for state in states) or not in_ram:
        return None
    if len(in_ram) == len(states):
        return WholeLayers(first_whole=0)
    if in_ram == list(range(len(in_ram))):
        return WholeLayers(first_in_ram=len(in_ram))
    if in_ram == list(range(in_ram[0], len(states))):
        return WholeLayers(first_whole=in_ram[0])
    # Rules that end at the model's last layer, without saying so: 20 to 47 of 48.
    if not is_known and in_ram == list(range(in_ram[0], in_ram[-1] + 1)) and in_ram[-1] >= 15:
        return WholeLayers(first_whole=in_ram[0])
    return None


def _states(rules: Sequence[str], layers: int, tensors: Sequence[Tensor]) -> list[State] | None:
    """The state of each layer; None where a rule moves a tensor outside of the layers, or names no number of a GPU."""
    patterns = [(re.compile(rule.partition("=")[0]), rule.partition("=")[2]) for rule in rules]
    experts: list[set[str]] = [set() for _ in range(layers)]
    dense: list[set[str]] = [set() for _ in range(layers)]
    for tensor in tensors:
        device = next((device for pattern, device in patterns if pattern.search(tensor.name)), "")
        layer = layer_of(tensor.name)
        if layer is None:
            if device and not (device == "CPU" and tensor.name.startswith("token_embd.")):
                return None
        elif layer < layers and tensor.name.endswith(".weight"):
            (experts if EXPERTS.search(tensor.name) else dense)[layer].add(device)
    return [_state(dense[layer], experts[layer]) for layer in range(layers)]


def _state(dense: set[str], experts: set[str]) -> State:
    if not experts:
        experts = dense  # one of the first layers of some models, which have no experts
    devices = (dense | experts) - {""}
    if not devices:
        return "split"
    if experts == {"CPU"} and dense <= {""}:
        return "experts"
    numbered = re.fullmatch(r"[A-Za-z]+(\d+)", next(iter(devices))) if len(devices) == 1 else None
    # Where only the experts are named, the rest of the layer is where the split puts it.
    return int(numbered[1]) if numbered and dense == devices == experts else "other"
