"""Units of models: their differences, the restarts that these cause, and what must be ready before."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from llamarig.declare.placement import Layers
from llamarig.declare.rig import Rig
from llamarig.engine.item import query
from llamarig.facts.capacity import Capacity
from llamarig.facts.jobs import RunningJobs
from llamarig.facts.model_store import ModelStore
from llamarig.facts.releases import Releases
from llamarig.facts.start_records import BackOffs
from llamarig.items.model_units import ServedModels, unit_query, wanted_units
from llamarig.items.releases import release_directories
from llamarig.items.unit_differences import unproved_units
from llamarig.items.wanted_unit import staying_units
from llamarig.placement.staleness import plan_flags
from llamarig.records.plan_file import Proposal
from llamarig.render import layout

from tests.engine.fake_run import OperationFailedError, converged_commands
from tests.items.converged_box import (
    FLAGS,
    LOCKED,
    Box,
    control_machine,
    converged_box,
    cpu_rig,
    release_output,
    store_output,
    units_output,
    write_lock_file,
)
from tests.placement.cuda_rig import rig as cuda_rig
from tests.placement.planned_box import H200_UUID, planned


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    rig = cpu_rig(models=("m", "n"), model_lock=str(tmp_path / "lock.json"), plan_file=str(tmp_path / "plans.json"))
    write_lock_file(rig)
    return rig


@pytest.fixture
def box(rig: Rig) -> Box:
    return converged_box(rig)


def changed(box: Box, old: str, new: str) -> None:
    """Change what systemd reports of the first unit."""
    unit = unit_query(box.rig)
    assert old in box.outputs[unit]
    box.outputs[unit] = box.outputs[unit].replace(old, new, 1)


def test_units_as_declared(box: Box) -> None:
    assert box.differences(ServedModels()) == []


def test_nothing_is_compared_before_the_models_are_locked(box: Box) -> None:
    assert box.differences(ServedModels(), locked=None) == []


@pytest.mark.parametrize(
    ("old", "new", "found"),
    [
        ("ActiveState=active", "ActiveState=failed", "failed"),
        ("Health=200", "Health=0", "running without answering"),
        ("Directives=", "Directives=0", "no record of an answer"),
        ("ProvedInputs=", "ProvedInputs=0", "started before they were replaced"),
    ],
)
def test_a_server_that_is_not_as_declared_is_restarted(box: Box, old: str, new: str, found: str) -> None:
    changed(box, old, new)
    (difference,) = box.differences(ServedModels())
    assert difference.what == "llamarig-m.service"
    assert found in difference.found
    assert difference.restarts == ("m",)
    assert difference.by_deploy


def test_a_unit_edited_and_edited_back_is_restarted_only_if_it_was_started_in_between(box: Box) -> None:
    """By identities: times of files and starts are not compared, so a clock that was set wrong restarts nothing."""
    changed(box, "\nFile=1795269800.5", "\nFile=1895269800.0")
    assert box.differences(ServedModels()) == [], "the process is the one that was proved"
    changed(box, "InvocationID=0a1b", "InvocationID=2c3d")
    (difference,) = box.differences(ServedModels())
    assert difference.found == "its unit file was changed and changed back, and started in between"
    assert difference.restarts == ("m",)


def test_a_unit_that_was_restarted_is_as_declared(box: Box) -> None:
    changed(box, "InvocationID=0a1b", "InvocationID=2c3d")
    assert box.differences(ServedModels()) == []


def test_a_server_proved_by_an_earlier_version_is_not_restarted(box: Box) -> None:
    for line in ("ProvedFile=1795269800.5\n", "ProvedInvocation=0a1b\n"):
        changed(box, line, "")
    changed(box, "\nFile=1795269800.5", "\nFile=1895269800.0")
    box.outputs[unit_query(box.rig)] = re.sub("ProvedInputs=.*\n", "", box.outputs[unit_query(box.rig)])
    assert box.differences(ServedModels()) == []


@pytest.mark.parametrize(("uptime", "is_hung"), [("820.0", False), ("831.0", True)])
def test_a_server_that_was_just_started_need_not_answer_yet(box: Box, uptime: str, is_hung: bool) -> None:
    changed(box, "Health=200", "Health=0")
    changed(box, "Uptime=900.0", f"Uptime={uptime}")
    assert bool(box.differences(ServedModels())) == is_hung


def test_a_missing_unit_is_installed(box: Box) -> None:
    box.outputs[unit_query(box.rig)] = ""
    assert [(one.what, one.restarts) for one in box.differences(ServedModels())] == [
        ("llamarig-m.service", ("m",)),
        ("llamarig-n.service", ("n",)),
    ]


def test_a_unit_of_no_declared_model_is_stopped_and_its_file_stays(box: Box) -> None:
    unit = unit_query(box.rig)
    box.outputs[unit] += "\nunit=llamarig-old.service\nText=\nActiveState=active\nUnitFileState=enabled"
    (difference,) = box.differences(ServedModels())
    assert difference.what == "llamarig-old.service"
    commands = converged_commands([ServedModels()], box.rig, box.replies())
    assert "systemctl --quiet disable --now llamarig-old.service" in commands
    assert not [command for command in commands if command.startswith("rm ")]


OLD = "\nunit=llamarig-old.service\nText=\nActiveState=active\nUnitFileState=enabled"


def test_a_unit_of_no_declared_model_beside_models_that_cannot_be_served(box: Box) -> None:
    """A deploy that refuses to serve them does not get as far as stopping it."""
    box.outputs[unit_query(box.rig)] += OLD
    (directory,) = release_directories(box.rig)
    box.outputs[query(Releases, directories=[directory])] = release_output(directory, flags=["--model"])
    refused, retired = box.differences(ServedModels())
    assert not refused.by_deploy
    assert "nothing was changed" in refused.refusal
    assert retired.what == "llamarig-old.service"
    assert retired.remedy.startswith("stop it: systemctl disable --now llamarig-old.service")


def switching(box: Box, text: str) -> None:
    """A switch of the first model to a unit with this text runs on the box."""
    job: dict[str, Any] = {"unit": "llamarig-m.service", "text": text, "commit": "0c1e570", "peers": []}
    box.outputs[query(RunningJobs)] = f"switch-m\tSat 2026-11-21 19:00:00 UTC\t{json.dumps(job)}"


def test_a_running_switch_to_another_unit_is_known_before_a_deploy_starts(box: Box) -> None:
    switching(box, "[Service]\nExecStart=/x\n")
    assert box.differences(ServedModels()) == [], "where nothing differs, a deploy switches nothing"
    changed(box, "ActiveState=active", "ActiveState=failed")
    refused, unit = box.differences(ServedModels())
    assert not refused.by_deploy
    assert "a switch of model 'm' to another unit than the declared one" in refused.refusal
    assert unit.remedy == "let the running switch end, then run deploy.py"
    with pytest.raises(OperationFailedError) as failed:
        converged_commands([ServedModels()], box.rig, box.replies())
    assert not [command for command in failed.value.commands if "systemctl stop" in command]


def test_a_running_switch_to_the_declared_unit_is_no_refusal(box: Box) -> None:
    switching(box, wanted_units(box.rig, box.seen(ServedModels()))[0].text)
    changed(box, "ActiveState=active", "ActiveState=failed")
    (difference,) = box.differences(ServedModels())
    assert difference.remedy == "run deploy.py"


def test_a_unit_that_does_not_start_at_boot_is_enabled_without_a_restart(box: Box) -> None:
    changed(box, "UnitFileState=enabled", "UnitFileState=disabled")
    (difference,) = box.differences(ServedModels())
    assert difference.restarts == ()
    commands = converged_commands([ServedModels()], box.rig, box.replies())
    assert "systemctl --quiet enable llamarig-m.service" in commands
    assert not [command for command in commands if "systemd-run" in command]


@pytest.fixture
def exclusive(rig: Rig) -> Box:
    """A box whose models exclude each other; m, the default, starts at boot and runs, and n does not."""
    models = [
        model.model_copy(update={"serve": model.serve.model_copy(update={"coexists": False})}) for model in rig.models
    ]
    box = converged_box(rig.model_copy(update={"models": tuple(models)}))
    reported(box, "n", active="inactive", enabled="disabled")
    assert box.differences(ServedModels()) == []
    return box


def reported(box: Box, model: str, *, active: str, enabled: str) -> None:
    """Change what systemd reports of a model's unit."""
    head, found, rest = box.outputs[unit_query(box.rig)].partition(f"unit=llamarig-{model}.service\n")
    rest = re.sub("ActiveState=.*", f"ActiveState={active}", rest, count=1)
    box.outputs[unit_query(box.rig)] = (
        head + found + re.sub("UnitFileState=.*", f"UnitFileState={enabled}", rest, count=1)
    )


