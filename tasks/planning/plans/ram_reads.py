"""How many bytes of weights a server reads from RAM for every token it generates, by its own command line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

from tasks.planning.coverage import covered, layer_counts, layer_of
from tasks.planning.gguf_header import Tensor, Value

_SHORT = {"-ngl": "--n-gpu-layers", "-ot": "--override-tensor"}


def ram_bytes_per_token(
    arguments: Sequence[str], tensors: Sequence[Tensor], metadata: Mapping[str, Value]
) -> float | None:
    """Bytes of the weights in RAM that one token needs: of experts the used share, of everything else all.

    The token embedding is left out: of it a token reads one row; and layers of multi-token prediction, unless
    draft-mtp computes them. None where llama.cpp decides when it loads, or the header does not say how many experts a
    token uses.

    :param arguments: of llama-server as llamarig writes them, or of llama-fit-params as it answers
    """
    said: dict[str, str] = {}
    for flag, value in pairwise(arguments):
        if flag.startswith("--") or flag in _SHORT:
            said[_SHORT.get(flag, flag)] = value
    counts = layer_counts(tensors, metadata)
    layers = counts.all if "draft-mtp" in said.get("--spec-type", "").split(",") else counts.trunk
    on_gpu = said.get("--n-gpu-layers", "")
    if said.get("--fit", "on") == "on" or not on_gpu.isdigit():
        return None
    rules = said["--override-tensor"].split(",") if "--override-tensor" in said else []
    if "--n-cpu-moe" in said:
        first = "|".join(str(layer) for layer in range(int(said["--n-cpu-moe"])))
        rules.append(rf"blk\.({first})\.ffn_(up|down|gate|gate_up)_(ch|)exps=CPU")
    named = {tensor.name: rule.device for rule in covered(rules, tensors) for tensor in rule.tensors}
    # llama.cpp takes the last --n-gpu-layers layers, and counts the output as one more.
    first_on_gpu = counts.positions - int(on_gpu)
    in_ram = [
        tensor
        for tensor in tensors
        if tensor.name != "token_embd.weight"
        and named.get(tensor.name, "CPU" if _position(tensor.name, counts.all) < first_on_gpu else "GPU") == "CPU"
        and (layer_of(tensor.name) or 0) < layers
    ]
    experts = sum(tensor.size for tensor in in_ram if "exps." in tensor.name)
    rest = sum(tensor.size for tensor in in_ram if "exps." not in tensor.name)
    if not experts:
        return float(rest)
    share = used_share(metadata)
    return None if share is None else rest + experts * share


def used_share(metadata: Mapping[str, Value]) -> float | None:
    """Which share of its experts a token uses; None where the header does not say."""
    kind = metadata.get("general.architecture")
    used, count = metadata.get(f"{kind}.expert_used_count"), metadata.get(f"{kind}.expert_count")
    if isinstance(used, int) and isinstance(count, int) and 0 < used <= count:
        return used / count
    return None


def _position(name: str, output: int) -> int:
    """The position of a tensor's layer; what belongs to none is the output's."""
    number = layer_of(name)
    return output if number is None else number
