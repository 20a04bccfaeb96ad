"""Computes the bytes of weights that a server reads from RAM for each generated token, from its command line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

from llamarig.placement.model_layers import layer_counts, layer_of
from llamarig.placement.tensor_overrides import rule_coverage
from llamarig.remote.shared.gguf_header import Tensor, Value

_LONG_NAMES = {"-ngl": "--n-gpu-layers", "-ot": "--override-tensor"}


def ram_bytes_per_token(
    arguments: Sequence[str], tensors: Sequence[Tensor], metadata: Mapping[str, Value]
) -> float | None:
    """Bytes of weights read from RAM for one token: the used share of the experts, and everything else.

    Not counted: the token embedding, of which a token reads one row, and layers of multi-token prediction, unless
    draft-mtp computes them. None if llama.cpp decides the placement when it loads, or the header does not tell how many
    experts a token uses.

    :param arguments: of llama-server as llamarig writes them, or of llama-fit-params as it prints them
    """
    flags: dict[str, str] = {}
    for flag, value in pairwise(arguments):
        if flag.startswith("--") or flag in _LONG_NAMES:
            flags[_LONG_NAMES.get(flag, flag)] = value
    counts = layer_counts(tensors, metadata)
    layers = counts.all if "draft-mtp" in flags.get("--spec-type", "").split(",") else counts.trunk
    on_gpu = flags.get("--n-gpu-layers", "")
    if flags.get("--fit", "on") == "on" or not on_gpu.isdigit():
        return None
    rules = flags["--override-tensor"].split(",") if "--override-tensor" in flags else []
    if "--n-cpu-moe" in flags:
        first = "|".join(str(layer) for layer in range(int(flags["--n-cpu-moe"])))
        rules.append(rf"blk\.({first})\.ffn_(up|down|gate|gate_up)_(ch|)exps=CPU")
    moved_to = {tensor.name: rule.device for rule in rule_coverage(rules, tensors) for tensor in rule.tensors}
    # llama.cpp puts the last --n-gpu-layers layers on GPUs, and counts the output as one more.
    first_on_gpu = counts.positions - int(on_gpu)
    in_ram = [
        tensor
        for tensor in tensors
        if tensor.name != "token_embd.weight"
        and moved_to.get(tensor.name, "CPU" if _position(tensor.name, counts.all) < first_on_gpu else "GPU") == "CPU"
        and (layer_of(tensor.name) or 0) < layers
    ]
    experts = sum(tensor.size for tensor in in_ram if "exps." in tensor.name)
    rest = sum(tensor.size for tensor in in_ram if "exps." not in tensor.name)
    if not experts:
        return float(rest)
    share = used_share(metadata)
    return None if share is None else rest + experts * share


def used_share(metadata: Mapping[str, Value]) -> float | None:
    """The share of its experts that a token uses; None if the header does not tell."""
    kind = metadata.get("general.architecture")
    used, count = metadata.get(f"{kind}.expert_used_count"), metadata.get(f"{kind}.expert_count")
    if isinstance(used, int) and isinstance(count, int) and 0 < used <= count:
        return used / count
    return None


def _position(name: str, output: int) -> int:
    """The position of a tensor's layer; tensors outside of layers belong to the output."""
    number = layer_of(name)
    return output if number is None else number
