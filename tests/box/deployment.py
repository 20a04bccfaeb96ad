"""Run pyinfra against the test box and parse its results."""

from __future__ import annotations

import copy
import json
import os
import shlex
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

from tests.box import machine
from tests.box.fetch_run import PATIENCE_S
from tests.box.paths import ADDRESS, Rehearsal
from tests.prepared_pyinfra import PYINFRA, run_pyinfra

REPOSITORY_ROOT = Path(__file__).parents[2]
HOST = "rehearsal-box"

_INVENTORY = """\
import json
from pathlib import Path

rehearsal = [tuple(host) for host in json.loads(Path({hosts!r}).read_text())]
"""


@dataclass(frozen=True)
class Outcome:
    """Result of one pyinfra run.

    ``output``: what pyinfra printed for the user. ``changed``: the operations that changed a host, in order.
    ``unchanged``: the number of operations that changed nothing. ``plan``: the announced operations of a dry run.
    """

    code: int
    output: str
    changed: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    unchanged: int = 0
    plan: list[dict[str, Any]] = field(default_factory=list)

    @property
    def commands_sent(self) -> list[str]:
        """The commands of facts and operations that were sent to the box. Needs a run with ``-vv``."""
        found: list[str] = []
        prefix = ""
        for line in self.output.splitlines():
            if ">>> " in line:
                prefix, _, command = line.partition(">>> ")
                found.append(command)
            elif prefix and not line.strip().startswith((prefix.strip(), "-->")):
                found[-1] += f"\n{line}"  # a command of several lines
            else:
                prefix = ""  # its output follows
        return found

    def __str__(self) -> str:
        return f"exit {self.code}, changed {self.changed}, failed {self.failed}\n{self.output}"


class RunningDeploy(subprocess.Popen[bytes]):
    """A deploy in the background that writes its output to ``log``."""

    log: Path

    def output(self) -> str:
        return self.log.read_text(errors="replace")

    def exit_code(self) -> int:
        """Wait for the deploy to end and return its exit code."""
        try:
            return self.wait(timeout=PATIENCE_S)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"the deploy did not end within {PATIENCE_S} s:\n{self.output()}") from None


@dataclass
class Deployment:
    """A test box and the inventory that it is deployed from. Tests may edit ``rig``, which is plain data."""

    box: Rehearsal
    directory: Path
    rig: dict[str, Any]
    ssh: dict[str, Any] = field(default_factory=dict)
    more_hosts: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    tree: Path = REPOSITORY_ROOT
    """The source tree that deploys. A tree other than this repository is put first on PYTHONPATH."""

    @property
    def address(self) -> str:
        """URL of the first model's API, as reached from outside the box."""
        return f"http://{ADDRESS}:{self.rig['models'][0]['serve']['port']}"

    def variant(self, directory: Path) -> Deployment:
        """A deployment of the same box with copies of the rig and the model lock, and without a plan file."""
        directory.mkdir(parents=True, exist_ok=True)
        rig = copy.deepcopy(self.rig)
        lock = Path(rig["model_lock"])
        rig["model_lock"] = str(directory / "models.lock.json")
        rig["plan_file"] = str(directory / "plans.json")
        if lock.exists():
            Path(rig["model_lock"]).write_text(lock.read_text())
        return Deployment(self.box, directory, rig, dict(self.ssh))

    def command(self, script: str, *arguments: str) -> list[str]:
        """Write the inventory and return the pyinfra command line; in the box's network namespace if it is isolated."""
        hosts = self.directory / "hosts.json"
        first = (HOST, {**self.box.login, "rig": self.rig, **self.ssh})
        others = [(name, {**self.box.login, "rig": self.rig, **data}) for name, data in self.more_hosts]
        hosts.write_text(json.dumps([first, *others]))
        inventory = self.directory / "inventory.py"
        inventory.write_text(_INVENTORY.format(hosts=str(hosts)))
        running = machine.mode(self.box)
        prefix = machine.isolated_prefix(self.box) if running and running.network == "isolated" else []
        return [*prefix, PYINFRA, *arguments, str(inventory), script]

    def run(self, *arguments: str, script: str = "deploy.py", timeout: float = 900) -> Outcome:
        """Run ``pyinfra -y --json`` (or ``--dry --json``) and wait for its end."""
        yes = () if "--dry" in arguments else ("-y",)
        command = self.command(script, *yes, "--json", *arguments)
        if self.tree == REPOSITORY_ROOT and command[0] == PYINFRA:
            done = run_pyinfra(*command[1:], env=self.environment(), timeout=timeout)
        else:  # an older tree, or within the box's network namespace
            done = subprocess.run(
                command, cwd=self.tree, env=self.environment(), capture_output=True, text=True, timeout=timeout
            )
        return _outcome(done.returncode, done.stdout, done.stderr)

    def start(self, *, log: Path, script: str = "deploy.py") -> RunningDeploy:
        """Start ``pyinfra -y`` in the background, in its own process group, with its output in ``log``."""
        with log.open("wb") as out:
            running = RunningDeploy(
                self.command(script, "-y"),
                cwd=self.tree,
                env=self.environment(),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )
        running.log = log
        return running

    def environment(self) -> Mapping[str, str]:
        """The environment in which the inventory finds this box."""
        return {
            **os.environ,
            "LLAMARIG_REHEARSAL_DIR": str(self.box.directory),
            "LLAMARIG_REHEARSAL_PORT": str(self.box.port),
            # Tests run with a temporary home, but boxes keep downloads and compiled objects in the user's cache.
            "XDG_CACHE_HOME": str(self.box.cache.parent),
            **({} if self.tree == REPOSITORY_ROOT else {"PYTHONPATH": str(self.tree)}),
        }

    def shell(self, command: str, *, timeout: float = 60) -> str:
        """Run a command as root on the box and return its output. Raises BoxError if it fails."""
        return machine.ssh(self.box, command, timeout=timeout).stdout.strip()

    def write(self, path: str, text: str) -> None:
        """Write a file on the box."""
        self.shell(
            f"mkdir -p {shlex.quote(str(Path(path).parent))} && printf %s {shlex.quote(text)} >{shlex.quote(path)}"
        )


