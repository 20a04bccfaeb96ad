"""Variables of the Ansible playbook, read from a converged box with the items and facts that deploy.py uses."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from llamarig.checks.memory_speed_note import MemorySpeedNote
from llamarig.checks.sandbox_note import SandboxNote
from llamarig.declare.rig import Rig
from llamarig.engine.control_machine import ControlMachine
from llamarig.engine.item import Item, Query, Seen, query
from llamarig.engine.package_files import programs, requirements
from llamarig.facts.capacity import Capacity
from llamarig.facts.fact_batch import FactBatch
from llamarig.facts.interpreters import Interpreters
from llamarig.facts.model_store import ModelStore
from llamarig.facts.releases import Releases
from llamarig.facts.switch_journal import UnfinishedSwitch
from llamarig.facts.virtual_environments import VirtualEnvironment
from llamarig.items.abandoned_jobs import NoAbandonedJobs
from llamarig.items.all_items import ITEMS
from llamarig.items.declarations import WorkableDeclarationsFetched, WorkableDeclarationsLocked
from llamarig.items.finished_work import FinishedWork
from llamarig.items.front import FrontService
from llamarig.items.model_units import wanted_units
from llamarig.items.packages import wanted_packages
from llamarig.items.python import SYSTEM_PYTHON
from llamarig.items.releases import release_directories
from llamarig.items.unit_overrides import NoUnitOverrides
from llamarig.items.wanted_unit import health_addresses
from llamarig.records.model_lock import locked_models
from llamarig.render import layout, switch_recovery
from llamarig.render.liveness_probe import SERVICE, TIMER, service_text, timer_text
from llamarig.render.model_paths import record, target

from tests.box.deployment import HOST, Deployment

PLAYBOOK = Path(__file__).with_name("playbook.yml")

CONVERGED: tuple[Item, ...] = (MemorySpeedNote(), SandboxNote(), *ITEMS)
"""The items of deploy.py."""

WITHOUT_A_TASK = {
    NoUnitOverrides.name: "compares drop-ins, which come with what `Models served` reads",
    NoAbandonedJobs.name: "compares running jobs, which Ansible has none of",
    FinishedWork.name: "compares releases and model files, which are read for the items that start that work",
    FrontService.name: "looks whether units of a front are left over, and the playbook's box has none",
    WorkableDeclarationsLocked.name: "compares declarations with what `Declarations` reads",
    WorkableDeclarationsFetched.name: "compares declarations with what `Models served` reads as well",
}
"""Items that read facts but have no task in the playbook, with the reason.

