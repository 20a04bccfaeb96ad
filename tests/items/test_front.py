"""A declared front on a box: what is written, what is refused, and that a box without one stays as it is."""

from __future__ import annotations

import base64
import hashlib
import json
from typing import Any

import pytest
from llamarig import declare as d
from llamarig.declare.rig import Rig
from llamarig.engine.item import query
from llamarig.facts.files import FileSizes, Ownership, Sha256Sums, UserExists
from llamarig.facts.key_files import KeyFiles
from llamarig.facts.unit_files import UnitFiles
from llamarig.facts.units import Unit
from llamarig.items.front import FrontKeys, FrontService
from llamarig.items.key_files import UsableKeyFiles
from llamarig.items.unit_differences import running_models
from llamarig.render import layout
from llamarig.render.front import (
    KEYS,
    SERVICE,
    SETTINGS,
    SOCKET,
    UNITS,
    UNITS_FILE,
    USER,
    settings_of,
    settings_text,
    unit_texts,
    units_file_text,
)

from tests.engine.fake_run import converged_commands
from tests.items.converged_box import Box, control_machine, cpu_rig

FRONT = d.front(port=9999, keys=(d.front_key(name="laptop"),))
DIGEST = "# Started with "


def fronted(**fields: Any) -> Rig:
    return cpu_rig(models=("a", "b"), front=FRONT.model_copy(update=fields))


def box(rig: Rig) -> Box:
    """A box whose front is as declared."""
    assert rig.front is not None
    found = Box(rig, control_machine(rig))
    owned = [layout.FRONT, KEYS, *(f"{KEYS}/{key.name}" for key in rig.front.keys)]
    kinds = ["750 directory", "750 directory", *["640 regular file"] * len(rig.front.keys)]
    files = {SETTINGS: settings_text(rig, rig.front), UNITS_FILE: units_file_text(rig)}
    found.outputs = {
        query(UserExists, user=USER): f"{USER}:x:1:1::/:/bin/false",
        query(FileSizes, paths=owned[2:]): "\n".join(f"65 {path}" for path in owned[2:]),
        query(Ownership, paths=owned): "\n".join(
            f"{path}\troot {USER} {kind}" for path, kind in zip(owned, kinds, strict=True)
        ),
        query(Sha256Sums, paths=[SETTINGS, UNITS_FILE]): "\n".join(
            f"{hashlib.sha256(text.encode()).hexdigest()}  {path}" for path, text in files.items()
        ),
    }
    missing = {one.what: one.texts[1] for one in found.differences(FrontService()) if one.texts is not None}
    found.outputs[query(UnitFiles, names=list(UNITS))] = units(missing)
    return found


def units(texts: dict[str, str], active: str = "active") -> str:
    return "\n".join(
        f"unit={name}\ntext={base64.b64encode(text.encode()).decode()}\nActiveState={active}\n"
        "UnitFileState=enabled\nNeedDaemonReload=no"
        for name, text in texts.items()
    )


def test_a_front_as_declared_has_no_difference() -> None:
    assert box(fronted()).differences(FrontService()) == []
    assert box(fronted()).differences(FrontKeys()) == []


def test_a_box_without_a_front_reads_its_units_alone() -> None:
    found = Box(cpu_rig(), control_machine(cpu_rig()))
    assert list(FrontService().queries(found.rig, found.here)) == [query(UnitFiles, names=list(UNITS))]
    assert found.differences(FrontService()) == []
    assert list(FrontKeys().queries(found.rig, found.here)) == []


def test_a_front_that_is_no_longer_declared_is_stopped() -> None:
    found = Box(cpu_rig(), control_machine(cpu_rig()))
    found.outputs = box(fronted()).outputs
    (difference,) = found.differences(FrontService())
    assert difference.what == SERVICE
    commands = converged_commands(
        [FrontService()],
        found.rig,
        {f"for u in {' '.join(sorted(UNITS))}": found.outputs[query(UnitFiles, names=list(UNITS))]},
    )
    assert any(command.startswith("systemctl --quiet disable --now") for command in commands)


