"""Virtual environments on the box from hash-checked requirements locks, which pyinfra's pip operation cannot check."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from typing import Any

from pyinfra.api.command import StringCommand

from llamarig.declare.rig import Rig
from llamarig.engine.control_machine import ControlMachine
from llamarig.engine.item import Commands, Difference, Item, Query, Seen, query
from llamarig.engine.upload import upload
from llamarig.facts.virtual_environments import PythonEnvironment, VirtualEnvironment
from llamarig.items.python import Python
from llamarig.render import layout

_HUB_LOCK = "hub-requirements.txt"


class HubClient(Item):
    """The virtual environment of downloads has hf_transfer and the rest of its lock."""

    name = "Hub client"
    needs = (Python,)

    def queries(self, rig: Rig, here: ControlMachine) -> Iterable[Query[Any]]:
        """The distributions that are installed there."""
        yield query(VirtualEnvironment, path=layout.HUB_VENV)

    def differences(self, rig: Rig, seen: Seen) -> list[Difference]:
        """One if a distribution is missing or has another version."""
        found = seen.get(VirtualEnvironment, path=layout.HUB_VENV)
        return environment_differences(layout.HUB_VENV, found, seen.here.requirements[_HUB_LOCK])

    def fix(self, rig: Rig, seen: Seen, differences: list[Difference]) -> Commands:
        """Create it again."""
        yield from create_environment(layout.HUB_VENV, seen.here.requirements[_HUB_LOCK])


def missing_from(environment: PythonEnvironment, lock: str) -> list[str]:
    """The pins of a lock that an environment lacks; all of them if it was made from another lock."""
    pins = re.findall(r"^([A-Za-z0-9][\w.-]*==[^\s;\\]+)(\s*;)?", lock, re.MULTILINE)
    names = [pin.replace("_", "-").lower() for pin, conditional in pins if not conditional]
    if environment.lock != hashlib.sha256(lock.encode()).hexdigest():
        return names
    return [name for name in names if name not in environment.distributions]


def environment_differences(path: str, environment: PythonEnvironment, lock: str) -> list[Difference]:
    """At most one difference, if the environment at ``path`` does not match its lock."""
    missing = missing_from(environment, lock)
    if not missing:
        return []
    found = "made from another lock"
    if environment.lock == hashlib.sha256(lock.encode()).hexdigest():
        found = f"lacks {missing[0]}" + (f" and {len(missing) - 1} more" if len(missing) > 1 else "")
    return [Difference(path, "the distributions of its lock", found if environment.distributions else "missing")]


def create_environment(path: str, lock: str) -> Commands:
    """Create the environment at ``path`` from a requirements lock with a hash for every distribution."""
    # By the real path of Python: a venv looks for the standard library beside the link it was created through.
    python = f'"$(readlink -f {layout.PYTHON})"'
    yield StringCommand(f"rm -rf {path} && mkdir -p {path} && {python} -m venv {path}")
    yield upload(lock, f"{path}/requirements.part")
    yield StringCommand(
        # The box's own certificates and proxy, which pip in a virtual environment does not use by default.
        "set -a; test -f /etc/environment && . /etc/environment; set +a; "
        f"{path}/bin/python -m pip --disable-pip-version-check --quiet --cert {layout.CA_BUNDLE} "
        f"install --require-hashes --only-binary :all: -r {path}/requirements.part && "
        # Renamed last, so that an interrupted installation does not count as complete.
        f"mv {path}/requirements.part {path}/requirements.lock"
    )
