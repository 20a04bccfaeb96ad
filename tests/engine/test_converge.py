"""The engine: needs between items, pyinfra's two evaluations, refusals, notes, and how often a box is read."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import click
import pytest
from llamarig.declare.rig import Rig
from llamarig.engine.control_machine import ControlMachine
from llamarig.engine.converge import compare, converge, look
from llamarig.engine.item import Commands, Difference, Item, Query, Seen, query
from llamarig.engine.refuse import refuse
from llamarig.engine.run import HostRun, of_host, read_fact, run
from llamarig.items.all_items import ITEMS
from llamarig.items.model_units import unit_query
from pyinfra.api.command import StringCommand
from pyinfra.api.operation import operation
from pyinfra.context import state
from pyinfra.facts.server import Command

from tests.engine.fake_run import OperationFailedError, converged_commands, fake_run
from tests.items.converged_box import converged_box, cpu_rig, write_lock_file

RIG = cpu_rig()


class Thing(Item):
    """An item that is as declared if its command prints ``good``."""

    name = "First"
    by_deploy: ClassVar[bool] = True

    def queries(self, rig: Rig, here: ControlMachine) -> Iterable[Query[Any]]:
        yield query(Command, command=f"look {self.name}")

    def differences(self, rig: Rig, seen: Seen) -> list[Difference]:
        found = str(seen.get(Command, command=f"look {self.name}"))
        if found == "good":
            return []
        parts = (found or "nothing").split(" and ")
        return [
            Difference(self.name, "good", part, "see the manual", by_deploy=self.by_deploy, restarts=("m",))
            for part in parts
        ]

    def fix(self, rig: Rig, seen: Seen, differences: list[Difference]) -> Commands:
        for difference in differences:
            yield StringCommand(f"fix {self.name} {difference.found}")


class Second(Thing):
    name = "Second"
    needs = (Thing,)


class Third(Thing):
    name = "Third"
    needs = (Second,)


class OnlyOwnerCanFix(Thing):
    name = "Manual"
    by_deploy = False


class AtLeisure(Thing):
    name = "Leisure"

    def differences(self, rig: Rig, seen: Seen) -> list[Difference]:
        return [replace(one, by_deploy=False, stops_deploy=False) for one in super().differences(rig, seen)]


class AfterLeisure(Thing):
    name = "Second"
    needs = (AtLeisure,)


class Begun(Thing):
    begins_work = True


class Awaited(Thing):
    name = "Second"
    awaits_work = True

    def fix(self, rig: Rig, seen: Seen, differences: list[Difference]) -> Commands:
        yield from (
            refuse("the disk is full") if differences[0].found == "stuck" else super().fix(rig, seen, differences)
        )


class WithNotes(Thing):
    name = "Noted"

    def notes(self, rig: Rig, seen: Seen) -> Iterable[str]:
        yield f"worth knowing: {seen.get(Command, command='look Noted')}"


CHAIN = (Thing(), Second(), Third())
GOOD = {f"look {name}": "good" for name in ("First", "Second", "Third", "Manual", "Noted")}


def alone(replies: dict[str, Any]) -> dict[str, Any]:
    """Replies of commands that are read one by one: the batch of them prints nothing."""
    return {"@@llamarig": "", **replies}


def fixes(commands: list[str]) -> list[str]:
    return [command for command in commands if command.startswith("fix ")]


@pytest.fixture
def logged(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level("INFO", logger="pyinfra")
    return caplog


def test_an_item_as_declared_is_no_change() -> None:
    with fake_run(replies=alone(GOOD), deploys=[lambda: converge(CHAIN, RIG)]) as this:
        assert fixes(this.commands) == []
        assert this.changes == []


def test_nothing_is_compared_or_fixed_where_a_fact_does_not_end(logged: pytest.LogCaptureFixture) -> None:
    """Its default is no answer: an item that is as declared would be fixed."""
    replies = {"@@llamarig": ["@@llamarig 0", "@@llamarig late", "@@llamarig 1", "good", "@@llamarig ok"]}
    with pytest.raises(OperationFailedError) as failed:
        converged_commands([Thing(), Second()], RIG, replies)
    assert fixes(failed.value.commands) == []
    assert logged.text.count("reading its command did not end within 60 s") == 1


def test_a_fix_is_given_exactly_the_differences() -> None:
    commands = converged_commands([Thing()], RIG, alone({"look First": "bad and worse"}))
    assert fixes(commands) == ["fix First bad", "fix First worse"]


def test_a_dry_run_prints_every_difference_and_what_follows_from_it(logged: pytest.LogCaptureFixture) -> None:
    replies = alone({**GOOD, "look First": "bad and worse"})
    with fake_run(replies=replies, deploys=[lambda: converge(CHAIN, RIG)], only_prepare=True) as this:
        assert this.changes == ["First", "Second", "Third"]
        assert fixes(this.commands) == []
    for line in (
        "First: bad, expected good (restarts m)",
        "First: worse, expected good (restarts m)",
        "Second: follows from First",
        "Third: follows from Second",
    ):
        assert line in logged.text


def test_what_the_owner_may_leave_keeps_no_item_from_being_compared() -> None:
    items = (AtLeisure(), AfterLeisure())
    replies = alone({"look Leisure": "bad", "look Second": "worse"})
    compared: dict[str, list[Difference]] = {}

    def deploy() -> None:
        converge(items, RIG)
        compared.update(compare(items, RIG))

    with fake_run(replies=replies, deploys=[deploy]) as this:
        assert this.changes == ["Second"]
        known = of_host(this.host())
    assert set(compared) == {"Leisure", "Second"}
    assert known.would_change == ["Second: worse -> good"]
    assert known.changes == ["Second: good"]


@pytest.mark.parametrize(
    ("then", "changes"), [("good", ["First: good"]), ("under way", ["First: good"]), ("stuck", [])]
)
def test_work_that_was_begun_is_a_change_once_it_has_ended(then: str, changes: list[str]) -> None:
    replies = alone({"look First": "bad", "look Second": then})
    known: list[HostRun] = []

    def deploy() -> None:
        known.append(of_host())
        converge((Begun(), Awaited()), RIG)

    with suppress(OperationFailedError), fake_run(replies=replies, deploys=[deploy]):
        pass
    assert known[-1].changes == changes


def test_of_an_item_with_many_changes_the_closing_block_names_the_first() -> None:
    replies = alone({"look First": "a and b and c and d"})
    with fake_run(replies=replies, deploys=[lambda: converge([Thing()], RIG)]) as this:
        assert of_host(this.host()).would_change == ["First: a -> good", "First: b -> good", "First: 2 more"]


def test_diff_shows_what_changes_in_a_text(logged: pytest.LogCaptureFixture) -> None:
    class Text(Thing):
        def differences(self, rig: Rig, seen: Seen) -> list[Difference]:
            return [Difference("a file", "other", "old", texts=("a\nb\nc\n", "a\nx\nc\n"))]

    for wanted, count in ((False, 0), (True, 1)):
        logged.clear()

        def deploy(wanted: bool = wanted) -> None:
            state.config.DIFF = wanted
            converge([Text()], RIG)

        with fake_run(replies=alone(GOOD), deploys=[deploy], only_prepare=True):
            pass
        text = click.unstyle(logged.text)
        assert [text.count(line) for line in ("    -b", "    +x")] == [count, count]


def test_a_dry_run_prints_refusals(logged: pytest.LogCaptureFixture) -> None:
    with fake_run(
        replies={"look Manual": "bad"}, deploys=[lambda: converge([OnlyOwnerCanFix()], RIG)], only_prepare=True
    ):
        pass
    assert "Manual: bad, expected good; see the manual" in logged.text


def test_an_item_that_waited_is_compared_while_executing() -> None:
    """It counts as changing while pyinfra prepares, and is fixed only if it then differs."""
    replies = alone({"look First": "bad", "look Second": "good", "look Third": "bad"})
    assert fixes(converged_commands(CHAIN, RIG, replies)) == ["fix First bad", "fix Third bad"]


def test_an_item_whose_needs_differ_is_not_read_while_preparing() -> None:
    replies = alone({"look First": "bad"})
    with fake_run(replies=replies, deploys=[lambda: converge(CHAIN, RIG)], only_prepare=True) as this:
        assert "look Second" not in this.commands


def test_a_fact_is_read_again_after_an_earlier_item_was_fixed() -> None:
    commands = converged_commands(CHAIN, RIG, alone({"look First": "bad", "look Second": "good", "look Third": "good"}))
    after = commands[commands.index("fix First bad") :]
    assert after.count("look Second") == 1


def test_a_refusal_stops_its_own_host_only(logged: pytest.LogCaptureFixture) -> None:
    items = (OnlyOwnerCanFix(), Thing())
    boxes = {
        "@fake/a": alone({"look Manual": "bad", "look First": "bad"}),
        "@fake/b": alone({**GOOD, "look First": "bad"}),
    }
    with fake_run(hosts=boxes, deploys=[lambda: converge(items, RIG)]) as this:
        assert this.failed == {"@fake/a"}
        assert fixes(this.commands_on("@fake/a")) == []
        assert fixes(this.commands_on("@fake/b")) == ["fix First bad"]
    assert "[@fake/a] Manual: bad, expected good; see the manual" in logged.text


def test_one_refusal_names_all_that_a_deploy_may_not_fix(logged: pytest.LogCaptureFixture) -> None:
    with pytest.raises(OperationFailedError):
        converged_commands([OnlyOwnerCanFix()], RIG, alone({"look Manual": "bad and worse"}))
    assert "Manual: bad, expected good; see the manual; Manual: worse, expected good; see the manual" in logged.text


class DoesNotStop(OnlyOwnerCanFix):
    def differences(self, rig: Rig, seen: Seen) -> list[Difference]:
        return [Difference("it", "good", "bad", "see the manual", by_deploy=False, stops_deploy=False)]


def test_what_a_deploy_may_not_fix_is_shown_and_the_deploy_goes_on(logged: pytest.LogCaptureFixture) -> None:
    commands = converged_commands([DoesNotStop(), Thing()], RIG, alone({"look First": "bad"}))
    assert fixes(commands) == ["fix First bad"]
    assert "it: bad, expected good; see the manual" in logged.text


def test_notes_are_printed_by_each_deploy_and_not_while_preparing(logged: pytest.LogCaptureFixture) -> None:
    with fake_run(replies=alone(GOOD), deploys=[lambda: converge([WithNotes()], RIG)], only_prepare=True):
        assert "worth knowing" not in logged.text
    converged_commands([WithNotes()], RIG, alone(GOOD))
    assert logged.text.count("worth knowing: good") == 1


# --- audit ------------------------------------------------------------------------------------------------------------


def compared(items: tuple[Item, ...], replies: dict[str, Any]) -> dict[str, list[Difference]]:
    found: dict[str, list[Difference]] = {}

    @operation()
    def compares() -> Commands:
        run().only_looks = True
        found.update(compare(items, RIG))
        yield from ()

    with fake_run((compares, {}), replies=replies):
        return found


def test_an_audit_leaves_out_what_follows_from_a_difference() -> None:
    found = compared(CHAIN, {**GOOD, "look First": "bad", "look Second": "bad", "look Third": "bad"})
    assert [str(difference) for difference in found["First"]] == ["First: bad, expected good; see the manual"]
    assert found.keys() == {"First"}


def test_an_audit_leaves_out_items_that_only_carry_out_others() -> None:
    class CarriesOut(Thing):
        name = "Carried out"
        audited = False

    assert compared((Thing(), CarriesOut()), GOOD) == {"First": []}


def test_a_comparison_can_read_afresh() -> None:
    seen: list[str] = []

    @operation()
    def looks() -> Commands:
        read_fact(Command, command="look First")
        seen.append(look(Thing(), [Thing()], RIG).get(Command, command="look First"))
        seen.append(look(Thing(), [Thing()], RIG, fresh=True).get(Command, command="look First"))
        yield from ()

    with fake_run((looks, {}), replies=GOOD, only_prepare=True) as this:
        assert this.commands == ["look First"] * 2
        assert seen == ["good", "good"]


# --- all items --------------------------------------------------------------------------------------------------------


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    rig = cpu_rig(model_lock=str(tmp_path / "lock.json"), plan_file=str(tmp_path / "plans.json"))
    write_lock_file(rig)
    return rig


def test_no_item_finds_a_difference_on_a_converged_box(rig: Rig) -> None:
    box = converged_box(rig)
    assert {item.name: box.differences(item) for item in ITEMS if box.differences(item)} == {}


def test_a_deploy_that_changes_nothing_is_one_command_a_stage(rig: Rig) -> None:
    with fake_run(
        replies=converged_box(rig).replies(), deploys=[lambda: converge(ITEMS, rig)], only_prepare=True
    ) as this:
        assert len(this.commands) == 1, this.commands
        assert this.changes == []
    with fake_run(replies=converged_box(rig).replies(), deploys=[lambda: converge(ITEMS, rig)]) as this:
        assert len(this.commands) == 2, this.commands
        assert "echo '@@llamarig 0'" in this.commands[0]
        assert "echo '@@llamarig 0'" in this.commands[1]


def test_a_dry_run_of_all_items_names_the_model_it_would_restart(rig: Rig, logged: pytest.LogCaptureFixture) -> None:
    box = converged_box(rig)
    unit = unit_query(rig)
    box.outputs[unit] = box.outputs[unit].replace("ActiveState=active", "ActiveState=failed")
    with fake_run(replies=box.replies(), deploys=[lambda: converge(ITEMS, rig)], only_prepare=True) as this:
        assert this.changes == ["Models served"]
    assert "m: failed; starts it" in logged.text


def test_items_come_after_what_they_need() -> None:
    kinds = [type(item) for item in ITEMS]
    for item in ITEMS:
        assert all(need in kinds[: kinds.index(type(item))] for need in item.needs), item.name


def test_items_have_names_of_their_own() -> None:
    names = [item.name for item in ITEMS]
    assert sorted(set(names)) == sorted(names)