@pytest.mark.parametrize("fields", [{"queue_length": 7}, {"aliases": (d.front_alias(name="x", model="a"),)}])
def test_other_settings_restart_the_service_and_leave_the_address_open(fields: dict[str, Any]) -> None:
    rig = fronted(**fields)
    found = Box(rig, control_machine(rig), box(fronted()).outputs)
    assert {one.what for one in found.differences(FrontService())} == {SETTINGS, SERVICE}


def test_other_programs_restart_the_service() -> None:
    found = box(fronted())
    programs = {
        path: type(file)(file.source, "0" * 64) if path.endswith("front/scheduler.py") else file
        for path, file in found.here.programs.items()
    }
    assert {one.what for one in found.differences(FrontService(), programs=programs)} == {SERVICE}


def test_another_port_is_another_socket() -> None:
    rig = fronted(port=9998)
    found = Box(rig, control_machine(rig), box(fronted()).outputs)
    assert {one.what for one in found.differences(FrontService())} == {SOCKET}


def test_a_stopped_front_is_a_difference() -> None:
    found = box(fronted())
    key = query(UnitFiles, names=list(UNITS))
    found.outputs[key] = found.outputs[key].replace("ActiveState=active", "ActiveState=failed")
    assert SERVICE in {one.what for one in found.differences(FrontService())}


def test_a_key_without_a_hash_is_refused_with_the_command_that_makes_it() -> None:
    found = box(fronted())
    found.outputs[query(FileSizes, paths=[f"{KEYS}/laptop"])] = f"0 {KEYS}/laptop"
    (difference,) = found.differences(FrontKeys())
    assert not difference.by_deploy
    assert f"cut -c1-64 >{KEYS}/laptop.new" in difference.refusal


def test_the_keys_of_models_behind_a_front_are_generated() -> None:
    rig = fronted()
    paths = [str(model.serve.api_key_file) for model in rig.models]
    found = Box(rig, control_machine(rig), {query(KeyFiles, paths=paths): "".join(f"key={path}\n" for path in paths)})
    differences = found.differences(UsableKeyFiles())
    assert [one.by_deploy for one in differences] == [True, True]
    commands = converged_commands([UsableKeyFiles()], rig)
    made = [command for command in commands if "openssl rand" in command]
    assert len(made) == 2
    assert all("install -d -m 700" in command for command in made)


def test_nothing_in_the_settings_is_a_secret_and_models_exclude_each_other_as_their_units() -> None:
    models = [
        d.model(
            name=name,
            repo="o/r",
            quant="Q6",
            build="cpu",
            serve=d.serve(port=8080 + number, context=4096, parallel=3, coexists=name == "embed"),
        )
        for number, name in enumerate(("a", "b", "embed"))
    ]
    builds = [d.build(name="cpu", backend="cpu")]
    rig = Rig.model_validate(d.rig(builds=builds, models=models, front=d.front(port=1, concurrency={"b": 9})))
    assert rig.front is not None
    settings = settings_of(rig, rig.front)
    assert [(model.name, model.excludes, model.concurrency) for model in settings.models] == [
        ("a", ("b",), 3),
        ("b", ("a",), 9),
        ("embed", (), 3),
    ]
    assert json.loads(units_file_text(rig))["a"] == {
        "unit": "llamarig-a.service",
        "key_file": "/etc/llamarig/front-models/a",
    }


def test_an_open_front_has_the_networks_of_its_clients() -> None:
    front = d.front(port=80, host="0.0.0.0", keys=(d.front_key(name="x"),), clients=("192.168.1.0/24",))
    texts = unit_texts(front, "0")
    for name in (SERVICE, SOCKET):
        assert {"IPAddressDeny=any", "IPAddressAllow=localhost", "IPAddressAllow=192.168.1.0/24"} <= set(
            texts[name].splitlines()
        )
    assert "SocketBindDeny=any" in texts[SERVICE]
    assert "SocketBindAllow" not in texts[SERVICE]
    assert "ListenStream=0.0.0.0:80" in texts[SOCKET]


def test_a_model_that_the_front_may_stop_may_rest() -> None:
    rig = fronted(idle_stop_s={"a": 60})
    stopped = {layout.unit_name(name): Unit(text="x") for name in ("a", "b")}
    assert running_models(rig, stopped) == {"b"}
    assert running_models(rig, {}) == {"a", "b"}, "the first start is the deploy's, which proves it"
