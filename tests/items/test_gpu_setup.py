"""Declared power limits and the cards of a box: set on the matching card, or refused with a remedy."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from llamarig.declare.host_policy import GpuCard
from llamarig.facts.gpus import Gpus, GpuState
from llamarig.items.gpu_setup import PowerLimitError, gpus_unit_text, power_differences, power_limits

TWO = Gpus().process((Path(__file__).parents[1] / "facts/data/gpu/h200_two_idle.txt").read_text().splitlines())
FIRST, SECOND = TWO.gpus


def card(watts: float | None = None, **fields: str) -> GpuCard:
    return GpuCard(name=fields.get("name", "H200"), uuid=fields.get("uuid"), power_limit_w=watts)


def test_the_card_at_the_declared_place_gets_the_limit() -> None:
    (limit,) = power_limits([card(), card(450)], TWO)
    assert (limit.card, limit.watts) == (SECOND, 450)
    (difference,) = power_differences([limit])
    assert str(difference) == "NVIDIA H200 (00000000:00:07.0): 700 W, expected 450 W (host.gpus); run deploy.py"
    assert power_differences(power_limits([card(700)], TWO)) == []


def test_a_limit_that_an_idle_card_would_forget_is_a_difference() -> None:
    forgetting = GpuState((replace(FIRST, persistence=False),))
    (difference,) = power_differences(power_limits([card(700)], forgetting))
    assert "persistence mode on" in difference.expected


@pytest.mark.parametrize(
    ("declared", "state", "words"),
    [
        ([card(450)], GpuState(problem="no nvidia-smi on this box"), "no nvidia-smi on this box: install the NVIDIA"),
        ([card(450, name="RTX 4090")], TWO, "host.gpus[0] is RTX 4090, and on the box it is NVIDIA H200 GPU-abb3f99e"),
        ([card(450, uuid=SECOND.uuid)], TWO, "no limit is set on a card that was not meant"),
        ([card(), card(), card(450)], TWO, "on the box there are 2"),
        ([card(150)], TWO, "host.gpus[0].power_limit_w = 150: NVIDIA H200 takes 200 to 700 W"),
        ([card(450)], GpuState((replace(FIRST, power_limit_w=0.0),)), "reports no power limit"),
    ],
)
def test_a_limit_that_cannot_be_set_is_refused(declared: list[GpuCard], state: GpuState, words: str) -> None:
    with pytest.raises(PowerLimitError) as refused:
        power_limits(declared, state)
    assert words in str(refused.value)


def test_without_a_declared_limit_a_missing_driver_is_no_difference() -> None:
    assert power_limits([card()], GpuState(problem="no nvidia-smi on this box")) == []


def test_the_unit_names_cards_by_uuid_and_resets_the_default_limit() -> None:
    lines = gpus_unit_text(power_limits([card(450.5), card(700)], TWO), cuda=False).splitlines()
    assert f"ExecStart=nvidia-smi --id={FIRST.uuid} --power-limit=450.5" in lines
    assert f"ExecStop=-nvidia-smi --id={FIRST.uuid} --power-limit=700" in lines
    assert lines.count(f"ExecStart=nvidia-smi --id={SECOND.uuid} --persistence-mode=1") == 1


def test_the_unit_creates_cudas_devices_and_succeeds_without_a_card() -> None:
    lines = [line for line in gpus_unit_text([], cuda=True).splitlines() if line.startswith("ExecStart")]
    assert lines == ["ExecStart=-nvidia-modprobe -u -c 0", "ExecStart=-nvidia-smi --list-gpus"]
    assert "modprobe" not in gpus_unit_text(power_limits([card(450)], TWO), cuda=False)