An item that reads no fact needs no task: it compares only what is on the control machine, or does not apply.
"""


class NotConvergedError(Exception):
    """A run that changes nothing cannot be measured with this box or playbook; the message gives the reason."""


def mirrored() -> set[str]:
    """Names of the operations that have a task in the playbook."""
    return set(re.findall(r'^ +- name: "([^":]+)', PLAYBOOK.read_text(), re.MULTILINE))


def needing_a_task(rig: Rig, here: ControlMachine) -> list[str]:
    """Names of the items that read facts of a box with this rig."""
    return [item.name for item in CONVERGED if item.name not in WITHOUT_A_TASK and list(item.queries(rig, here))]


def unmirrored(operations: Iterable[str], rig: Rig, here: ControlMachine) -> list[str]:
    """The operations that lack a task in the playbook.

    :param operations: names as pyinfra reports them
    """
    without = {item.name for item in CONVERGED} - set(needing_a_task(rig, here))
    return [operation for operation in operations if operation not in without | mirrored()]


def control_machine(rig: Rig) -> ControlMachine:
    """The control machine's inputs to the comparison of a box without plans.

    :raises NotConvergedError: if a model has no entry in the model lock
    """
    if (locked := locked_models(rig)) is None:
        raise NotConvergedError("a model has no entry in the model lock")
    return ControlMachine(locked=locked, programs=programs(), requirements=requirements())


def playbook_values(deployment: Deployment) -> dict[str, Any]:
    """The playbook's variables.

    :raises NotConvergedError: if an item finds a difference
    """
    rig = Rig.model_validate(deployment.rig)
    here = control_machine(rig)
    seen = _seen(deployment, [query for item in CONVERGED for query in item.queries(rig, here)], here)
    for item in CONVERGED:
        for difference in item.differences(rig, seen):
            raise NotConvergedError(f"the box is not as declared: {item.name}: {difference}")

    interpreters = query(Interpreters, paths=[layout.PYTHON, SYSTEM_PYTHON])
    hub_client = query(VirtualEnvironment, path=layout.HUB_VENV)
    releases = query(Releases, directories=release_directories(rig))
    paths = {
        path
        for model in here.locked or ()
        for file in model.files
        for path in (target(model, file), record(model, file))
    }
    health = health_addresses(rig)
    return {
        "service_user": {"name": layout.USER, "home": layout.STATE},
        "directories": list(layout.DIRECTORIES),
        "programs": [{"src": file.source, "dest": path} for path, file in here.programs.items()],
        "packages": wanted_packages(rig, HOST)["debian"],
        "capacity": {"command": _command(query(Capacity))},
        "liveness": [
            {"path": f"{layout.UNITS}/{SERVICE}", "text": service_text(model.serve.host for model in rig.models)},
            {"path": f"{layout.UNITS}/{TIMER}", "text": timer_text()},
        ],
        "unfinished_switch": {"command": _command(query(UnfinishedSwitch))},
        "restore": {
            "unit": switch_recovery.SERVICE,
            "path": f"{layout.UNITS}/{switch_recovery.SERVICE}",
            "text": switch_recovery.service_text(),
        },
        "gpus_unit": f"{layout.UNITS}/{layout.GPUS_UNIT}",
        "liveness_timer": TIMER,
        "interpreters": {"command": _command(interpreters), "lines": _lines(deployment, interpreters)},
        # Only the locked distributions: llamarig ignores additional ones, too.
        "hub_client": {
            "command": _command(hub_client),
            "lines": _distributions(_lines(deployment, hub_client), here.requirements["hub-requirements.txt"]),
        },
        "releases": {"command": _command(releases), "lines": _lines(deployment, releases)},
        # Without the line of free space, which changes and is not compared.
        "model_files": {
            "command": _command(query(ModelStore)),
            "lines": [
                line
                for line in _lines(deployment, query(ModelStore))
                if any(path in line.split("\t") for path in paths)
            ],
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
                "health": health[item.unit],
            }
            for item in wanted_units(rig, seen)
        ],
    }


def _seen(deployment: Deployment, queries: Iterable[Query[Any]], here: ControlMachine) -> Seen:
    """Read the items' facts from the box in one command, as a deploy does."""
    unique = list(dict.fromkeys(queries))
    batch = FactBatch()
    output = deployment.shell(batch.command([(query.fact, query.arguments) for query in unique]), timeout=120)
    answers = batch.process(output.splitlines()).lines
    if failed := [query.fact.__name__ for number, query in enumerate(unique) if number not in answers]:
        raise NotConvergedError(f"the box did not answer: {', '.join(failed)}")
    values = {}
    for number, each in enumerate(unique):
        fact = each.fact()
        values[each] = fact.process(answers[number]) if answers[number] else fact.default()
    return Seen(HOST, here, values)


def _command(query: Query[Any]) -> str:
    return str(query.fact().command(**query.arguments))


def _lines(deployment: Deployment, query: Query[Any]) -> list[str]:
    return deployment.shell(_command(query)).splitlines()


def _distributions(lines: list[str], lock: str) -> list[str]:
    """The line with the lock's sha256, and the lines of the distributions that the lock names."""
    wanted = {pin.replace("_", "-").lower() for pin in re.findall(r"^([A-Za-z0-9][\w.-]*)==", lock, re.MULTILINE)}
    names = {
        line: line.removesuffix(".dist-info").rpartition("-")[0].replace("_", "-").lower()
        for line in lines
        if line.endswith(".dist-info")
    }
    digest = hashlib.sha256(lock.encode()).hexdigest()
    return [line for line in lines if line.startswith(digest) or names.get(line) in wanted]
