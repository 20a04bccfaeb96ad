"""The placement that the flags of llama-server for layers and tensors mean."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal, InvalidOperation

from llamarig.adopt.call import Call
from llamarig.adopt.launch import Note
from llamarig.adopt.options import Given
from llamarig.adopt.override_rules import MOST_LAYERS, WholeLayers, whole_layers
from llamarig.remote.shared.gguf_header import Tensor
from llamarig.render.placement_arguments import experts_on_cpu, gpu_of

GPU_LAYERS = ("-ngl", "--gpu-layers", "--n-gpu-layers")
FLAGS = frozenset(
    {
        *GPU_LAYERS,
        *("-ts", "--tensor-split", "-ot", "--override-tensor", "-cmoe", "--cpu-moe", "-ncmoe", "--n-cpu-moe"),
        *("-fit", "--fit", "-fitt", "--fit-target", "-fitc", "--fit-ctx"),
    }
)
_RULES = ("-ot", "--override-tensor", "-cmoe", "--cpu-moe", "-ncmoe", "--n-cpu-moe")
_EVERY_EXPERT = "ffn_(up|down|gate|gate_up)_(ch|)exps=CPU"
"""llama.cpp's own rule for --cpu-moe (common/common.h, pinned commit)."""
_MANY = 99
"""Layers, with the output, that nearly all models have fewer of: what is written for all of them."""
_ALL = 1_000_000
_LARGEST_SHARE = 1_000_000
_REDUCED = re.compile(r"\\\.")


@dataclass(frozen=True)
class PlacementFlags:
    """The flags, as far as they are given.

    :param gpu_layers: None where left to llama.cpp ("auto")
    :param gpu_layers_text: as it was given; empty where it was not
    :param rules: of --override-tensor, also those that --n-cpu-moe and --cpu-moe stand for, in their order
    :param owner_rules: whether the owner wrote one of them
    :param rules_written: the flags that the rules are of, as they were given
    :param cpu_moe: layers of --n-cpu-moe; 0 for --cpu-moe, which is all of them
    """

    gpu_layers: int | None = None
    gpu_layers_text: str = ""
    split: tuple[int, ...] = ()
    rules: tuple[str, ...] = ()
    owner_rules: bool = False
    rules_written: str = ""
    cpu_moe: int | None = None
    fit: bool = True
    fit_given: bool = False
    fit_target: tuple[int, ...] = (1024,)
    fit_context: int | None = None
    notes: tuple[Note, ...] = field(default_factory=tuple)


def read_flags(options: Sequence[Given], *, default_gpu_layers: int | None) -> PlacementFlags:
    """The flags of a command line; of one that is given twice the last holds, and rules add up.

    :param default_gpu_layers: of the build that it was written for: 0 in 2023 and 2024
    """
    found = PlacementFlags(gpu_layers=default_gpu_layers)
    rules: list[str] = []
    written: dict[str, None] = {}
    notes: list[Note] = []
    for given in options:
        text = given.value or ""
        if given.flag in _RULES:
            written[given.spelling] = None
        if given.flag in GPU_LAYERS:
            found = replace(found, gpu_layers_text=text)
            if text in ("auto", "-1"):
                found = replace(found, gpu_layers=None)
            elif text == "all" or re.fullmatch(r"-?\d+", text):
                found = replace(found, gpu_layers=_ALL if text == "all" or int(text) < 0 else int(text))
            else:
                notes.append(Note(given.written, "is not a number of layers"))
        elif given.flag in ("-ts", "--tensor-split"):
            split = _shares(text)
            if split is None:
                notes.append(Note(given.written, "is not a split: declare serve.placement"))
            found = replace(found, split=split or ())
        elif given.flag in ("-ot", "--override-tensor"):
            rules += [rule for rule in text.split(",") if rule]
            found = replace(found, owner_rules=True)
        elif given.flag in ("-ncmoe", "--n-cpu-moe"):
            if text.isdecimal() and 0 < int(text) <= MOST_LAYERS:
                found = replace(found, cpu_moe=int(text))
                rules.append(experts_on_cpu(range(int(text))))
            else:
                notes.append(Note(given.written, "is not a number of layers, dropped"))
        elif given.flag in ("-cmoe", "--cpu-moe"):
            found = replace(found, cpu_moe=0)
            rules.append(_EVERY_EXPERT)
        elif given.flag in ("-fit", "--fit"):
            found = replace(found, fit_given=True, fit=text.lower() not in ("off", "0", "false", "disabled"))
        elif given.flag in ("-fitt", "--fit-target"):
            numbers = tuple(int(part) for part in re.split(r"[,/]", text) if part.strip().isdecimal())
            found = replace(found, fit_target=numbers or (1024,))
        elif text.isdecimal():
            found = replace(found, fit_context=int(text))
    return replace(found, rules=tuple(rules), rules_written=" ".join(written), notes=tuple(notes))


