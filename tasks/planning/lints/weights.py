"""Lints of a placement beside the tensors the model's own header lists."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from tasks.planning.coverage import Covered, covered, layer_count, layer_of, ranges
from tasks.planning.gguf_header import Header, Tensor
from tasks.planning.lints.lint import Lint
from tasks.spec.model import Model
from tasks.spec.placement import CpuMoe, Layers, Override

_EXPERTS = re.compile(r"ffn_(up|down|gate|gate_up)_(ch|)exps")


def weight_lints(model: Model, header: Header) -> Iterator[Lint]:
    """What the declared placement does to this very model."""
    placement = model.serve.placement
    layers = layer_count(header.tensors)
    if isinstance(placement, Layers) and sum(placement.split) != layers + 1:
        yield Lint(
            "layers-of-another-model",
            "refusal",
            f"split {placement.split} adds up to {sum(placement.split)}, but this model has {layers} layers and the "
            f"output, {layers + 1} in all: other layers than meant would go to each GPU",
            f"make split add up to {layers + 1}",
        )
    if isinstance(placement, CpuMoe) and placement.layers > layers:
        yield Lint(
            "layers-of-another-model",
            "warning",
            f"cpu_moe keeps the experts of {placement.layers} layers in RAM, but this model has {layers}",
            f"lower it to {layers} or less",
        )
    if isinstance(placement, Layers | CpuMoe) and not any(_EXPERTS.search(tensor.name) for tensor in header.tensors):
        yield Lint(
            "override-matches-nothing",
            "warning",
            "this model has no experts, so nothing stays in RAM",
            "declare all_on_gpu(), or fit()",
        )
    speculation = model.serve.speculation
    guesses_itself = speculation is not None and "draft-mtp" in speculation.types and model.draft is None
    if guesses_itself and not any(".nextn." in tensor.name for tensor in header.tensors):
        yield Lint(
            "mtp-missing",
            "refusal",
            "speculation draft-mtp needs a layer of its own in the model's file (tensors named nextn); it has none",
            "fetch a GGUF that has it, name a draft, or choose another type",
        )
    if isinstance(placement, Override):
        yield from override_lints(placement, header.tensors)


def override_lints(placement: Override, tensors: Sequence[Tensor]) -> Iterator[Lint]:
    """Each rule of the owner's own: what it covers that was hardly meant."""
    broken = [(rule, error) for rule in placement.rules if (error := _compile_error(rule.partition("=")[0]))]
    for rule, error in broken:
        yield Lint("override-not-a-regex", "refusal", f"{rule!r} is no regular expression ({error})", "mend it")
    if broken:
        return
    layers = layer_count(tensors)
    found = covered(placement.rules, tensors)
    for item in found:
        if not item.tensors:
            why = "only tensors that earlier rules have taken" if item.shadowed else "no tensor of this model"
            yield Lint(
                "override-matches-nothing", "warning", f"{item.rule!r} matches {why}", "remove it, or put it earlier"
            )
        if missed := _missed_numbers(item, layers):
            yield Lint(
                "override-misses-numbers",
                "warning",
                f"{item.rule!r} covers layers {ranges(item.layers)} and leaves {ranges(missed)} out: its digit classes "
                "match digits, not a range of numbers",
                "declare layers(...), whose rule is generated, or list the numbers",
            )
        if split := _experts_split(item, tensors):
            yield Lint(
                "override-splits-experts",
                "warning",
                f"{item.rule!r} moves some expert tensors of layers {ranges(split)} and not the others, such as the "
                "fused ffn_gate_up_exps, so each of these layers is computed in two places",
                "use ffn_(up|down|gate|gate_up)_(ch|)exps",
            )
    yield from _away_from_kv(placement, found, layers)


def _compile_error(pattern: str) -> str:
    try:
        re.compile(pattern)
    except re.error as error:
        return str(error)
    return ""


def _missed_numbers(item: Covered, layers: int) -> list[int]:
    """Layers that a rule written with digit classes leaves out by mistake.

    ``[0-1][2-9]`` is meant as 02 to 19 and matches 02-09 and 12-19: whoever writes it thinks of 10 and 11 as inside.
    The sign is a number with a leading zero, which no layer has, beside a ten of which only a part is matched.
    """
    names = [tensor.name for tensor in (*item.tensors, *item.shadowed) if layer_of(tensor.name) is not None]
    if not names:
        return []
    expression = re.compile(item.rule.partition("=")[0])
    rest = re.sub(r"^blk\.\d+\.", "", names[0])

    def matches(number: str) -> bool:
        return expression.search(f"blk.{number}.{rest}") is not None

    if not any(matches(f"0{digit}") for digit in range(10)):
        return []
    missed: list[int] = []
    for ten in range(10, layers, 10):
        numbers = range(ten, min(ten + 10, layers))
        inside = [number for number in numbers if matches(str(number))]
        if inside:
            missed += [number for number in numbers if number not in inside]
    return missed


def _experts_split(item: Covered, tensors: Sequence[Tensor]) -> list[int]:
    """Layers of which a rule for experts moves a part and leaves a part where no other rule speaks of it."""
    mine = {tensor.name for tensor in (*item.tensors, *item.shadowed)}
    experts = [tensor.name for tensor in tensors if _EXPERTS.search(tensor.name) and tensor.name.endswith(".weight")]
    touched = {layer_of(name) for name in experts if name in mine}
    left = {layer_of(name) for name in experts if name not in mine}
    return sorted(number for number in left & touched if number is not None)


def _away_from_kv(placement: Override, found: Sequence[Covered], layers: int) -> Iterator[Lint]:
    """llama.cpp keeps the KV cache of a layer where the split puts the layer, whatever a rule does to its weights."""
    moved: dict[str, set[int]] = {}
    for item in found:
        if item.device != "CPU":
            moved.setdefault(item.device, set()).update(item.layers)
    if not moved:
        return
    costs = "their activations cross the bus for every token (box A: 130-136 graph splits instead of 55)"
    if placement.split is None:
        if len(moved) > 1:
            yield Lint(
                "override-weights-away-from-kv",
                "warning",
                f"rules move weights to {', '.join(sorted(moved))}, but the KV cache lies where free memory splits the "
                f"layers; where the two differ, {costs}",
                "declare layers(gpu=..., split=...), or a split with the override",
            )
        return
    homes = _homes(placement.split, layers)
    for device, numbers in sorted(moved.items()):
        index = re.search(r"\d+$", device)
        away = [number for number in sorted(numbers) if index and homes.get(number) != int(index[0])]
        if away:
            yield Lint(
                "override-weights-away-from-kv",
                "warning",
                f"weights of layers {ranges(away)} go to {device}, their KV cache stays on another GPU: {costs}",
                "declare layers(gpu=..., split=...), or a split that follows the rules",
            )


def _homes(split: Sequence[int], layers: int) -> dict[int, int]:
    """Layer -> index of the GPU whose share of the split it falls into (src/llama-model.cpp, pinned commit)."""
    total = sum(split)
    shares = [sum(split[: index + 1]) / total for index in range(len(split))]
    return {
        layer: next((index for index, share in enumerate(shares) if share > layer / (layers + 1)), len(split) - 1)
        for layer in range(layers)
    }