def as_default(box: Box, model: str) -> Box:
    """The box, declared with another default. No unit's text depends on it."""
    return replace(box, rig=box.rig.model_copy(update={"default": model}))


def test_another_default_is_started_at_boot_once_it_has_answered(exclusive: Box) -> None:
    """Else a switch that fails would leave a box that starts nothing at boot."""
    box = as_default(exclusive, "n")
    assert {one.what for one in box.differences(ServedModels())} == {"llamarig-m.service", "llamarig-n.service"}
    done = '{"state": "done", "message": "llamarig-n.service answers"}'
    sent = converged_commands([ServedModels()], box.rig, {"echo job=": f"job=switch-n\nstatus={done}", **box.replies()})
    (start,) = [number for number, command in enumerate(sent) if "systemd-run" in command]
    (boot,) = [number for number, command in enumerate(sent) if "disable" in command]
    assert start < boot
    lost = {"echo job=": 'job=switch-n\nstatus={"state": "failed"}', **box.replies()}
    with pytest.raises(OperationFailedError) as failed:
        converged_commands([ServedModels()], box.rig, lost)
    assert not [command for command in failed.value.commands if "disable" in command]


def of_an_older_commit(box: Box) -> None:
    """Both units run another release than the declared one."""
    for wanted in wanted_units(box.rig, box.seen(ServedModels())):
        old = wanted.text.replace("ExecStart=", "ExecStart=/older")
        changed(box, base64.b64encode(wanted.text.encode()).decode(), base64.b64encode(old.encode()).decode())