def _outcome(code: int, stdout: str, stderr: str) -> Outcome:
    try:
        report = json.loads(stdout)
    except ValueError:
        # pyinfra prints no JSON if no host is left.
        return Outcome(code, stdout + stderr)
    operations = (report["results"] or {"operations": []})["operations"]
    return Outcome(
        code,
        stderr,
        changed=[operation["name"] for operation in operations if operation["success"]],
        failed=[operation["name"] for operation in operations if operation["error"]],
        unchanged=sum(len(operation["no_change"]) for operation in operations),
        plan=report.get("plan", []),
    )


def rehearsal_rig(box: Rehearsal) -> dict[str, Any]:
    """Evaluate group_data/rehearsal.py for another box."""
    names: dict[str, Any] = {}
    source = REPOSITORY_ROOT / "group_data" / "rehearsal.py"
    environment = {"LLAMARIG_REHEARSAL_DIR": str(box.directory), "LLAMARIG_REHEARSAL_PORT": str(box.port)}
    with patch.dict(os.environ, environment):  # restored afterwards: other tests use other boxes, or none
        exec(compile(source.read_text(), str(source), "exec"), names)
    rig: dict[str, Any] = names["rig"]
    return rig


def wait_for(
    condition: Callable[[], object], what: str, timeout: float = PATIENCE_S, *, deploy: RunningDeploy | None = None
) -> None:
    """Poll until the condition holds.

    :param what: the condition in words, for the error message
    :param deploy: the deploy that is expected to fulfil the condition; stop waiting when it ends
    :raises AssertionError: on timeout or the deploy's end, with the deploy's output
    """
    deadline = time.monotonic() + timeout
    while True:
        # Read before the condition, so that the condition is checked once more after the deploy's end.
        ended = deploy is not None and deploy.poll() is not None
        if condition():
            return
        output = f":\n{deploy.output()}" if deploy is not None else ""
        assert not ended, f"the deploy ended while waiting for {what}{output}"
        assert time.monotonic() < deadline, f"timed out after {timeout:.0f} s waiting for {what}{output}"
        time.sleep(0.1)


def kill(process: subprocess.Popen[bytes]) -> None:
    """Send SIGKILL to pyinfra and its children: the loss of the control machine."""
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
