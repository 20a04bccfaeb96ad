"""The NVIDIA driver: an audit and a dry run name the next step, a deploy takes one after the other."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from llamarig import declare as d
from llamarig.declare.rig import Rig
from llamarig.engine.control_machine import ControlMachine
from llamarig.engine.item import Difference, Query, Seen, query
from llamarig.facts.nvidia_packages import DriverState, NvidiaPackages
from llamarig.items.driver_steps import packages, queried_packages
from llamarig.items.nvidia_driver import NvidiaDriverInstalled

from tests.engine.fake_run import OperationFailedError, converged_commands

DRIVER = d.nvidia_driver()
VERSION = "580.95-1"
NAMES = packages(DRIVER, "debian", ("amd64",))
COMPLETE = DriverState(
    family="debian",
    release="trixie",
    cards=1,
    kernels=("amd64",),
    module="580.95",
    library="580.95",
    installed=dict.fromkeys(NAMES, VERSION),
    parts=frozenset({"libcuda1"}),
    held=frozenset({"libcuda1"}),
    offered=dict.fromkeys(NAMES, VERSION),
    components=frozenset({"main", "contrib", "non-free", "non-free-firmware"}),
    boot="now",
)


def rig(driver: Any = DRIVER) -> Rig:
    build = d.build(name="b", backend="cpu")
    model = d.model(name="m", repo="o/r", quant="Q6", build="b", serve=d.serve(port=8080, context=4096))
    return Rig.model_validate(d.rig(builds=[build], models=[model], host=d.host_policy(nvidia_driver=driver)))


def differences(state: DriverState) -> list[Difference]:
    values: dict[Query[Any], Any] = {query(NvidiaPackages, packages=queried_packages(DRIVER)): state}
    return NvidiaDriverInstalled().differences(rig(), Seen("box", ControlMachine(), values))


def test_a_driver_that_is_installed_held_and_loaded() -> None:
    assert differences(COMPLETE) == []


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"held": frozenset()}, "libcuda1"),
        ({"installed": {}, "module": "", "parts": frozenset()}, "libcuda1"),
        ({"installed": {}, "module": "", "parts": frozenset(), "components": frozenset({"main"})}, "non-free"),
        ({"module": ""}, "module"),
    ],
)
def test_the_next_step_is_a_difference_that_a_deploy_fixes(changes: dict[str, Any], words: str) -> None:
    (difference,) = differences(replace(COMPLETE, **changes))
    assert difference.by_deploy
    assert words in str(difference)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"cards": 0}, "no NVIDIA card"),
        ({"container": True}, "container"),
        ({"family": None}, "neither Debian, Ubuntu nor Arch"),
        ({"module": "550.1"}, "reboot needed"),
    ],
)
def test_a_step_that_only_the_owner_can_take_is_refused(changes: dict[str, Any], words: str) -> None:
    (difference,) = differences(replace(COMPLETE, **changes))
    assert not difference.by_deploy
    assert words in difference.refusal


def test_a_driver_that_its_owner_installs_is_not_read() -> None:
    of = rig(None)
    assert list(NvidiaDriverInstalled().queries(of, ControlMachine())) == []
    assert NvidiaDriverInstalled().differences(of, Seen("box", ControlMachine(), {})) == []


def test_a_refused_step_changes_nothing(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(OperationFailedError) as failed:
        converged_commands([NvidiaDriverInstalled()], rig(), {"== os": "== os\nID=slackware"})
    assert "neither Debian, Ubuntu nor Arch" in caplog.text
    assert all("== os" in command for command in failed.value.commands), "facts only"
