"""Lints of a placement together with the tensors in the model's header."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from llamarig.declare.model import Model
from llamarig.declare.placement import CpuMoe, Layers, Override
from llamarig.lints.lint import Lint
from llamarig.placement.model_layers import (
    EXPERTS,
    LayerCounts,
    layer_counts,
    layer_of,
    loaded_tensors,
    ranges,
    why_no_mtp,
)
from llamarig.placement.tensor_overrides import RuleCoverage, rule_coverage
from llamarig.remote.shared.gguf_header import Header, Tensor
from llamarig.render.placement_arguments import gpu_of, layers_with_experts_on_cpu


def weight_lints(model: Model, header: Header) -> Iterator[Lint]:
    """Lints of the declared placement for this model."""
    placement = model.serve.placement
    counts = layer_counts(header.tensors, header.metadata)
    tensors = loaded_tensors(header, mtp=model.serve.loads_mtp)
    if isinstance(placement, Layers):
        yield from _layer_lints(placement, counts, mtp=model.serve.loads_mtp)
    layers = counts.all if model.serve.loads_mtp else counts.trunk
    if isinstance(placement, CpuMoe) and placement.layers > layers:
        yield Lint(
            "layers-of-another-model",
            f"cpu_moe keeps the experts of {placement.layers} layers in RAM, but this model has {layers}",
            f"lower it to {layers} or less",
        )
    if isinstance(placement, Layers | CpuMoe) and not any(EXPERTS.search(tensor.name) for tensor in header.tensors):
        yield Lint(
            "override-matches-nothing",
            "this model has no experts, so nothing stays in RAM",
            "declare all_on_gpu(), or fit()",
        )
    if model.serve.loads_mtp and model.draft is None and (why := why_no_mtp(header)):
        yield Lint(
            "mtp-missing",
            f"speculation draft-mtp needs a layer for it in the model's file (tensors named nextn), {why}",
            "use a GGUF that has it, declare a draft, or choose another type",
            severity="refusal",
        )
    if isinstance(placement, Override):
        yield from override_lints(placement, tensors, counts)


def _layer_lints(placement: Layers, counts: LayerCounts, *, mtp: bool) -> Iterator[Lint]:
    """Number of layers in the split, and layers that are only loaded for draft-mtp."""
    expected = counts.positions - placement.in_ram
    predicting = f", {counts.nextn} of them for multi-token prediction," if counts.nextn else ""
    if sum(placement.split) != expected:
        others = f", less the {placement.in_ram} of in_ram" if placement.in_ram else ""
        yield Lint(
            "layers-of-another-model",
            f"split {placement.split} adds up to {sum(placement.split)}, but this model has {counts.all} layers"
            f"{predicting} and the output, {expected} in all{others}: other layers than intended would go to each GPU",
            f"make split add up to {expected}" if expected > 0 else "lower in_ram",
            severity="refusal",
        )
    elif placement.nextn not in (0, counts.nextn):
        yield Lint(
            "layers-of-another-model",
            f"nextn = {placement.nextn}, but this model has {counts.nextn} layers of multi-token prediction: experts "
            "of other layers than intended would stay in RAM",
            f"set nextn to {counts.nextn}",
            severity="refusal",
        )
    elif not placement.nextn:
        in_ram = layers_with_experts_on_cpu(placement)
        extra = [layer for layer in in_ram if layer >= counts.trunk]
        if extra and mtp:
            yield Lint(
                "layers-of-another-model",
                f"gpu leaves the experts of layer {ranges(extra)} in RAM, which is the one for multi-token prediction: "
                "draft-mtp reads them there for every draft",
                f"set nextn = {counts.nextn}, which keeps it whole on its GPU",
            )
        elif extra and extra == in_ram and sum(share > 0 for share in placement.split) > 1:
            yield Lint(
                "layers-of-another-model",
                f"gpu leaves the experts of layer {ranges(extra)} alone in RAM, which is not loaded without draft-mtp; "
                "the rule that keeps them there prevents llama.cpp from computing prompts on several GPUs at once",
                f"set nextn = {counts.nextn}",
            )


def override_lints(placement: Override, tensors: Sequence[Tensor], counts: LayerCounts) -> Iterator[Lint]:
    """Declared rules that probably do not cover the intended tensors."""
    unread = [lint for rule in placement.rules if (lint := _unread_rule(rule)) is not None]
    yield from unread
    if unread:
        return
    found = rule_coverage(placement.rules, tensors)
    for item in found:
        if not item.tensors:
            why = "only tensors that earlier rules already move" if item.shadowed else "no tensor of this model"
            yield Lint("override-matches-nothing", f"{item.rule!r} matches {why}", "remove it, or put it earlier")
        if missed := _missed_numbers(item, counts.trunk):
            yield Lint(
                "override-misses-numbers",
                f"{item.rule!r} covers layers {ranges(item.layers)} and leaves {ranges(missed)} out: its digit classes "
                "match digits, not a range of numbers",
                "declare layers(...), whose rule is generated, or list the numbers",
            )
        if split := _experts_split(item, tensors):
            yield Lint(
                "override-splits-experts",
                f"{item.rule!r} moves some expert tensors of layers {ranges(split)} but not the others, such as the "
                "fused ffn_gate_up_exps, so each of these layers is computed in two places",
                "use ffn_(up|down|gate|gate_up)_(ch|)exps",
            )
    yield from _away_from_kv(placement, found, counts)


_OTHER_GROUP = re.compile(r"(?<!\\)\(\?(?![:=!])")
"""What Python knows and std::regex does not: names, flags and comments, and looking behind."""
_ERROR_OF_BOTH = re.compile(
    r"missing \)|unbalanced|nothing to repeat|character set|character range|min repeat|group reference"
    r"|incomplete escape|bad escape \(end"
)
"""Errors of Python that std::regex has, too; not among them is, for example, an escaped letter that means nothing."""


def _unread_rule(rule: str) -> Lint | None:
    """Why llama.cpp, whose regular expressions are C++'s, refuses a rule, or why it is not understood here."""
    pattern = rule.partition("=")[0]
    error, refused = "", False
    if _OTHER_GROUP.search(pattern):
        error, refused = "of the groups that begin with (? it knows (?:, (?= and (?! alone", True
    else:
        try:
            re.compile(pattern)
        except re.error as python:
            # [] and [^] are sets to C++, and the beginning of one to Python.
            error = str(python)
            refused = _ERROR_OF_BOTH.search(error) is not None and not re.search(r"\[\^?\]", pattern)
    if refused:
        return Lint(
            "override-not-a-regex",
            f"{rule!r} is not a regular expression of llama.cpp ({error}), so the model would not load",
            "correct it",
            severity="refusal",
        )
    if error:
        return Lint(
            "override-not-a-regex",
            f"{rule!r} is not understood here ({error}), so what it moves was not checked",
            "write it in another way",
        )
    return None


