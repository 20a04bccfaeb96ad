"""Declarations that cannot work on the box are refused while deploying; probable mistakes are notes."""

from __future__ import annotations

from typing import Any

from llamarig import declare as d
from llamarig.declare.rig import Rig
from llamarig.items.declarations import WorkableDeclarations

from tests.items.converged_box import Box, control_machine, converged_box, cpu_rig


def box(**serve: Any) -> Box:
    declared = cpu_rig()
    (model,) = declared.models
    changed = model.model_copy(update={"serve": d.serve(port=8080, context=4096, coexists=True, **serve)})
    rig = declared.model_copy(update={"models": (changed,)})
    return Box(Rig.model_validate(rig.to_json()), control_machine(rig), converged_box(declared).outputs)


def test_a_declaration_that_works_has_no_difference() -> None:
    item = WorkableDeclarations()
    assert box().differences(item) == []


def test_a_probable_mistake_is_a_note_and_no_difference() -> None:
    item, mistaken = WorkableDeclarations(), box(environment={"CTX_SIZE": "4096"})
    assert mistaken.differences(item) == []
    (note,) = item.notes(mistaken.rig, mistaken.seen(item))
    assert note.startswith("model 'm': ")
    assert "declare serve.context instead" in note


def test_it_is_compared_by_deploys_only() -> None:
    assert WorkableDeclarations.only_while_deploying
    assert not WorkableDeclarations.audited


def test_before_the_models_are_locked_nothing_is_read() -> None:
    item, unlocked = WorkableDeclarations(), box()
    assert list(item.queries(unlocked.rig, control_machine(unlocked.rig, locked=None))) == []
    assert unlocked.differences(item, locked=None) == []
    assert list(item.notes(unlocked.rig, unlocked.seen(item, locked=None))) == []
