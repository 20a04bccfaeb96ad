"""Computes the bytes of weights that a server reads from RAM for each generated token, from its command line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

from llamarig.placement.tensor_overrides import tensors_in_ram
from llamarig.remote.shared.gguf_header import Header, Value

_LONG_NAMES = {"-ngl": "--n-gpu-layers", "-ot": "--override-tensor"}


def ram_bytes_per_token(arguments: Sequence[str], header: Header) -> float | None:
    """Bytes of weights read from RAM for one token: the used share of the experts, and everything else.

    Not counted: the token embedding, of which a token reads one row, and layers of multi-token prediction, unless
    draft-mtp computes them. None if llama.cpp decides the placement when it loads, or the header does not tell how many
    experts a token uses.

    :param arguments: of llama-server as llamarig writes them, or of llama-fit-params as it prints them
    """
    flags = {_LONG_NAMES.get(flag, flag): value for flag, value in pairwise(arguments) if flag.startswith("-")}
    if flags.get("--fit", "on") == "on" or not flags.get("--n-gpu-layers", "").isdigit():
        return None
    in_ram = tensors_in_ram(flags, header, mtp="draft-mtp" in flags.get("--spec-type", "").split(","))
    experts = sum(tensor.size for tensor in in_ram if "exps." in tensor.name)
    rest = sum(tensor.size for tensor in in_ram if "exps." not in tensor.name)
    if not experts:
        return float(rest)
    share = _used_share(header.metadata)
    return None if share is None else rest + experts * share


def _used_share(metadata: Mapping[str, Value]) -> float | None:
    """The share of its experts that a token uses; None if the header does not tell."""
    kind = metadata.get("general.architecture")
    used, count = metadata.get(f"{kind}.expert_used_count"), metadata.get(f"{kind}.expert_count")
    if isinstance(used, int) and isinstance(count, int) and 0 < used <= count:
        return used / count
    return None
