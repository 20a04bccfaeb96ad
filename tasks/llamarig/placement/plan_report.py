"""Formats a plan for its owner, with a bar for each memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate

from llamarig.placement.measured_margins import SAFETY_MIB
from llamarig.placement.model_layers import ranges
from llamarig.records.plan_file import DeviceMemory, Plan, PlannedDevice
from llamarig.remote.shared.pinned_pages import PRICE
from llamarig.render.placement_arguments import layers_with_experts_on_cpu, partial_layers, placement_arguments

_WIDTH = 60


def plan_report(plan: Plan, model: str, speed: Sequence[str] = ()) -> list[str]:
    """Lines that show which layers are where, how full GPUs and RAM are, the flags, and the inputs of the plan.

    :param speed: lines about tokens per second, if there are any
    """
    placement = plan.placement
    layers = placement.in_ram + sum(placement.room)
    lines = [f"{model}: {sum(placement.gpu)} of {layers} layers whole on the GPUs"]
    lines += [
        f"  given up: {each.what} {each.declared} to {each.planned}{_freed_text(each.frees_mib)}"
        for each in plan.given_up
    ]
    lines += [f"  {line}" for line in _location_lines(plan)]
    lines += ["  VRAM: # weights, K KV cache, S state, C compute, - margin, o others, . free"]
    margins, others = plan.belongs.margins_mib, plan.belongs.others_mib or (0,) * len(plan.gpus)
    for device, row, margin, other in zip(plan.belongs.devices, plan.gpus, margins, others, strict=True):
        lines += [f"  {line}" for line in _vram_lines(device, row, margin, other)]
    lines += [f"  {line}" for line in _ram_lines(plan)]
    lines += [f"  {line}" for line in (*_loading_lines(plan), *_margin_lines(plan))]
    words = [word for flag in placement_arguments(placement) for word in flag]
    lines.append(f"  flags: {' '.join(words)}")
    if plan.splits:
        lines.append(f"  graph splits: {plan.splits[1]} a token, {plan.splits[0]} a prompt batch")
    for more in plan.next_layer:
        lines.append(
            f"  one more layer on {more.name} would need {more.needs_mib} MiB; it may take {more.has_mib} "
            f"({more.needs_mib - more.has_mib} MiB short)"
        )
    lines.append(f"  {_fit_line(plan)}")
    lines += [f"  {line}" for line in speed]
    lines += [f"  note: {note}" for note in plan.notes]
    lines += [f"  proposed by a start that ran out of memory: {each.reason}" for each in plan.proposals]
    lines += [f"  {line}" for line in _input_lines(plan)]
    return lines


def bar(parts: Sequence[tuple[str, float]], whole: float, width: int = _WIDTH) -> str:
    """A bar of exactly ``width`` characters with one letter a part.

    Ends of parts are rounded, not their lengths, so that rounding errors do not add up.
    """
    if whole <= 0:
        return ""
    ends = [round(width * end / whole) for end in accumulate(size for _, size in parts)]
    text = "".join(letter * (end - start) for (letter, _), start, end in zip(parts, [0, *ends], ends, strict=False))
    return text[:width].ljust(width, ".")


def _location_lines(plan: Plan) -> Iterator[str]:
    placement, partial = plan.placement, partial_layers(plan.placement)
    cpu = layers_with_experts_on_cpu(placement)
    start = placement.in_ram
    layers = placement.in_ram + sum(placement.room)
    last = max(gpu for gpu, share in enumerate(placement.split) if share)
    for gpu, (device, count, whole) in enumerate(zip(plan.belongs.devices, placement.room, placement.gpu, strict=True)):
        parts = [f"layers {ranges(range(start, start + whole))} whole"] if whole else []
        for layer in range(start, start + count):
            if layer in partial:
                parts.append(f"of layer {layer} the experts' {' and '.join(partial[layer])}")
        without_experts = [layer for layer in cpu if start <= layer < start + count]
        if without_experts:
            parts.append(f"of layers {ranges(without_experts)} only attention, KV cache and state")
        if placement.nextn and gpu == last:
            extra = ranges(range(layers, layers + placement.nextn))
            loaded = "speculation=draft-mtp" in plan.belongs.flags
            why = "" if loaded else ", loaded only with draft-mtp and not counted"
            parts.append(f"layer {extra} of multi-token prediction{why}")
        parts += ["the output"] * (gpu == last)
        yield f"{device.name} {device.description}: {'; '.join(parts) or 'nothing'}"
        start += count
    parts = [f"layers {ranges(range(placement.in_ram))} entirely"] if placement.in_ram else []
    parts += [f"experts of layers {ranges(cpu)}"] if cpu else []
    parts += [f"the other experts of layer {layer}" for layer in partial]
    yield f"RAM: {'; '.join([*parts, 'the token embedding'])}"


def _vram_lines(device: PlannedDevice, row: DeviceMemory, margin: int, other: int) -> Iterator[str]:
    others = device.total_mib - device.free_mib
    parts = [
        ("#", row.model_mib),
        ("K", row.context_mib - row.state_mib),
        ("S", row.state_mib),
        ("C", row.compute_mib + other),
        ("-", margin),
    ]
    left = device.free_mib - sum(size for _, size in parts)
    yield f"{device.name} [{bar([*parts, ('.', max(0, left)), ('o', others)], device.total_mib)}]"
    yield (
        f"      {row.total_mib + other} of {device.total_mib} MiB: weights {row.model_mib}, KV cache "
        f"{row.context_mib - row.state_mib}, state {row.state_mib}, compute {row.compute_mib}, "
        + (f"vision and draft {other}, " if other else "")
        + f"margin {margin}, others {others}, free {left}"
    )


def _ram_lines(plan: Plan) -> Iterator[str]:
    ram = plan.ram
    parts = [
        ("#", ram.weights_mib),
        ("C", ram.buffers_mib),
        ("P", ram.cache_mib),
        ("S", ram.checkpoints_mib),
        ("-", ram.reserve_mib),
    ]
    whole = max(ram.available_mib, ram.total_mib)
    yield f"RAM   [{bar(parts, whole)}] P prompt cache, S checkpoints, - reserve"
    yield (
        f"      {ram.total_mib} of {ram.available_mib or '?'} MiB: weights {ram.weights_mib}, buffers "
        f"{ram.buffers_mib}, prompt cache {ram.cache_mib}, checkpoints {ram.checkpoints_mib}, reserve {ram.reserve_mib}"
    )


def _loading_lines(plan: Plan) -> Iterator[str]:
    loaded = plan.loading
    if loaded is None:
        return
    if loaded.mode == "none" and plan.pinnable_mib:
        yield f"load mode: none, so {plan.pinnable_mib} MiB of weights in RAM are pinned for the GPU"
    elif loaded.why:
        lacks = bool(loaded.ram_lacks_mib or any(loaded.vram_lacks_mib))
        yield f"load mode: auto, so weights in RAM stay mapped: {loaded.why}" + (f"; {PRICE}" if lacks else "")
    elif loaded.mode == "auto":
        yield "load mode: auto (llama.cpp's own)" + ("" if plan.pinnable_mib else ": no weights in RAM to pin")
    else:
        yield f"load mode: {loaded.mode}, as declared"


def _margin_lines(plan: Plan) -> Iterator[str]:
    if plan.margin is None:
        return
    gain, found = plan.margin, plan.margin.measured
    now, then = sum(plan.placement.gpu), gain.whole_instead
    layers = f"{now} whole layers" + (f" in place of {then}" if now != then else ", as many as without")
    yield (
        f"margins: {_each(plan.belongs.margins_mib)} MiB in place of {_each(gain.instead_mib)}, which gives {layers}: "
        f"measured {found.date[:10]} with two prompts of {found.prompt_tokens} tokens, {_each(found.beyond_mib)} "
        f"beyond the buffers, and {SAFETY_MIB} for what is longer"
    )


def _each(mib: Sequence[int]) -> str:
    return "/".join(str(number) for number in mib)


def _freed_text(frees: Sequence[int]) -> str:
    return f" (frees {'/'.join(map(str, frees))} MiB)" if any(frees) else ""


def _fit_line(plan: Plan) -> str:
    if plan.fit is None:
        return "llama.cpp's own fit: gives up with the same margins"
    fit, splits = plan.fit, plan.splits
    spread = f" and {fit.spread} over two GPUs" if fit.spread else ""
    memory = "/".join(str(row.total_mib) for row in fit.memory[:-1])
    return (
        f"llama.cpp's own fit, same margins: {sum(fit.whole)} whole layers ({' + '.join(map(str, fit.whole))})"
        f"{spread}, {memory} MiB, {fit.splits[1] if fit.splits else '?'} graph splits a token; this plan: "
        f"{sum(plan.placement.gpu)}, {'/'.join(str(row.total_mib) for row in plan.gpus)} MiB, "
        f"{splits[1] if splits else '?'}"
    )


def _input_lines(plan: Plan) -> Iterator[str]:
    inputs = plan.belongs
    commit, _, key = inputs.release.partition("-")
    yield f"planned for: release {commit[:12]}-{key}, header {inputs.header[:12]}..., {plan.dry_runs} dry runs"
    for device in inputs.devices:
        label = " ".join(filter(None, (device.name, device.description, device.uuid)))
        yield f"  {label}, {device.free_mib} of {device.total_mib} MiB free"
    yield f"  {' '.join(inputs.flags)}"
