"""A virtual environment on the box from a hash-checked requirements lock; pip's own operation cannot check hashes."""

from __future__ import annotations

import hashlib
import io
import re
from pathlib import Path

from pyinfra.api.command import FileUploadCommand, StringCommand
from pyinfra.api.operation import operation
from pyinfra.context import host

from tasks.facts.venvs import Environment, VirtualEnvironment
from tasks.operations import Commands
from tasks.operations.once import read_once
from tasks.planning import layout


def missing_from(environment: Environment, lock: str) -> list[str]:
    """What of a lock the environment lacks; its every distribution where it was made from another lock."""
    wanted = re.findall(r"^([A-Za-z0-9][\w.-]*==[^\s;\\]+)(\s*;)?", lock, re.MULTILINE)
    names = [pin.replace("_", "-").lower() for pin, conditional in wanted if not conditional]
    if environment.lock != hashlib.sha256(lock.encode()).hexdigest():
        return names
    return [name for name in names if name not in environment.distributions]


@operation()
def locked(path: str, requirements: str) -> Commands:
    """The environment at ``path`` holds exactly what the lock file says.

    :param requirements: path here of a requirements file with a hash for every distribution
    """
    lock = Path(requirements).read_text()
    missing = missing_from(read_once(VirtualEnvironment, path=path), lock)
    if not missing:
        host.noop(f"{path} holds what {requirements} locks")
        return
    # By the Python's own name: a venv looks for the standard library beside the link it was made through.
    python = f'"$(readlink -f {layout.PYTHON})"'
    yield StringCommand(f"rm -rf {path} && mkdir -p {path} && {python} -m venv {path}")
    yield FileUploadCommand(io.StringIO(lock), f"{path}/requirements.part")
    yield StringCommand(
        # The box's own certificates and proxy: pip in a virtual environment knows of neither by itself.
        "set -a; test -f /etc/environment && . /etc/environment; set +a; "
        f"{path}/bin/python -m pip --disable-pip-version-check --quiet --cert {layout.CA_BUNDLE} "
        f"install --require-hashes --only-binary :all: -r {path}/requirements.part && "
        # Named last: an installation that broke off is not taken for a whole one.
        f"mv {path}/requirements.part {path}/requirements.lock"
    )
