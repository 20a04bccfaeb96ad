"""What tasks/choose.py reads of its options, and what it says of a box: pure text."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from llamarig.adopt.call import Call, literal
from llamarig.declare.kv_cache import CacheType
from llamarig.declare.mistakes import mistakes, near
from llamarig.declare.model import Model
from llamarig.declare.placement import Auto, CpuOnly
from llamarig.declare.rig import Rig
from llamarig.declare.serve import Serve
from llamarig.declare.simulated_gpu import SimulatedGpu
from llamarig.placement.quant_choice import RULE, RULE_WITHOUT_GPU, QuantRow, chosen
from llamarig.placement.quant_memory import AtContext
from llamarig.placement.quant_table import cache_notes, context_text, shortage, table_lines
from llamarig.records.hub_quants import HubQuant, model_name
from llamarig.survey.serve_settings import BOX_FIELDS, placement_call

_REPO = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_OF_HUB = re.compile(r"(?:https?://[^/]+/|hf\.co/)(?=[^/]+/[^/]+)")


class OptionError(ValueError):
    """An option cannot be used; the message says what to write."""


@dataclass(frozen=True)
class ChoiceOptions:
    """What was asked for. ``context``: the only one, None for a range; ``build``: of the rig, empty for its first."""

    repos: tuple[str, ...]
    quants: tuple[str, ...] = ()
    context: int | None = None
    name: str = ""
    build: str = ""
    cache_type: CacheType | None = None

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> ChoiceOptions:
        """Read the values of ``--data``.

        :raises OptionError: naming the option, and an example
        """
        repos = tuple(_OF_HUB.sub("", word.strip()).rstrip("/") for word in _words(data.get("repo")))
        example = "--data repo=unsloth/Qwen3-30B-A3B-GGUF, or several with commas between them"
        if not repos:
            raise OptionError(f"which repository of the Hub? write {example}")
        if wrong := [repo for repo in repos if not _REPO.fullmatch(repo)]:
            raise OptionError(f"--data repo={wrong[0]} is not OWNER/NAME as on the Hub: write {example}")
        context = data.get("context")
        if context is not None and not (isinstance(context, int) and not isinstance(context, bool) and context >= 256):
            raise OptionError(f"--data context={context} is not a number of tokens: write for example context=65536")
        return cls(
            repos=tuple(dict.fromkeys(repos)),
            quants=_words(data.get("quant")),
            context=context,
            name=str(data.get("model_name") or ""),
            build=str(data.get("build") or ""),
            cache_type=data.get("cache_type"),
        )


def _words(value: Any) -> tuple[str, ...]:
    return tuple(word.strip() for word in str(value or "").split(",") if word.strip())


def build_name(rig: Rig, options: ChoiceOptions) -> str:
    """The build that is to serve: the one asked for, or that of the default model, or the first.

    :raises OptionError: where the box declares no such build
    """
    names = [build.name for build in rig.builds]
    if not options.build:
        return rig.default_model.build if rig.models else names[0]
    if options.build not in names:
        hint = near(options.build, names)
        raise OptionError(f"--data build={options.build} is not a build of this box{hint}: name {', '.join(names)}")
    return options.build


def template(
    rig: Rig, options: ChoiceOptions, repo: str, build: str, settings: Mapping[str, Any], *, gpus: int
) -> Model:
    """A model of a repository as it will be declared, apart from its files and its context.

    :param settings: fields of ``serve(...)`` that models need on this box
    :param gpus: number of cards
    :raises OptionError: for a name, a type of cache or a repository that no declaration may have
    """
    taken = [model.name for model in rig.models]
    name = options.name or model_name(repo, taken)
    if name in taken:
        raise OptionError(f"--data model_name={name} is a model of this box already: choose another name")
    serve: dict[str, Any] = {
        "port": _port(rig),
        "context": options.context or 32768,
        **settings,
        "placement": _placement(settings.get("placement"), gpus),
    }
    if options.cache_type is not None:
        serve |= {"cache_type_k": options.cache_type, "cache_type_v": options.cache_type}
    try:
        return Model(name=name, repo=repo, quant="any", build=build, serve=Serve.model_validate(serve))
    except ValidationError as error:
        first = mistakes(error)[0]
        option = {"name": "model_name", "cache_type_k": "cache_type", "cache_type_v": "cache_type"}.get(
            str(first.field).rpartition(".")[2], str(first.field)
        )
        raise OptionError(f"--data {option}={first.value}: {first.message}") from None


def _placement(wanted: object, gpus: int) -> Auto | CpuOnly:
    if not gpus:
        return CpuOnly()
    if isinstance(wanted, Auto) and (wanted.per_gpu is None or len(wanted.per_gpu) == gpus):
        return wanted
    return Auto()


def _port(rig: Rig) -> int:
    """That of the models that the new one excludes, so that clients keep their address; else one that no model has."""
    apart = [model.serve.port for model in rig.models if not model.serve.coexists]
    if apart:
        default = rig.default_model.serve
        return apart[0] if default.coexists else default.port
    taken = {model.serve.port for model in rig.models}
    return next(port for port in range(8080, 65536) if port not in taken)


def declaration(rig: Rig, model: Model, quant: HubQuant, at: AtContext) -> str:
    """The line that can be pasted into the models of the rig.

    :param model: as ``template`` makes it
    """
    serve: dict[str, Any] = {"port": model.serve.port, "context": at.context}
    if model.serve.cache_type_k != Serve.model_fields["cache_type_k"].default:
        serve |= {"cache_type_k": model.serve.cache_type_k, "cache_type_v": model.serve.cache_type_v}
    if at.cache_ram_mib is not None:
        serve["cache_ram_mib"] = at.cache_ram_mib
    auto = model.serve.placement
    if not isinstance(auto, Auto) or isinstance(at.placement, CpuOnly):
        auto = CpuOnly()
    serve["placement"] = placement_call(auto)
    serve |= {name: value for name in BOX_FIELDS if (value := getattr(model.serve, name))}
    fields: dict[str, Any] = {"name": model.name, "repo": model.repo, **quant.selection, "build": model.build}
    text = literal(Call("model", {**fields, "serve": Call("serve", serve)}))
    declared = model.serve.model_copy(update={"context": at.context, "cache_ram_mib": at.cache_ram_mib})
    # What no declaration may hold is a bug of this program, and not the owner's mistake.
    Model.model_validate({**fields, "serve": declared.model_dump()})
    return f"{text},"


def memory_words(cards: Sequence[SimulatedGpu], ram_mib: int) -> str:
    """What the box has for a model."""
    parts = [f"{card.name} with {card.free_mib / 1024:.1f} of {card.total_mib / 1024:.1f} GiB free" for card in cards]
    parts.append(f"{ram_mib / 1024:.1f} GiB of RAM available" if ram_mib else "an unknown amount of RAM")
    return ", ".join(parts)


@dataclass(frozen=True)
class RepositoryAnswer:
    """What came of one repository on one box: the sentence that sums it up, the table, and the line to paste."""

    headline: str
    lines: tuple[str, ...]
    paste: str = ""


def answer(
    rig: Rig, model: Model, quants: Sequence[HubQuant], rows: Sequence[QuantRow], devices: Sequence[str]
) -> RepositoryAnswer:
    """Say what a repository comes to on a box.

    :param model: as ``template`` makes it
    :param quants: of the rows, in their order
    :param devices: names of the GPUs, empty where the processor serves alone
    """
    best = chosen(rows)
    table = table_lines(rows, devices, best.label if best is not None else "")
    rule = RULE if devices else RULE_WITHOUT_GPU
    if best is None or best.best is None:
        least = min((row for row in rows if row.at), key=lambda row: row.size, default=None)
        why = f"; the smallest, {least.label}, {shortage(least.at[0], devices)}" if least is not None else ""
        return RepositoryAnswer(f"{model.repo}: no quant fits{why}", tuple(table))
    at, shape = best.best, best.shape
    layers = f", {at.whole} of {shape.layers} layers whole on the GPUs" if devices and shape is not None else ""
    headline = f"{model.repo}: {best.label} with a context of {context_text(at.context)}{layers}"
    quant = next(one for one in quants if one.label == best.label)
    lines = (*table, f"* chosen: {rule}", *cache_notes([best]))
    return RepositoryAnswer(headline, lines, declaration(rig, model, quant, at))
