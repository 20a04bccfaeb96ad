"""What a survey says of a box that declares a rig."""

from __future__ import annotations

from typing import Any

import pytest
from llamarig.declare.rig import Rig
from llamarig.facts.gpus import Gpus
from llamarig.facts.ram import MemoryModules
from llamarig.survey.comparison import differences

from tests.survey.golden import written
from tests.survey.hardware import BOXES, Answers, card, dump, hardware, hardware_of, nvidia, without_driver
from tests.survey.test_survey import executed, uncommented


def rig(name: str, **changed: Any) -> Rig:
    """The rig that the survey writes for a box."""
    data = executed(written(name))
    return Rig.model_validate({**data, **changed})


@pytest.mark.parametrize("name", [name for name in BOXES if not name.startswith(("no_driver", "old_driver", "p40"))])
def test_a_box_is_as_its_own_survey_says(name: str) -> None:
    found = differences(rig(name), hardware(name))
    assert [one for one in found if "enable the memory profile" not in one] == []
    assert bool(found) == (name == "rtx3090_x2"), "whose RAM runs below its rating"


def found(name: str, **changed: str) -> list[str]:
    """The differences of a box from its own survey, after something has changed on it."""
    facts: dict[str, type[Any]] = {"gpus": Gpus, "ram": MemoryModules}
    answers: Answers = {**BOXES[name], **{facts[key]: text for key, text in changed.items()}}
    return differences(rig(name), hardware_of(answers))


def test_another_card_is_one_difference_with_both_names() -> None:
    other = card(0, "NVIDIA GeForce RTX 4090", 24564, "8.9").replace("GPU-0", "GPU-9")
    text = "\n".join(found("rtx3090", gpus=nvidia(other)))
    assert 'add "89-real" to the build\'s architectures' in text or "RTX 4090" in text
    assert "RTX 3090" in text


def test_a_card_more_is_named_with_its_uuid() -> None:
    cards = [card(0, "NVIDIA GeForce RTX 3090", 24576, "8.6"), card(1, "NVIDIA GeForce RTX 4090", 24564, "8.9")]
    text = "\n".join(found("rtx3090", gpus=nvidia(*cards)))
    assert 'RTX 4090 (24 GB) uuid="GPU-10000000-0000-4000-8000-000000000001" is there, and host.gpus does not' in text


def test_a_driver_that_is_gone_is_a_difference() -> None:
    assert any("no nvidia-smi on this box" in one for one in found("rtx3090", gpus=without_driver()))


def test_ram_that_has_lost_its_profile_is_a_difference() -> None:
    right = dump("dmidecode/008_ddr4_3200_on.txt")  # whose firmware reports the clock
    slow = right.replace("Configured Memory Speed: 1600", "Configured Memory Speed: 1067")
    assert slow != right
    assert any("4 modules at 2134 MT/s" in one for one in found("rtx3090", ram=slow))


def test_a_card_beside_builds_for_the_processor_is_a_difference() -> None:
    assert differences(rig("cpu_only"), hardware("rtx3090")) == [
        "RTX 3090 (24 GB) is there, and every build is for the processor alone"
    ]


def test_slow_cores_in_a_models_affinity_are_a_difference() -> None:
    text = uncommented(written("rtx4060ti"), "d.model(").replace('cpu_affinity="0-11"', 'cpu_affinity="0-13"')
    assert differences(Rig.model_validate(executed(text)), hardware("rtx4060ti")) == [
        "model 'qwen3-30b-a3b': cpu_affinity '0-13' has the slow CPUs 12-13; the fast ones are 0-11"
    ]
