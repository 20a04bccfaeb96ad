"""A box with an H200 and one planned model: its declaration and its plan."""

from __future__ import annotations

import importlib
from typing import Any

from llamarig.declare.placement import Auto, Layers
from llamarig.declare.rig import Rig
from llamarig.placement.ram_budget import ram_budget
from llamarig.records.plan_file import DeviceMemory, Plan, PlanInputs, PlannedDevice

H200_UUID = "GPU-abb3f99e-7dc8-fb04-7f9d-6c963a49df37"
_B = Rig.model_validate(importlib.import_module("group_data.rtx4070").rig)
MODEL = _B.models[0].name
BY_PLAN = _B.model_copy(
    update={
        "models": (
            _B.models[0].model_copy(update={"serve": _B.models[0].serve.model_copy(update={"placement": Auto()})}),
        )
    }
)


def planned(**changes: Any) -> Plan:
    """A plan for the first of two H200 with the names and UUID of its driver; 100000 MiB predicted on the card."""
    card = PlannedDevice(name="CUDA0", description="NVIDIA H200", total_mib=143771, free_mib=142600, uuid=H200_UUID)
    on_card = DeviceMemory(name="CUDA0", model_mib=90000, context_mib=8000, compute_mib=2000)
    in_ram = DeviceMemory(name="Host", model_mib=4000, context_mib=0, compute_mib=500)
    others = tuple(changes.pop("others_mib", ()))
    uuid = changes.pop("uuid", card.uuid)
    return Plan(
        belongs=PlanInputs(
            header="a" * 64,
            devices=(card.model_copy(update={"uuid": uuid}),),
            margins_mib=(384,),
            others_mib=others,
            flags=(),
            release="r",
        ),
        placement=Layers(gpu=(40,), split=(49,)),
        context=65536,
        ubatch=512,
        cache_type_k="f16",
        cache_type_v="f16",
        memory=(on_card, in_ram),
        ram=ram_budget(_B.models[0].serve, in_ram, 0, 60000),
    ).model_copy(update=changes)
