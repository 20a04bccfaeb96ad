"""Fields of ``serve(...)`` that models need on a box: as its other models have them, or as its hardware wants them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llamarig.adopt.call import Call
from llamarig.declare.placement import Auto, CpuOnly
from llamarig.declare.rig import Rig
from llamarig.survey.proposal import Proposal

_DISPLAY_MARGIN_MIB = 1024
"""Kept free on a card with a display, as the owner of box A does (group_data/rtx4090_rtx5070ti.py)."""
_MARGIN_MIB = Auto().margin_mib
_OF_BOX = ("gpus", "threads", "threads_batch", "cpu_affinity")
BOX_FIELDS = (*_OF_BOX, "environment")
"""Fields that depend on the box, and not on the model; of the environment, what the hardware wants."""


def settings_of_hardware(proposal: Proposal) -> dict[str, Any]:
    """Field -> value, the placement first. The cards are in the proposal's order, the best first."""
    cards = [card for card in proposal.cards if card.vendor == "nvidia"]
    settings: dict[str, Any] = {"placement": _placement(proposal)}
    if proposal.builds[0].backend == "cuda" and (len(cards) > 1 or proposal.unused):
        if all(card.uuid for card in cards):
            settings["gpus"] = tuple(card.uuid for card in cards)
        else:
            settings["environment"] = {"CUDA_DEVICE_ORDER": "FASTEST_FIRST"}
    if proposal.threads is not None and proposal.cpu_affinity is not None:
        settings |= {"threads": proposal.threads, "cpu_affinity": proposal.cpu_affinity}
    return settings


def settings_of_models(rig: Rig, build: str) -> dict[str, Any] | None:
    """Those of the default model, or the first one, that this build serves; None where it serves none."""
    models = [model for model in rig.models if model.build == build]
    if not models:
        return None
    serve = (rig.default_model if rig.default_model in models else models[0]).serve
    settings: dict[str, Any] = {}
    if isinstance(serve.placement, Auto):
        settings["placement"] = serve.placement.model_copy(update={"give_up": ()})
    return settings | {name: value for name in _OF_BOX if (value := getattr(serve, name))}


def placement_call(placement: Auto | CpuOnly) -> Call:
    """The placement as its owner writes it: without fields that have their default."""
    if isinstance(placement, CpuOnly):
        return Call("cpu_only")
    return Call("auto", placement.model_dump(exclude_defaults=True, exclude={"kind"}))


def arguments(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings as arguments of a ``Call``."""
    placement = {"placement": placement_call(settings["placement"])} if "placement" in settings else {}
    return {**settings, **placement}


def _placement(proposal: Proposal) -> Auto | CpuOnly:
    if not proposal.cards or proposal.builds[0].backend == "cpu":
        return CpuOnly()
    margins = [_DISPLAY_MARGIN_MIB if card.display else _MARGIN_MIB for card in proposal.cards]
    if len(set(margins)) == 1:
        return Auto(margin_mib=margins[0])
    return Auto(per_gpu=tuple(margins))
