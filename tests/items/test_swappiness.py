"""vm.swappiness, now and after a reboot, which other sysctl files and udev rules may set."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest
from llamarig import declare as d
from llamarig.engine.control_machine import ControlMachine
from llamarig.engine.item import Difference, Query, Seen, query
from llamarig.facts.files import Ownership, Sha256Sums
from llamarig.facts.machine import Machine, MachineState
from llamarig.items.swappiness import Swappiness
from llamarig.render import layout

from tests.checks.example_boxes import SWAPPINESS_0, B, machine
from tests.engine.fake_run import converged_commands
from tests.engine.uploads import targets
from tests.items.converged_box import Box, converged_box, cpu_rig

OURS = "# Written by llamarig: keeps model weights in RAM.\nvm.swappiness = 0\n"
PATHS = {"paths": [layout.SYSCTL_FILE]}


@pytest.fixture
def box() -> Box:
    return converged_box(cpu_rig())


def test_a_box_as_declared(box: Box) -> None:
    assert box.differences(Swappiness()) == []


def test_without_a_declaration_nothing_is_read() -> None:
    rig = cpu_rig(host=d.host_policy(swappiness=None))
    box = Box(rig, converged_box(rig).here)
    assert list(Swappiness().queries(rig, box.here)) == []
    assert box.differences(Swappiness()) == []


def test_another_value_is_one_difference_for_now_and_after_a_reboot(box: Box) -> None:
    box.outputs[query(MachineState)] = "== swappiness\n60\n== at-boot\n"
    (difference,) = box.differences(Swappiness())
    assert difference.found == "60 now, nothing set after a reboot"
    assert difference.by_deploy


def test_a_value_that_cannot_be_read_is_unknown(box: Box) -> None:
    box.outputs[query(MachineState)] = ""
    (difference,) = box.differences(Swappiness())
    assert difference.is_unknown


@pytest.mark.parametrize(
    ("fact", "output"),
    [
        (Sha256Sums, f"{'0' * 64}  {layout.SYSCTL_FILE}"),
        (Ownership, f"{layout.SYSCTL_FILE}\troot root 600 regular file"),
    ],
)
def test_an_edited_file_is_written_again(box: Box, fact: type, output: str) -> None:
    box.outputs[query(fact, **PATHS)] = output
    (difference,) = box.differences(Swappiness())
    assert difference.what == layout.SYSCTL_FILE


@pytest.mark.parametrize(
    ("now", "is_ours_there", "fixed"),
    [
        (60, True, ["vm.swappiness now"]),
        (60, False, ["vm.swappiness now"]),
        (10, False, [layout.SYSCTL_FILE]),
        (10, True, []),
    ],
)
def test_what_a_deploy_can_do_is_reported_beside_a_file_that_overrides_ours(
    box: Box, now: int, is_ours_there: bool, fixed: list[str]
) -> None:
    """The owner has to remove that file's line; a deploy sets the value now, and writes our own file again."""
    mine = "/etc/sysctl.d/99-mine.conf"
    box.outputs[query(MachineState)] = f"== swappiness\n{now}\n== at-boot\n# {mine}\nvm.swappiness = 60"
    if not is_ours_there:
        box.outputs[query(Sha256Sums, **PATHS)] = ""
    owners, *deploys = box.differences(Swappiness())
    assert (owners.what, owners.by_deploy, owners.stops_deploy) == ("vm.swappiness", False, False)
    assert owners.remedy == f"remove vm.swappiness from {mine}"
    assert [(one.what, one.remedy) for one in deploys] == [(what, "run deploy.py") for what in fixed]


def test_the_file_is_written_and_the_value_set(box: Box) -> None:
    commands = converged_commands(
        [Swappiness()], box.rig, {"@@llamarig": "", "== swappiness": "== swappiness\n60\n== at-boot\n"}
    )
    assert targets(commands) == [layout.SYSCTL_FILE]
    assert "sysctl vm.swappiness=10" in commands
    assert not [command for command in commands if layout.UDEV_FILE in command]


def test_a_udev_rule_that_sets_it_later_is_overridden_by_one_of_ours(box: Box) -> None:
    state = '== swappiness\n10\n== at-boot\n== udev\n/usr/lib/udev/rules.d/30-zram.rules:SYSCTL{vm.swappiness}="150"'
    commands = converged_commands([Swappiness()], box.rig, {"@@llamarig": "", "== swappiness": state})
    assert targets(commands) == [layout.UDEV_FILE, layout.SYSCTL_FILE]


# --- after a reboot --------------------------------------------------------------------------------------------------


def at_boot(state: Machine) -> Difference:
    """The only difference of a box that declares 0, for its value after a reboot."""
    paths = [layout.SYSCTL_FILE]
    values: dict[Query[Any], Any] = {
        query(MachineState): state,
        query(Sha256Sums, paths=paths): {layout.SYSCTL_FILE: hashlib.sha256(OURS.encode()).hexdigest()},
        query(Ownership, paths=paths): {layout.SYSCTL_FILE: "root root 644 regular file"},
    }
    (found,) = Swappiness().differences(B, Seen("box", ControlMachine(), values))
    return found


def test_a_file_that_overrides_ours_is_named() -> None:
    changed = [*SWAPPINESS_0[:1], ("== meminfo", "# /etc/sysctl.d/99-mine.conf\nvm.swappiness = 60\n== meminfo")]
    found = at_boot(machine(*changed))
    assert found.remedy == "remove vm.swappiness from /etc/sysctl.d/99-mine.conf"
    assert not found.by_deploy


@pytest.mark.parametrize(
    ("file", "by_deploy"),
    [
        ("/usr/lib/udev/rules.d/30-zram.rules", True),
        ("/etc/udev/rules.d/99-llamarig.rules", True),
        ("/etc/udev/rules.d/99-mine.rules", False),
    ],
)
def test_a_deploy_overrides_only_an_earlier_udev_rule(file: str, by_deploy: bool) -> None:
    """CachyOS's rule sets 150 at each boot, after all sysctl.d files."""
    state = machine(*SWAPPINESS_0, ("== meminfo", f'== udev\n{file}:SYSCTL{{vm.swappiness}}="150"\n== meminfo'))
    found = at_boot(state)
    assert found.found == f"0 now, 150 from {file} after a reboot"
    assert found.by_deploy is by_deploy
    assert found.remedy == ("run deploy.py" if by_deploy else f"remove vm.swappiness from {file}")


@pytest.mark.parametrize(
    ("file", "by_deploy"), [("10-swap.conf", True), ("90-llamarig.conf", True), ("99-mine.conf", False)]
)
def test_a_deploy_writes_its_file_again_where_only_an_earlier_one_is_left(file: str, by_deploy: bool) -> None:
    changed = [*SWAPPINESS_0[:1], ("== meminfo", f"# /etc/sysctl.d/{file}\nvm.swappiness = 60\n== meminfo")]
    found = at_boot(machine(*changed))
    assert found.found == f"0 now, 60 from /etc/sysctl.d/{file} after a reboot"
    assert found.by_deploy is by_deploy
