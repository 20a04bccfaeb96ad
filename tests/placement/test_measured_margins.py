"""Margins measured on the box: what a server took beyond its plan, whatever other programs did meanwhile."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
from llamarig.placement.measured_margins import CannotMeasureError, measured_margin, served_load_mode
from llamarig.placement.staleness import plan_flags
from llamarig.records.plan_file import MeasuredMargin, Plan, Proposal
from llamarig.render.server_arguments import ModelFiles, server_arguments

from tests.placement.example_models import model
from tests.placement.planned_model import RELEASE, UUIDS, plan
from tests.render.golden_units import PINNED


@dataclass(frozen=True)
class Card:
    uuid: str
    free_mib: int


# The plan predicts 22783 and 12330 MiB of the 23671 and 12761 that llama.cpp listed as free.
LEFT = (23671 - 22783 - 290, 12761 - 12330 - 260)


def served(of: Plan, **serve: Any) -> list[str]:
    declared = model(placement=of.placement.model_dump(), load_mode="none", **serve)
    files = ModelFiles("/m.gguf")
    return [f"/opt/llamarig/releases/{RELEASE}/bin/llama-server", *server_arguments(declared, files, PINNED)]


def measured(of: Plan | None = None, arguments: list[str] | None = None, **changes: Any) -> MeasuredMargin:
    of = of or plan()
    given: dict[str, Any] = {
        "cards": [Card(uuid, free) for uuid, free in zip(UUIDS, LEFT, strict=True)],
        "held_mib": {},
        "prompt_tokens": 32768,
        "date": "2026-11-28T12:00:00Z",
        **changes,
    }
    return measured_margin(of, served(of) if arguments is None else arguments, **given)


def with_driver(of: Plan, free: tuple[int, int]) -> Plan:
    """The plan, where the driver reported so much free without the context of the program that lists devices."""
    devices = tuple(
        device.model_copy(update={"driver_free_mib": mib}) for device, mib in zip(of.belongs.devices, free, strict=True)
    )
    return of.model_copy(update={"belongs": of.belongs.model_copy(update={"devices": devices})})


def test_it_is_what_is_gone_beyond_the_predicted_buffers() -> None:
    found = measured()
    assert found.beyond_mib == (290, 260)
    assert found.left_mib == LEFT
    assert (found.cards, found.release, found.load_mode) == (UUIDS, RELEASE, "none")
    assert found.flags == plan_flags(model(), PINNED)


def test_projector_and_draft_are_not_counted_twice() -> None:
    of = plan()
    of = of.model_copy(update={"belongs": of.belongs.model_copy(update={"others_mib": (200, 0)})})
    assert measured(of).beyond_mib == (90, 260)


@pytest.mark.parametrize("taken", [-500, 0, 100])
def test_what_other_programs_took_or_freed_since_the_plan_is_not_the_servers(taken: int) -> None:
    """A browser on the card with the display, for example. The context of a listing program takes 420 MiB here."""
    of = with_driver(plan(), (23671 + 420, 12761 + 420))
    held = {UUIDS[0]: 22783 + 420 + 290, UUIDS[1]: 12330 + 420 + 260}
    cards = [Card(UUIDS[0], LEFT[0]), Card(UUIDS[1], LEFT[1] - taken)]
    assert measured(of, cards=cards, held_mib=held).beyond_mib == (290, 260)


def test_less_than_predicted_is_nothing_beyond() -> None:
    cards = [Card(UUIDS[0], 2000), Card(UUIDS[1], LEFT[1])]
    assert measured(cards=cards).beyond_mib == (0, 260)


def test_a_server_that_is_not_as_planned_measures_nothing() -> None:
    smaller = plan().placement.model_copy(update={"gpu": (14, 6)})
    stepped = plan(proposals=(Proposal(placement=smaller, reason="out of memory"),))
    older = [served(plan())[0].replace(RELEASE, f"{'f' * 40}-12345678"), *served(plan())[1:]]
    for of, arguments, words in (
        (plan(), served(plan(placement=smaller)), "--override-tensor"),
        (plan(), served(plan(), ubatch=2048), "--ubatch-size 2048, and the plan says 512"),
        (stepped, served(plan()), "fewer layers than planned"),
        (plan(), older, "runs release ffffffffffff"),
        (plan(), [], "cannot be read"),
    ):
        with pytest.raises(CannotMeasureError, match=words):
            measured(of, arguments)
    with pytest.raises(CannotMeasureError, match="does not report CUDA1"):
        measured(cards=[Card(UUIDS[0], 500)])


@pytest.mark.parametrize(
    ("words", "mode"),
    [
        (["--load-mode", "mlock"], "mlock"),
        (["--no-mmap"], "none"),
        (["--no-mmap", "--mlock"], "mlock"),
        ([], "auto"),
    ],
)
def test_the_load_mode_of_a_command_line(words: list[str], mode: str) -> None:
    assert served_load_mode(["llama-server", *words]) == mode
