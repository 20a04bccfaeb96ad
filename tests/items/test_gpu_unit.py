"""The unit that sets NVIDIA cards up before any model: installed, restarted, or removed."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pytest
from llamarig.declare.rig import Rig
from llamarig.engine.item import Query, query
from llamarig.facts.gpus import Gpus
from llamarig.facts.unit_files import UnitFiles
from llamarig.items.gpu_setup import GpuSetup, gpus_unit_text, power_limits
from llamarig.render import layout

from tests.engine.fake_run import OperationFailedError, converged_commands
from tests.items.converged_box import Box, control_machine, fact_command
from tests.placement.cuda_rig import rig as cuda_rig

H200 = (Path(__file__).parents[1] / "facts/data/gpu/h200_two_idle.txt").read_text()
UNIT: Query[Any] = query(UnitFiles, names=[layout.GPUS_UNIT])


def rig(watts: float | None = 700, backend: str = "cuda") -> Rig:
    return cuda_rig({}, backend=backend, host={"gpus": [{"name": "H200", "power_limit_w": watts}]})


def unit(text: str, *, active: bool = True, enabled: bool = True) -> str:
    encoded = base64.b64encode(text.encode()).decode()
    state, boot = "active" if active else "inactive", "enabled" if enabled else "disabled"
    return f"unit={layout.GPUS_UNIT}\ntext={encoded}\nActiveState={state}\nUnitFileState={boot}\nNeedDaemonReload=no"


def box(of: Rig, text: str | None = None, **state: Any) -> Box:
    gpus = Gpus().process(H200.splitlines())
    wanted = gpus_unit_text(power_limits(of.host.gpus, gpus), cuda=True)
    return Box(of, control_machine(of), {UNIT: unit(wanted if text is None else text, **state), query(Gpus): H200})


def changes(of: Box) -> list[str]:
    """systemctl's commands of a deploy, without those that only read."""
    replies = {"@@llamarig": "", **{fact_command(fact_query): text for fact_query, text in of.outputs.items()}}
    commands = converged_commands([GpuSetup()], of.rig, replies)
    return [command for command in commands if command.startswith(("systemctl", "rm ")) and " show" not in command]


def test_a_unit_as_declared_has_no_difference() -> None:
    assert box(rig()).differences(GpuSetup()) == []


@pytest.mark.parametrize("state", [{"active": False}, {"enabled": False}])
def test_an_inactive_or_disabled_unit_is_a_difference(state: dict[str, Any]) -> None:
    (difference,) = box(rig(), **state).differences(GpuSetup())
    assert difference.what == layout.GPUS_UNIT


def test_another_limit_is_set_by_stopping_the_old_unit_and_starting_the_new() -> None:
    other = box(rig(), "[Service]\nExecStart=nvidia-smi --power-limit=450\n")
    assert changes(other) == [
        f"systemctl stop {layout.GPUS_UNIT}",
        "systemctl daemon-reload",
        f"systemctl --quiet enable {layout.GPUS_UNIT}",
        f"systemctl restart {layout.GPUS_UNIT}",
    ]


def test_a_changed_comment_restarts_nothing() -> None:
    declared = box(rig())
    text = f"# of an earlier version\n{declared.value(UNIT)[layout.GPUS_UNIT].text}"
    assert changes(box(rig(), text)) == ["systemctl daemon-reload", f"systemctl --quiet enable {layout.GPUS_UNIT}"]


def test_a_limit_that_the_card_did_not_take_fails_the_deploy(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(OperationFailedError):
        changes(box(rig(450)))
    assert "the cards do not have them" in caplog.text


def test_a_limit_that_cannot_be_set_is_refused() -> None:
    of = rig(1400)
    (difference,) = Box(of, control_machine(of), {query(Gpus): H200}).differences(GpuSetup())
    assert not difference.by_deploy
    assert "1400" in difference.refusal


@pytest.mark.parametrize(
    "of", [rig(None, backend="vulkan"), cuda_rig({}, backend="cpu")], ids=["vulkan", "no cards, and builds for the CPU"]
)
def test_a_unit_that_nothing_needs_any_more_is_removed(of: Rig) -> None:
    assert changes(box(of, "[Service]\n")) == [
        f"systemctl --quiet disable --now {layout.GPUS_UNIT}",
        f"rm {layout.UNITS}/{layout.GPUS_UNIT}",
        "systemctl daemon-reload",
    ]
    assert Box(of, control_machine(of)).differences(GpuSetup()) == []
