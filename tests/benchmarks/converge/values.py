"""What the playbook is told: llamarig's own planning and facts, asked of the converged box, so that the two agree."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any

from tasks.facts.capacity import Capacity
from tasks.facts.interpreters import Interpreters
from tasks.facts.model_store import ModelStore
from tasks.facts.releases import Releases
from tasks.facts.units import Units
from tasks.facts.venvs import VirtualEnvironment
from tasks.host import PROGRAMS
from tasks.operations.interpreter import LOOKED_AT
from tasks.operations.lock_file import locked_models
from tasks.operations.long_work import files_to_fetch, releases_to_build
from tasks.operations.plan_file import planned_by_us
from tasks.operations.serving import wanted_units
from tasks.operations.venvs import missing_from
from tasks.planning import layout
from tasks.planning.liveness import SERVICE, TIMER, service_text, timer_text
from tasks.planning.packages import wanted_packages
from tasks.planning.release import release_path
from tasks.planning.serving import boot_differences, unit_differences
from tasks.planning.shards import record, target
from tasks.spec.rig import Rig
from tests.box.deployment import HOST, REPOSITORY_ROOT, Deployment

PLAYBOOK = Path(__file__).with_name("playbook.yml")

WITHOUT_A_TASK = {
    "Models | Model lock": "reads a file of the controller; Ansible reads its values from one",
    "Models | Builds and downloads finished": "looks at releases and model files once more",
    "Services | Models planned": "looks at nothing where no model leaves layers in RAM to a GPU, and none does here",
}
"""Operations the playbook leaves out, and why."""


class NotConvergedError(Exception):
    """The box, or the playbook, is not what a no-change run can be measured with; the message says why."""


def unmirrored(operations: list[str]) -> list[str]:
    """llamarig's operations that no task of the playbook stands for: a playbook that has fallen behind.

    :param operations: names as pyinfra reports them
    """
    return [operation for operation in operations if operation not in WITHOUT_A_TASK and operation not in mirrored()]


def mirrored() -> set[str]:
    """The operations that tasks of the playbook stand for."""
    return set(re.findall(r'^ +- name: "([^":]+)', PLAYBOOK.read_text(), re.MULTILINE))


def playbook_values(deployment: Deployment) -> dict[str, Any]:
    """The playbook's variables.

    :raises NotConvergedError: when the box is not as declared by llamarig's own comparisons
    """
    rig = Rig.model_validate(deployment.rig)
    if planned_by_us(rig):
        raise NotConvergedError("a model is placed by auto(), which the playbook has no task for")
    locked = locked_models(rig)
    if locked is None:
        raise NotConvergedError("a model has no entry in the model lock")

    venv_command = VirtualEnvironment().command(layout.HUB_VENV)
    venv_lines = deployment.shell(venv_command).splitlines()
    lock = (REPOSITORY_ROOT / "tasks/files/hub-requirements.txt").read_text()
    _same(missing_from(VirtualEnvironment().process(venv_lines), lock))

    python_command = Interpreters().command(LOOKED_AT)
    python_lines = deployment.shell(python_command).splitlines()
    _same([] if Interpreters().process(python_lines)[layout.PYTHON].is_usable else [f"{layout.PYTHON} does not run"])

    release_command = Releases().command([release_path(build, rig.models) for build in rig.builds])
    release_lines = deployment.shell(release_command).splitlines()
    releases = Releases().process(release_lines)
    _same(releases_to_build(rig, releases))

    store_command = ModelStore().command()
    store_lines = deployment.shell(store_command).splitlines()
    store = ModelStore().process(store_lines)
    _same(files_to_fetch(locked, store, deep=False))
    paths = {path for model in locked for file in model.files for path in (target(model, file), record(model, file))}

    units = Units().process(deployment.shell(Units().command({})).splitlines())
    wanted = wanted_units(rig, releases, locked, store, units)
    for item in wanted:
        unit = units.get(item.unit)
        # Its health is not among the answers here; the playbook asks for it.
        _same([d for d in unit_differences(item, unit) if d.expected != "answering"])
        _same(boot_differences(item, unit))

    return {
        "service_user": {"name": layout.USER, "home": layout.STATE},
        "directories": list(layout.DIRECTORIES),
        "programs": [{"src": source, "dest": target} for source, target in PROGRAMS.items()],
        "packages": wanted_packages(rig, HOST)["debian"],
        "capacity": {"command": Capacity().command()},
        "liveness": [
            {"path": f"{layout.UNITS}/{SERVICE}", "text": service_text(model.serve.host for model in rig.models)},
            {"path": f"{layout.UNITS}/{TIMER}", "text": timer_text()},
        ],
        "liveness_timer": TIMER,
        "interpreters": {"command": python_command, "lines": python_lines},
        # As llamarig does: more in the environment than the lock asks for is no difference.
        "hub_client": {"command": venv_command, "lines": _distributions(venv_lines, lock)},
        "releases": {"command": release_command, "lines": release_lines},
        # The store also tells the free space, which is nobody's to compare.
        "model_files": {
            "command": store_command,
            "lines": [line for line in store_lines if any(path in line.split("\t") for path in paths)],
        },
        "units": [
            {
                "unit": item.unit,
                "path": f"{layout.UNITS}/{item.unit}",
                "text": item.text,
                "text_sha256": hashlib.sha256(item.text.encode()).hexdigest(),
                "enabled": item.enabled,
                "arguments": list(item.arguments),
                "proof": f"{layout.PROOFS}/{item.unit}.json",
                "health": f"http://{item.model.serve.host}:{item.model.serve.port}/health",
            }
            for item in wanted
        ],
    }


def _same(differences: list[Any]) -> None:
    if differences:
        raise NotConvergedError(f"the box is not as declared: {differences[0]}")


def _distributions(lines: list[str], lock: str) -> list[str]:
    """The line with the lock's sha256, and the distributions the lock names."""
    wanted = {pin.replace("_", "-").lower() for pin in re.findall(r"^([A-Za-z0-9][\w.-]*)==", lock, re.MULTILINE)}
    names = {
        line: line.removesuffix(".dist-info").rpartition("-")[0].replace("_", "-").lower()
        for line in lines
        if line.endswith(".dist-info")
    }
    digest = hashlib.sha256(lock.encode()).hexdigest()
    return [line for line in lines if line.startswith(digest) or names.get(line) in wanted]
