"""A deep check reads every byte of the model files, which takes minutes: once a deploy, unless they change."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar

import pytest
from llamarig.declare.rig import Rig
from llamarig.engine.comparison_inputs import read_seen
from llamarig.engine.control_machine import ControlMachine
from llamarig.engine.item import Commands, Difference, Item, Query, Seen, query
from llamarig.facts.jobs import RunningJobs
from llamarig.facts.model_store import FileHashes, ModelStore
from llamarig.items.model_files import FetchedModels
from llamarig.render.model_paths import target
from pyinfra.api.command import FunctionCommand
from pyinfra.api.operation import operation
from pyinfra.facts.server import Command

from tests.engine.fake_run import commands_of, converged_commands
from tests.engine.uploads import targets
from tests.items.converged_box import LOCKED, batch_reply, cpu_rig, fact_command, store_output, write_lock_file

PATHS = [target(LOCKED, file) for file in LOCKED.files]
LOOK: Query[Any] = query(Command, command="look")
STORE: Query[Any] = query(ModelStore)
JOBS: Query[Any] = query(RunningJobs)
HASHES: Query[Any] = query(FileHashes, paths=PATHS)
DEEP = {"deep": "1"}


class Box:
    """The replies of a box whose model files are as locked. They are lists, so that an item can change them."""

    def __init__(self) -> None:
        self.outputs: dict[Query[Any], str] = {
            LOOK: "seen",
            STORE: store_output([LOCKED]),
            JOBS: "",
            HASHES: "\n".join(f"{file.sha256}  {path}" for file, path in zip(LOCKED.files, PATHS, strict=True)),
        }
        self.replies: dict[str, list[str]] = {}
        self._reply()

    def write_again(self) -> None:
        """The files are written again at a later time."""
        self.outputs[STORE] = self.outputs[STORE].replace("0.000000005", "0.000000006")
        self._reply()

    def fill(self) -> None:
        """Another file takes half of the free space."""
        self.outputs[STORE] = self.outputs[STORE].replace(f"free\t{1 << 50}", f"free\t{1 << 49}")
        self._reply()

    def _reply(self) -> None:
        replies = dict[str, str]()
        for together in ([LOOK, STORE, JOBS], [STORE, JOBS]):
            replies |= batch_reply(together, self.outputs)
        replies |= {fact_command(one): text for one, text in self.outputs.items()}
        for command, text in replies.items():
            self.replies.setdefault(command, [])[:] = text.splitlines()


class Changes(Item):
    """Changes the box in every deploy."""

    name = "Changes"
    box: ClassVar[Box]

    def queries(self, rig: Rig, here: ControlMachine) -> Iterable[Query[Any]]:
        yield LOOK

    def differences(self, rig: Rig, seen: Seen) -> list[Difference]:
        return [Difference("it", "changed", "as it was")]

    def fix(self, rig: Rig, seen: Seen, differences: list[Difference]) -> Commands:
        yield FunctionCommand(self.change, [], {})

    def change(self, state: object, host: object) -> bool:
        return True


class ChangesFreeSpace(Changes):
    name = "Changes free space"

    def change(self, state: object, host: object) -> bool:
        self.box.fill()
        return True


class WritesModelFiles(Changes):
    name = "Writes model files"

    def change(self, state: object, host: object) -> bool:
        self.box.write_again()
        return True


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    rig = cpu_rig(model_lock=str(tmp_path / "lock.json"), plan_file=str(tmp_path / "plans.json"))
    write_lock_file(rig)
    return rig


def times_hashed(commands: list[str]) -> int:
    return len([command for command in commands if "sha256sum " in command and not targets([command])])


def test_a_deploy_that_changes_nothing_reads_them_once(rig: Rig) -> None:
    assert times_hashed(converged_commands([FetchedModels()], rig, Box().replies, DEEP)) == 1


@pytest.mark.parametrize(("item", "times"), [(Changes, 1), (ChangesFreeSpace, 1), (WritesModelFiles, 2)])
def test_a_deploy_reads_them_again_only_after_they_have_changed(rig: Rig, item: type[Changes], times: int) -> None:
    """The same files are those of the same size, time and inode."""
    box = Box()
    changes = type("ChangesThisBox", (item,), {"box": box})()
    commands = converged_commands([changes, FetchedModels()], rig, box.replies, DEEP)
    stats = [command for command in commands if "-printf 'file" in command]
    assert len(stats) >= 3, "in each stage, and again after the change"
    assert times_hashed(commands) == times


@operation()
def reads_afresh(rig: Rig) -> Commands:
    for fresh in (False, True):
        read_seen(lambda rig, here: [STORE, HASHES], rig, fresh=fresh)
    yield from ()


def test_an_operation_can_read_them_afresh(rig: Rig) -> None:
    assert times_hashed(commands_of((reads_afresh, {"rig": rig}), replies=Box().replies)) == 3
