"""Drop-ins of model units: named with their path and settings, refused or accepted."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest
from llamarig.items.model_units import ServedModels, unit_query
from llamarig.items.unit_overrides import NoUnitOverrides

from tests.items.converged_box import Box, converged_box, cpu_rig, write_lock_file

ETC, RUN = (f"/{place}/systemd/system/llamarig-m.service.d/override.conf" for place in ("etc", "run"))
COMMAND = "[Service]\nExecStart=\nExecStart=/usr/bin/mine\n"


def box_with(directory: Path, path: str, text: str, accept: dict[str, str] | None = None) -> Box:
    rig = cpu_rig(model_lock=str(directory / "lock.json"), plan_file=str(directory / "plans.json"))
    serve = rig.models[0].serve.model_copy(update={"accept": accept or {}})
    rig = rig.model_copy(update={"models": (rig.models[0].model_copy(update={"serve": serve}),)})
    write_lock_file(rig)
    box = converged_box(rig)
    drop_in = f"DropIns= {path}:{base64.b64encode(text.encode()).decode()}\n"
    box.outputs[unit_query(rig)] = box.outputs[unit_query(rig)].replace("ActiveState", f"{drop_in}ActiveState", 1)
    return box


@pytest.mark.parametrize(
    ("path", "text", "stops"),
    [
        (ETC, "[Service]\nMemoryMax=64M\n", True),
        (RUN, COMMAND, True),
        # Until the next boot, and none of what a deploy compares.
        (RUN, "[Service]\nRestartSec=1\n", False),
    ],
)
def test_a_drop_in_is_named_with_what_it_sets(path: str, text: str, stops: bool, tmp_path: Path) -> None:
    (difference,) = box_with(tmp_path, path, text).differences(NoUnitOverrides())
    assert difference.stops_deploy is stops
    setting = {COMMAND: "ExecStart"}.get(text, text.split("\n")[1].partition("=")[0])
    assert f"{path} sets {setting}" in difference.refusal
    assert "systemctl revert llamarig-m.service" in difference.refusal
    assert 'accept={"drop-in": "your reason"}' in difference.refusal


def test_an_accepted_drop_in_may_set_the_command_line(tmp_path: Path) -> None:
    box = box_with(tmp_path, ETC, COMMAND, {"drop-in": "mine"})
    output = box.outputs[unit_query(box.rig)]
    arguments = output[output.index("Arguments=") :].partition("\n")[0]
    own = f"Arguments={base64.b64encode(b'/usr/bin/mine').decode()}"
    box.outputs[unit_query(box.rig)] = output.replace(arguments, own)
    assert box.differences(NoUnitOverrides()) == []
    assert box.differences(ServedModels()) == [], "or each deploy would restart it"
