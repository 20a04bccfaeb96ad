"""Running the real pyinfra against the test box, and what came of it, from pyinfra's own results."""

from __future__ import annotations

import copy
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

from tests.box import machine
from tests.box.fetch_run import PATIENCE_S
from tests.box.paths import ADDRESS, Rehearsal

REPOSITORY_ROOT = Path(__file__).parents[2]
HOST = "rehearsal-box"
PYINFRA = str(Path(sys.executable).with_name("pyinfra"))

_INVENTORY = """\
import json
from pathlib import Path

rehearsal = [tuple(host) for host in json.loads(Path({hosts!r}).read_text())]
"""


@dataclass(frozen=True)
class Outcome:
    """``output`` is what the owner saw; ``changed`` the operations that changed a host, in order."""

    code: int
    output: str
    changed: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    unchanged: int = 0
    plan: list[dict[str, Any]] = field(default_factory=list)

    @property
    def sent(self) -> list[str]:
        """Of a run with ``-vv``: every command sent to the box, facts and operations alike, as pyinfra prints them."""
        return [line.partition(">>> ")[2] for line in self.output.splitlines() if ">>> " in line]

    def __str__(self) -> str:
        return f"exit {self.code}, changed {self.changed}, failed {self.failed}\n{self.output}"


class Started(subprocess.Popen[bytes]):
    """A deploy in the background; ``log`` holds what it says."""

    log: Path

    def said(self) -> str:
        return self.log.read_text(errors="replace")

    def ended(self) -> int:
        """Its exit code, waited for."""
        try:
            return self.wait(timeout=PATIENCE_S)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"it did not end within {PATIENCE_S} s:\n{self.said()}") from None


@dataclass
class Deployment:
    """One test box and the inventory it is deployed from. ``rig`` is plain data and may be edited freely."""

    box: Rehearsal
    directory: Path
    rig: dict[str, Any]
    ssh: dict[str, Any] = field(default_factory=dict)
    more_hosts: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    tree: Path = REPOSITORY_ROOT
    """The llamarig that deploys; an older one imports its own modules, not the installed package."""

    @property
    def address(self) -> str:
        """Of the first model's API, from outside the box."""
        return f"http://{ADDRESS}:{self.rig['models'][0]['serve']['port']}"

    def variant(self, directory: Path) -> Deployment:
        """The same box, with a rig of its own to edit. Its model lock is a copy too, its plan file empty."""
        directory.mkdir(parents=True, exist_ok=True)
        rig = copy.deepcopy(self.rig)
        lock = Path(rig["model_lock"])
        rig["model_lock"] = str(directory / "models.lock.json")
        rig["plan_file"] = str(directory / "plans.json")
        if lock.exists():
            Path(rig["model_lock"]).write_text(lock.read_text())
        return Deployment(self.box, directory, rig, dict(self.ssh))

    def command(self, script: str, *arguments: str) -> list[str]:
        """The pyinfra command line; inside the box's network namespace where it has no other network."""
        hosts = self.directory / "hosts.json"
        login = {
            "ssh_hostname": ADDRESS,
            "ssh_port": self.box.port,
            "ssh_user": "root",
            "ssh_key": str(self.box.key),
            "ssh_known_hosts_file": str(self.box.known_hosts),
            "ssh_strict_host_key_checking": "yes",
        }
        own = (HOST, {**login, "rig": self.rig, **self.ssh})
        others = [(name, {**login, "rig": self.rig, **data}) for name, data in self.more_hosts]
        hosts.write_text(json.dumps([own, *others]))
        inventory = self.directory / "inventory.py"
        inventory.write_text(_INVENTORY.format(hosts=str(hosts)))
        running = machine.mode(self.box)
        prefix = machine.isolated_prefix(self.box) if running and running.network == "isolated" else []
        return [*prefix, PYINFRA, *arguments, str(inventory), script]

    def run(self, *arguments: str, script: str = "deploy.py", timeout: float = 900) -> Outcome:
        """``pyinfra -y --json`` (or ``--dry --json``), to its end."""
        yes = () if "--dry" in arguments else ("-y",)
        done = subprocess.run(
            self.command(script, *yes, "--json", *arguments),
            cwd=self.tree,
            env=self.environment(),
            capture_output=True,
            text=True,
            timeout=timeout,
        )
        return _outcome(done.returncode, done.stdout, done.stderr)

    def start(self, *, log: Path) -> Started:
        """``pyinfra -y`` in the background, in a process group of its own, its output in ``log``."""
        with log.open("wb") as out:
            started = Started(
                self.command("deploy.py", "-y"),
                cwd=self.tree,
                env=self.environment(),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )
        started.log = log
        return started

    def environment(self) -> Mapping[str, str]:
        """What the inventory needs to find this box."""
        return {
            **os.environ,
            "LLAMARIG_REHEARSAL_DIR": str(self.box.directory),
            "LLAMARIG_REHEARSAL_PORT": str(self.box.port),
            # The tests have a home of their own; what is fetched or compiled for boxes is kept in the user's.
            "XDG_CACHE_HOME": str(self.box.cache.parent),
            **({} if self.tree == REPOSITORY_ROOT else {"PYTHONPATH": str(self.tree)}),
        }

    def shell(self, command: str, *, timeout: float = 60) -> str:
        """Output of a command run as root on the box; it has to succeed."""
        return machine.ssh(self.box, command, timeout=timeout).stdout.strip()

    def write(self, path: str, text: str) -> None:
        """A file on the box."""
        self.shell(
            f"mkdir -p {shlex.quote(str(Path(path).parent))} && printf %s {shlex.quote(text)} >{shlex.quote(path)}"
        )


