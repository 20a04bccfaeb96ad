"""The service user, the directories and the programs that everything else needs."""

from __future__ import annotations

import pytest
from llamarig.engine.item import query
from llamarig.facts.files import Ownership, Sha256Sums, UserExists
from llamarig.items.base_system import Directories, Programs, ServiceUser
from llamarig.render import layout

from tests.engine.fake_run import converged_commands
from tests.engine.uploads import targets
from tests.items.converged_box import Box, converged_box, cpu_rig, fact_command


@pytest.fixture
def box() -> Box:
    return converged_box(cpu_rig())


def test_a_box_as_declared_has_no_difference(box: Box) -> None:
    assert box.differences(ServiceUser()) == box.differences(Directories()) == box.differences(Programs()) == []


def test_a_missing_user_is_created(box: Box) -> None:
    box.outputs[query(UserExists, user=layout.USER)] = ""
    assert len(box.differences(ServiceUser())) == 1
    replies = {"uname -s": "Linux", "command -v useradd": "/usr/sbin/useradd"}
    commands = converged_commands([ServiceUser()], box.rig, replies)
    (create,) = [command for command in commands if command.startswith("useradd")]
    assert "-s /usr/sbin/nologin -r -M" in create, "no shell, a system user, no home"


@pytest.mark.parametrize("owner", ["anna root 755 directory", "root root 700 directory", "root root 755 regular file"])
def test_each_directory_is_compared(box: Box, owner: str) -> None:
    fact_query = query(Ownership, paths=list(layout.DIRECTORIES))
    box.outputs[fact_query] = box.outputs[fact_query].replace(
        f"{layout.MODELS}\troot root 755 directory", f"{layout.MODELS}\t{owner}"
    )
    (difference,) = box.differences(Directories())
    assert difference.what == layout.MODELS
    assert owner in difference.found


def test_only_the_directories_that_differ_are_changed(box: Box) -> None:
    fact_query = query(Ownership, paths=list(layout.DIRECTORIES))
    box.outputs[fact_query] = box.outputs[fact_query].replace(f"{layout.MODELS}\t", "elsewhere\t")
    commands = converged_commands([Directories()], box.rig, {fact_command(fact_query): box.outputs[fact_query]})
    changed = [command for command in commands if command.startswith(("mkdir", "chown", "chmod"))]
    assert changed
    assert all(layout.MODELS in command for command in changed)


def test_programs_of_another_version_are_one_difference(box: Box) -> None:
    fact_query = query(Sha256Sums, paths=list(box.here.programs))
    box.outputs[fact_query] = ""
    (difference,) = box.differences(Programs())
    assert f"and {len(box.here.programs) - 3} more" in difference.found


def test_only_the_programs_that_differ_are_sent(box: Box) -> None:
    fact_query = query(Sha256Sums, paths=list(box.here.programs))
    first, *others = box.outputs[fact_query].splitlines()
    commands = converged_commands([Programs()], box.rig, {fact_command(fact_query): "\n".join(others)})
    path = first.partition("  ")[2]
    assert targets(commands) == [path]