def _missed_numbers(item: RuleCoverage, layers: int) -> list[int]:
    """Layers that a rule with digit classes leaves out by mistake.

    ``[0-1][2-9]`` is meant as 02 to 19 but matches 02-09 and 12-19, without 10 and 11. The sign of this mistake is a
    match for a number with a leading zero, which no layer has, together with a ten that is matched only in part.
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


def _experts_split(item: RuleCoverage, tensors: Sequence[Tensor]) -> list[int]:
    """Layers with experts of which a rule moves only a part."""
    matched = {tensor.name for tensor in (*item.tensors, *item.shadowed)}
    experts = [tensor.name for tensor in tensors if EXPERTS.search(tensor.name) and tensor.name.endswith(".weight")]
    touched = {layer_of(name) for name in experts if name in matched}
    missed = {layer_of(name) for name in experts if name not in matched}
    return sorted(number for number in missed & touched if number is not None)


def _away_from_kv(placement: Override, found: Sequence[RuleCoverage], counts: LayerCounts) -> Iterator[Lint]:
    """Rules that separate weights from their KV cache, which stays where the split puts the layer."""
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
                f"rules move weights to {', '.join(sorted(moved))}, but the KV cache is where free memory splits the "
                f"layers; where the two differ, {costs}",
                "declare layers(gpu=..., split=...), or a split with the override",
            )
        return
    homes = _homes(placement.split, counts, placement.gpu_layers)
    for device, numbers in sorted(moved.items()):
        index = re.search(r"\d+$", device)
        away = [number for number in sorted(numbers) if index and homes.get(number) != int(index[0])]
        if away:
            yield Lint(
                "override-weights-away-from-kv",
                f"weights of layers {ranges(away)} go to {device}, but their KV cache stays on another GPU: {costs}",
                "declare layers(gpu=..., split=...), or a split that follows the rules",
            )


def _homes(split: Sequence[int], counts: LayerCounts, gpu_layers: int | None) -> dict[int, int]:
    """Index of the GPU of each layer by the split, without layers that are entirely in RAM."""
    first = 0 if gpu_layers is None else max(0, counts.positions - gpu_layers)
    return {layer: gpu_of(layer - first, split, counts.positions - first) for layer in range(first, counts.all)}
