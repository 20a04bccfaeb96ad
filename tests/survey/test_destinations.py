"""Which boxes share a file of group_data/, what it is called, and what the inventory has to say."""

from __future__ import annotations

from collections import Counter

import pytest
from llamarig.survey.destinations import Destination, Undeclared, destinations
from llamarig.survey.group_file import FileHead, file_text
from llamarig.survey.propose import proposal

from tests.survey.hardware import hardware


def box(host: str, kind: str, *groups: str) -> Undeclared:
    found = hardware(kind)
    return Undeclared(host, groups, found, proposal(found))


def named(*boxes: Undeclared, taken: tuple[str, ...] = ()) -> dict[str, Destination]:
    members = Counter(group for each in boxes for group in each.groups)
    return {each.name: each for each in destinations(boxes, taken, members)}


def test_a_group_of_boxes_that_are_alike_has_one_file_of_its_name() -> None:
    found = named(box("a", "rtx3090", "big"), box("b", "rtx3090", "big"))
    assert found.keys() == {"big"}
    assert found["big"].hosts == ("a", "b")
    assert found["big"].listed
    # A UUID is one box's.
    text = file_text(found["big"].proposal, FileHead("x", found["big"].hosts))
    assert 'gpus=(d.gpu_card(name="RTX 3090"),)' in text
    assert "GPU-0" not in text


def test_boxes_that_differ_get_files_of_their_own_and_lines_for_the_inventory() -> None:
    found = named(box("a", "rtx3090", "boxes"), box("b", "rx7900xt", "boxes"), box("c", "rtx3090", "boxes"))
    assert {name: one.hosts for name, one in found.items()} == {"rtx3090": ("a", "c"), "rx7900xt": ("b",)}
    assert not any(one.listed or one.exists for one in found.values())
    assert found["rtx3090"].inventory_line == 'rtx3090 = ["a", "c"]'


def test_a_box_in_no_group_gets_a_name() -> None:
    assert named(box("a", "rtx3090_x2")).keys() == {"rtx3090_x2"}


def test_a_box_in_two_groups_gets_the_file_of_the_first_that_is_free() -> None:
    assert named(box("a", "rtx3090", "home", "big"), taken=("home",)).keys() == {"big"}


def test_a_file_of_the_owners_is_never_the_destination() -> None:
    found = named(box("a", "rtx3090", "big"), taken=("big",))
    assert {name: (one.listed, one.exists) for name, one in found.items()} == {"rtx3090": (False, False)}
    found = named(box("a", "rtx3090", "big"), taken=("big", "rtx3090"))
    assert {name: (one.listed, one.exists) for name, one in found.items()} == {"rtx3090": (False, True)}


def test_two_kinds_with_one_name_are_told_apart_by_their_memory() -> None:
    found = named(box("a", "rtx3090"), box("b", "old_driver"))
    assert len(found) == 2
    assert next(iter(found)) == "rtx3090_24gb"


def test_what_boxes_of_a_group_do_not_share_is_left_out() -> None:
    one, other = box("a", "rtx3090", "big"), box("b", "rtx3090", "big")
    slow = proposal(hardware("rtx3090"))
    object.__setattr__(other, "proposal", slow.__class__(**{**vars(slow), "memory_mts": 3600}))
    assert named(one, other)["big"].proposal.memory_mts is None


@pytest.mark.parametrize("kind", ["wsl2", "cpu_only", "strix_halo", "gb10", "jetson_orin", "arc_a770", "p40"])
def test_a_name_is_one_that_python_and_pyinfra_take(kind: str) -> None:
    (name,) = named(box("a", kind))
    assert name.isidentifier()
    assert name == name.lower()