def started(commands: list[str]) -> list[str]:
    """Models whose switches were started, in order."""
    return [found[1] for found in map(re.compile(r"--unit=\S*switch-(\w+)_").search, commands) if found is not None]


@pytest.mark.parametrize("default", ["m", "n"])
def test_the_model_that_is_to_serve_is_switched_before_the_others_change(exclusive: Box, default: str) -> None:
    """If it fails, the model that serves again is still the one that has answered, in its file and at boot."""
    box = as_default(exclusive, default)
    of_an_older_commit(box)
    done = 'job=switch-m\nstatus={"state": "done"}\n\njob=switch-n\nstatus={"state": "done"}'
    commands = converged_commands([ServedModels()], box.rig, {"echo job=": done, **box.replies()})
    assert started(commands) == sorted("mn", key=lambda name: name != default)
    with pytest.raises(OperationFailedError) as failed:
        converged_commands([ServedModels()], box.rig, {"echo job=": done.replace("done", "failed"), **box.replies()})
    assert started(failed.value.commands) == [default]
    assert not [command for command in failed.value.commands if "able llamarig-" in command]


def test_a_model_started_by_hand_beside_a_default_that_coexists_is_switched_and_not_only_installed(rig: Rig) -> None:
    """Its file would otherwise be replaced by one that has not answered, while it serves."""
    first, second = rig.models
    alone = second.model_copy(update={"serve": second.serve.model_copy(update={"coexists": False})})
    box = converged_box(rig.model_copy(update={"models": (first, alone)}))
    reported(box, "n", active="active", enabled="disabled")
    of_an_older_commit(box)
    assert [one.restarts for one in box.differences(ServedModels())] == [("m",), ("n",)]


def test_a_model_that_does_not_run_is_unproved_until_it_has_answered_with_its_file(exclusive: Box) -> None:
    def unproved() -> tuple[str, ...]:
        query_of_units = unit_query(exclusive.rig)
        return unproved_units(exclusive.rig, exclusive.value(query_of_units))

    assert unproved() == ()
    of_an_older_commit(exclusive)
    assert unproved() == ("llamarig-n.service",), "the other one runs"


def test_of_two_models_that_exclude_each_other_one_starts_at_boot(exclusive: Box) -> None:
    """Both were enabled, as by hand: which of them a boot would start is chance."""
    reported(exclusive, "n", active="inactive", enabled="enabled")
    (difference,) = exclusive.differences(ServedModels())
    assert difference.what == "llamarig-n.service"
    assert difference.restarts == ()
    commands = converged_commands([ServedModels()], exclusive.rig, exclusive.replies())
    assert [command for command in commands if "able llamarig-" in command] == [
        "systemctl --quiet disable llamarig-n.service"
    ]


def test_a_default_chosen_by_hand_before_is_changed_in_one_command(exclusive: Box) -> None:
    box = as_default(exclusive, "n")
    reported(box, "n", active="active", enabled="disabled")
    reported(box, "m", active="inactive", enabled="enabled")
    commands = converged_commands([ServedModels()], box.rig, box.replies())
    assert not [command for command in commands if "systemd-run" in command], "it answers already"
    assert "systemctl --quiet enable llamarig-n.service && systemctl --quiet disable llamarig-m.service" in commands


