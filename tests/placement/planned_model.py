"""A planned model on box A."""

from __future__ import annotations

from typing import Any

from llamarig.declare.placement import Layers
from llamarig.placement.ram_budget import ram_budget
from llamarig.placement.staleness import plan_flags
from llamarig.records.plan_file import DeviceMemory, Plan, PlanInputs, PlannedDevice

from tests.placement.example_models import model
from tests.render.golden_units import PINNED

UUIDS = ("GPU-11111111-2222-3333-4444-555555555555", "GPU-aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee")
SHARDS = ("1" * 64, "2" * 64)
RELEASE = "0c1e57098bba43ac29e6e3b677cdceebdd22334f-a6a0c45d"


def memory(name: str, *mib: int, state: int = 0) -> DeviceMemory:
    return DeviceMemory(name=name, model_mib=mib[0], context_mib=mib[1], compute_mib=mib[2], state_mib=state)


def plan(**changes: Any) -> Plan:
    """The plan of box A, with the numbers of data/qwen3-coder-next-q6.txt."""
    host = memory("Host", 34263, 0, 1056)
    devices = (
        PlannedDevice(name="CUDA0", description="RTX 4090", total_mib=24564, free_mib=23671, uuid=UUIDS[0]),
        PlannedDevice(name="CUDA1", description="RTX 5070 Ti", total_mib=16303, free_mib=12761, uuid=UUIDS[1]),
    )
    belongs = PlanInputs(
        header="a" * 64,
        shards=SHARDS,
        devices=devices,
        margins_mib=(384, 384),
        flags=plan_flags(model(), PINNED),
        release=RELEASE,
    )
    return Plan(
        belongs=belongs,
        placement=Layers(gpu=(15, 6), split=(21, 28)),
        context=65536,
        ubatch=512,
        cache_type_k="f16",
        cache_type_v="f16",
        memory=(memory("CUDA0", 19566, 1393, 1824, state=33), memory("CUDA1", 8657, 1945, 1728, state=42), host),
        ram=ram_budget(model().serve, host, 75.38, 60000),
        splits=(104, 57),
    ).model_copy(update=changes)