def _shares(text: str) -> tuple[int, ...] | None:
    """Shares as whole numbers in the same proportion: 0.6,0.4 is 3,2."""
    try:
        shares = [Decimal(part) for part in re.split(r"[,/]+", text.strip())]
    except InvalidOperation:
        return None
    if not all(share.is_finite() and 0 <= share < _LARGEST_SHARE for share in shares) or not any(shares):
        return None
    if all(share == share.to_integral() for share in shares):
        return tuple(int(share) for share in shares)
    places = min(4, max(-int(share.as_tuple().exponent) for share in shares))
    whole = [round(share * 10**places) for share in shares]
    common = math.gcd(*whole) or 1
    return tuple(share // common for share in whole)


@dataclass
class Placed:
    """A placement: what to declare, None for the default; what it says of it; fields of serve beside it."""

    call: Call | None
    notes: list[Note]
    comment: str = ""
    several_gpus: bool = False


def placement_of(
    flags: PlacementFlags, layers: int | None, tensors: Sequence[Tensor] | None = None, *, cpu_ffn: bool = False
) -> Placed:
    """The placement that the flags mean.

    :param layers: of the model, as --tensor-split counts them without the output; None where they are not known
    :param tensors: of the model, where its header is at hand
    :param cpu_ffn: whether --n-cpu-ffn is among the other flags, with which llama.cpp does not fit
    """
    notes = [*flags.notes]
    several = len(flags.split) > 1 or any(re.search(r"=[A-Za-z]+[1-9]\d*$", rule) for rule in flags.rules)
    if flags.gpu_layers == 0 and not any("=CPU" not in rule for rule in flags.rules):
        if flags.rules or flags.split:
            notes.append(
                Note(f"-ngl {flags.gpu_layers_text or 0}", "nothing is on a GPU, so rules and split do nothing")
            )
        return Placed(Call("cpu_only"), notes)
    most = _MANY - 1 if layers is None else layers
    every = flags.gpu_layers is None or flags.gpu_layers > most
    if flags.rules:
        call, comment = _of_rules(flags, layers, tensors, notes, every=every)
        return Placed(call, notes, comment, several)
    if not every:
        call = Call("override", {"gpu_layers": flags.gpu_layers, **_split_field(flags)})
        notes.append(Note(f"-ngl {flags.gpu_layers_text}", "override(gpu_layers=...): the last layers are on the GPU"))
        return Placed(call, notes, several_gpus=several)
    if flags.split:
        return Placed(Call("override", _split_field(flags)), notes, several_gpus=several)
    if flags.gpu_layers is None and flags.fit and not cpu_ffn:
        minimum = {"minimum_context": flags.fit_context} if flags.fit_context is not None else {}
        target = {"target_mib": flags.fit_target} if flags.fit_target != (1024,) else {}
        about = f"-ngl {flags.gpu_layers_text}" if flags.gpu_layers_text else "" if flags.fit_given else "no -ngl"
        if about:
            notes.append(
                Note(about, "fit(): llama.cpp places the layers itself; auto() measures a placement and keeps it")
            )
        return Placed(Call("fit", {**target, **minimum}), notes)
    return Placed(None, [*notes, Note(f"-ngl {flags.gpu_layers_text or 'all'}", "all_on_gpu(), the default")])


def _split_field(flags: PlacementFlags) -> dict[str, object]:
    return {"split": flags.split} if flags.split else {}


def _of_rules(
    flags: PlacementFlags, layers: int | None, tensors: Sequence[Tensor] | None, notes: list[Note], *, every: bool
) -> tuple[Call, str]:
    """The placement of rules, and a comment on it."""
    about = flags.rules_written
    found = whole_layers(flags.rules, layers, tensors) if every else None
    if found is not None and (known := _known(found, flags, layers)) is not None:
        call, text = known
        notes.append(Note(about, text))
        if len(found.gpu) > 1 and not flags.split:
            notes.append(
                Note(
                    "split",
                    "not in the command line, where free memory decides: here in the proportion of the whole layers; "
                    "placement=auto() measures a better one",
                )
            )
        return call, _comment(found, flags)
    if found is not None and layers is None and flags.owner_rules and _needs_layers(found):
        notes.append(Note(about, f"{_in_words(found)}; {_WITHOUT_LAYERS}"))
    elif flags.owner_rules:
        notes.append(Note(about, "kept as override(...): it does not put whole layers on each GPU"))
    else:
        notes.append(Note(about, "as the rule that llama.cpp makes of it, since the number of layers is not known"))
    rules = tuple(_REDUCED.sub("[.]", rule) for rule in flags.rules)
    arguments: dict[str, object] = {"rules": rules}
    if not every:
        arguments["gpu_layers"] = flags.gpu_layers
    return Call("override", {**arguments, **_split_field(flags)}), _EVERY_COMMENT if flags.cpu_moe == 0 else ""


_EVERY_COMMENT = "--cpu-moe: the experts of every layer in RAM"
_WITHOUT_LAYERS = (
    "kept as override(...), since layers(...) needs the number of the model's layers: give it as --layers N, or the "
    "path of the model's file on this machine"
)


def _needs_layers(found: WholeLayers) -> bool:
    return found.first_in_ram is None


def _known(found: WholeLayers, flags: PlacementFlags, layers: int | None) -> tuple[Call, str] | None:
    """The placement in whole layers, with what the rules do in words; None where the layers' number is needed."""
    if found.first_in_ram is not None:
        call = Call("cpu_moe", {"layers": found.first_in_ram, **_split_field(flags)})
        return call, f"cpu_moe: the experts of the first {found.first_in_ram} layers in RAM"
    if layers is None:
        return None
    if found.first_whole == 0:
        return Call("cpu_moe", {"layers": layers, **_split_field(flags)}), "cpu_moe: the experts of every layer in RAM"
    gpu = found.gpu or (found.first_whole or 0,)
    split = _whole_split(flags.split, gpu, layers) if not (found.first_whole and flags.split) else None
    if found.first_whole and flags.split:
        split = _positions(flags.split, layers)
        gpu = _whole_on_each(found.first_whole, split)
    if split is None or len(split) != len(gpu) or not _fits(gpu, split):
        return None
    return Call("layers", {"gpu": gpu, "split": split}), f"{_in_words(found)}: layers(gpu={gpu})"


def _whole_on_each(whole: int, split: Sequence[int]) -> tuple[int, ...]:
    """How many of a number of first layers are on each GPU."""
    found = []
    for share in split:
        found.append(min(whole, share))
        whole -= found[-1]
    return tuple(found)


def _fits(gpu: Sequence[int], split: Sequence[int]) -> bool:
    room = [*split[:-1], split[-1] - 1]
    return all(whole <= layers for whole, layers in zip(gpu, room, strict=True))


def _whole_split(shares: Sequence[int], gpu: Sequence[int], layers: int) -> tuple[int, ...] | None:
    """The split in layers: as the shares give it, else in the proportion of the whole layers on each GPU."""
    if shares:
        return _positions(shares, layers)
    if not sum(gpu):
        return None
    exact = [(layers + 1) * whole / sum(gpu) for whole in gpu]
    found = [int(share) for share in exact]
    for index in sorted(range(len(gpu)), key=lambda at: found[at] - exact[at])[: layers + 1 - sum(found)]:
        found[index] += 1
    return tuple(found)


def _positions(shares: Sequence[int], layers: int) -> tuple[int, ...]:
    """How many layers, the output included, shares of any size give each GPU."""
    homes = [gpu_of(position, shares, layers + 1) for position in range(layers + 1)]
    return tuple(homes.count(gpu) for gpu in range(len(shares)))


def _in_words(found: WholeLayers) -> str:
    if found.gpu:
        return f"{' and '.join(str(whole) for whole in found.gpu)} whole layers on the GPUs, other experts in RAM"
    return f"the first {found.first_whole} layers whole on the GPU, other experts in RAM"


def _comment(found: WholeLayers, flags: PlacementFlags) -> str:
    by_whole_layers = len(found.gpu) > 1 and not flags.split
    return "split: in proportion to the whole layers; --override-tensor left it to free memory" * by_whole_layers
