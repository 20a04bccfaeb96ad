"""Which models are measured, and which releases can measure them."""

from __future__ import annotations

import pytest
from llamarig.facts.releases import Release
from llamarig.items.placements import can_be_measured, measured_models

from tests.placement.cuda_rig import rig
from tests.render.golden_units import PINNED


def release(*without: str, program: str = "llama-fit-params") -> Release:
    return Release(manifest={"flags": sorted(PINNED - set(without))}, files={"llama-server": 1, program: 1})


def test_a_release_with_the_program_and_the_flags_can_be_measured() -> None:
    assert can_be_measured(rig({}), rig({}).models[0], release())
    assert not can_be_measured(rig({}), rig({}).models[0], release(program="llama-bench"))


@pytest.mark.parametrize("missing", ["--load-mode", "--tensor-split"])
def test_a_release_without_a_declared_flag_measures_nothing(missing: str) -> None:
    """The item that renders the unit reports the flag; pinning weights is no reason to fail a deploy."""
    assert not can_be_measured(rig({}), rig({}).models[0], release(missing))


def test_models_whose_owner_decided_against_pinning_are_not_measured() -> None:
    declared = rig({}, {"load_mode": "mmap"}, {"load_mode": "mlock"}, {"op_offload": False})
    assert [model.name for model in measured_models(declared)] == ["m0", "m2"]