def test_comments_are_replaced_while_the_server_runs_on(box: Box) -> None:
    (wanted, _) = wanted_units(box.rig, box.seen(ServedModels()))
    old = base64.b64encode(wanted.text.encode()).decode()
    new = base64.b64encode(f"# of an earlier version\n{wanted.text}".encode()).decode()
    changed(box, old, new)
    (difference,) = box.differences(ServedModels())
    assert difference.restarts == ()
    commands = converged_commands([ServedModels()], box.rig, box.replies())
    assert [command for command in commands if "replace_unit_text llamarig-m.service" in command]
    assert not [command for command in commands if "systemd-run" in command]


def test_a_changed_unit_is_switched_by_a_job_on_the_box(box: Box) -> None:
    changed(box, "ActiveState=active", "ActiveState=failed")
    done = '{"state": "done", "message": "llamarig-m.service answers"}'
    replies = {"echo job=": f"job=switch-m\nstatus={done}", **box.replies()}
    commands = converged_commands([ServedModels()], box.rig, replies)
    (start,) = [command for command in commands if "systemd-run" in command]
    assert "llamarig.remote.serve.switch_unit" in start
    assert f"{layout.JOBS}/switch-m" in start


# --- a step down that the plan file lacks -----------------------------------------------------------------------------


def planned_box() -> Box:
    """A box that serves one model with the placement of its plan."""
    rig = cuda_rig({"placement": {"kind": "auto"}, "load_mode": "mmap"})
    (directory,) = release_directories(rig)
    plan = planned()
    belongs = plan.belongs.model_copy(
        update={
            "shards": tuple(file.sha256 for file in LOCKED.shards),
            "flags": plan_flags(rig.models[0], FLAGS),
            "release": Path(directory).name,
        }
    )
    box = Box(
        rig,
        control_machine(rig, plans={rig.models[0].name: plan.model_copy(update={"belongs": belongs})}),
        {
            query(Releases, directories=[directory]): release_output(directory),
            query(ModelStore): store_output([LOCKED]),
            query(Capacity): f"MemTotal: 65536000 kB\nkernel 6.12.0\ncpus 0-15\ndriver\nGPU UUID: {H200_UUID}",
        },
    )
    box.outputs[unit_query(rig)] = units_output(box)
    return box


def test_a_step_down_of_an_earlier_version_goes_on_serving_after_an_upgrade() -> None:
    """Its deploy was interrupted before it wrote the step into the plan file, and comments have changed since."""
    box = planned_box()
    assert box.differences(ServedModels()) == []
    did_not_fit = text_of_earlier_version(box)
    ((name, plan),) = box.here.plans.items()
    step = Proposal(placement=Layers(gpu=(39,), split=(49,)), reason="CUDA0 lacks 153 MiB")
    box.here = replace(box.here, plans={name: plan.model_copy(update={"proposals": (step,)})})
    box.outputs[unit_query(box.rig)] = units_output(box)
    taken = {
        "of": hashlib.sha256(did_not_fit.encode()).hexdigest(),
        "what": "39 whole layers",
        "placement": step.placement.model_dump(mode="json"),
        "reason": step.reason,
        "missing_mib": {"CUDA0": 153},
    }
    record = {"text": text_of_earlier_version(box), "backed_off": taken}
    box.outputs[query(BackOffs)] = f"llamarig-m0.service\t{json.dumps(record)}"
    box.here = replace(box.here, plans={name: plan})
    (difference,) = box.differences(ServedModels())
    assert difference.found == "lacks the step down of m0"
    assert difference.restarts == ()


def text_of_earlier_version(box: Box) -> str:
    """The unit of the box's model, with other comments."""
    (wanted,) = wanted_units(box.rig, box.seen(ServedModels()))
    return f"# Of an earlier version.\n{wanted.text}"


def test_only_servers_that_a_switch_stops_make_room_for_a_plan() -> None:
    """A model that coexists with others keeps its memory when another one is planned."""
    rig = cpu_rig(models=("m", "n", "o"))
    alone = [
        model.model_copy(update={"serve": model.serve.model_copy(update={"coexists": False})}) for model in rig.models
    ]
    first, second, _ = alone
    beside = rig.models[2]
    declared = rig.model_copy(update={"models": (first, second, beside)})
    assert staying_units(declared, first) == {"llamarig-o.service"}
    assert staying_units(declared, beside) == {"llamarig-m.service", "llamarig-n.service"}
    assert staying_units(rig.model_copy(update={"models": tuple(alone)}), first) == frozenset()
