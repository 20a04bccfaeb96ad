"""Which releases can show what a declared placement takes."""

from __future__ import annotations

import pytest

from tasks.facts.releases import Release
from tasks.operations.load_modes import can_be_measured, measured_models
from tests.planning.cuda_rig import rig
from tests.planning.golden_units import PINNED


def release(*without: str, program: str = "llama-fit-params") -> Release:
    return Release(manifest={"flags": sorted(PINNED - set(without))}, files={"llama-server": 1, program: 1})


def test_a_release_with_the_program_and_the_flags_can_be_measured() -> None:
    assert can_be_measured(rig({}), rig({}).models[0], release())
    assert not can_be_measured(rig({}), rig({}).models[0], release(program="llama-bench"))


@pytest.mark.parametrize("missing", ["--load-mode", "--tensor-split"])
def test_a_release_that_refuses_a_flag_is_not_asked(missing: str) -> None:
    """Whoever renders the unit says so; the pinning of weights is no reason to end a deploy."""
    assert not can_be_measured(rig({}), rig({}).models[0], release(missing))


def test_models_whose_owner_decided_against_pinning_are_not_measured() -> None:
    declared = rig({}, {"load_mode": "mmap"}, {"load_mode": "mlock"}, {"op_offload": False})
    assert [model.name for model in measured_models(declared)] == ["m0", "m2"]
