"""The RAM of a plan, and the memory limit of its unit."""

from __future__ import annotations

from typing import Any

from llamarig.declare.serve import Serve
from llamarig.placement.ram_budget import memory_limit_mib, ram_budget, ram_shortages

from tests.placement.example_models import model
from tests.placement.planned_model import memory, plan


def serve(**changes: Any) -> Serve:
    return model(**changes).serve


def test_the_ram_of_box_a() -> None:
    """Weights and buffers of the dry run; the default prompt cache and 32 checkpoints."""
    budget = ram_budget(serve(), memory("Host", 34263, 0, 1056), 75.38, 60000)
    assert (budget.cache_mib, budget.checkpoints_mib, budget.total_mib) == (
        8192,
        2412,
        34263 + 1056 + 8192 + 2412 + 2048,
    )
    assert ram_shortages(serve(), budget) == ([], [])


def test_too_little_ram_is_refused_or_noted() -> None:
    budget = ram_budget(serve(), memory("Host", 34263, 0, 1056), 75.38, 36000)
    for mode in ("none", "mlock", "mmap+mlock", "dio"):
        refusals, _ = ram_shortages(serve(load_mode=mode), budget)
        assert "needs 37367 MiB of RAM at once" in refusals[0]
    refusals, notes = ram_shortages(serve(), budget)
    assert refusals == []
    assert "read from the disk again" in notes[0]


def test_unknown_ram_is_noted() -> None:
    _, notes = ram_shortages(serve(), ram_budget(serve(), memory("Host", 1, 0, 0), 0, 0))
    assert "is unknown" in notes[0]


def test_the_memory_limit_of_a_planned_model_allows_every_step_down() -> None:
    limit = memory_limit_mib(serve(), plan())
    assert limit is not None
    freed = sum(gpu.model_mib for gpu in plan().gpus)
    assert plan().ram.total_mib < limit < plan().ram.total_mib + freed
    assert memory_limit_mib(serve(memory_max_mib=4096), plan()) == 4096
    assert memory_limit_mib(serve(load_mode="mmap+mlock"), plan()) is None