def _outcome(code: int, stdout: str, stderr: str) -> Outcome:
    try:
        said = json.loads(stdout)
    except ValueError:
        # pyinfra prints no JSON when no host is left.
        return Outcome(code, stdout + stderr)
    operations = (said["results"] or {"operations": []})["operations"]
    return Outcome(
        code,
        stderr,
        changed=[operation["name"] for operation in operations if operation["success"]],
        failed=[operation["name"] for operation in operations if operation["error"]],
        unchanged=sum(len(operation["no_change"]) for operation in operations),
        plan=said.get("plan", []),
    )


def rehearsal_rig(box: Rehearsal) -> dict[str, Any]:
    """group_data/rehearsal.py as it reads for another box."""
    names: dict[str, Any] = {}
    source = REPOSITORY_ROOT / "group_data" / "rehearsal.py"
    named = {"LLAMARIG_REHEARSAL_DIR": str(box.directory), "LLAMARIG_REHEARSAL_PORT": str(box.port)}
    with patch.dict(os.environ, named):  # afterwards as before: other tests have boxes of other names, or none
        exec(compile(source.read_text(), str(source), "exec"), names)
    rig: dict[str, Any] = names["rig"]
    return rig


def wait_for(
    condition: Callable[[], object], what: str, timeout: float = PATIENCE_S, *, by: Started | None = None
) -> None:
    """Poll until the condition holds.

    :param by: the deploy that has to bring it about; once that has ended, nothing is waited for any longer
    :raises AssertionError: saying what did not come, and what the deploy has said instead
    """
    deadline = time.monotonic() + timeout
    while True:
        ended = by is not None and by.poll() is not None
        if condition():
            return
        said = f":\n{by.said()}" if by is not None else ""
        assert not ended, f"the deploy ended before {what} came{said}"
        assert time.monotonic() < deadline, f"{what} did not come within {timeout:.0f} s{said}"
        time.sleep(0.1)


def kill(process: subprocess.Popen[bytes]) -> None:
    """SIGKILL to pyinfra and all it started, as a closed laptop or an OOM killer does it."""
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
