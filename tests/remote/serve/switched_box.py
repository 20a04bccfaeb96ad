"""A simulated box for each test of a switch: a directory with units, start records and a job.

systemctl_stand_in.py stands in for systemd and server_stand_in.py for llama-server, because tests must not switch the
units of the machine that they run on. tests/box/test_releases.py and test_interrupted_deploys.py use the real programs.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from llamarig.remote.shared.admission import GATE, LOCK
from llamarig.remote.shared.server_client import Server

from tests.remote.serve.server_stand_in import COMMIT

HERE = Path(__file__).parent
PACKAGE = HERE.parents[2] / "tasks"
UNIT, PEER = "llamarig-a.service", "llamarig-b.service"
SYSTEMCTL = f'exec {sys.executable} -I -S -B {HERE}/systemctl_stand_in.py "$@"'
# Stands in for journalctl as the switch asks it: for the log of a start, of which it has what came before `--sync`.
JOURNALCTL = """\
case "$1" in
    --sync) mkdir -p {root}/journal && cp {root}/logs/* {root}/journal ;;
    _SYSTEMD_INVOCATION_ID=*) cat "{root}/journal/${{1#*=}}" 2>/dev/null ;;
esac
true"""
# The program as a box runs it, with other directories of unit files.
RUN = """
import os, runpy, sys
from pathlib import Path
if "LLAMARIG_FAULT" in os.environ:
    runpy.run_path(os.environ["LLAMARIG_FAULT"])
from llamarig.remote.serve import first_start, model_units
from llamarig.remote.shared.job_status import run_job
from llamarig.remote.shared.jobs import SwitchJob
from llamarig.remote.serve import switch_checks, switch_unit
switch_checks.FLAGS_S = float(os.environ.get("LLAMARIG_FLAGS_S", 60))
model_units.UNITS = Path(sys.argv.pop(1))
switch_unit._RESTORE_WAIT_S = 2.0
first_start.RUNTIME_UNITS = model_units.UNITS / "runtime"
run_job(SwitchJob, switch_unit.switch, unwinds=True)
"""
RESTORE = """
import sys
from pathlib import Path
from llamarig.remote.serve import first_start, model_units, restore_served
model_units.UNITS = Path(sys.argv[1])
first_start.RUNTIME_UNITS = model_units.UNITS / "runtime"
sys.exit(restore_served.main(*sys.argv[2:]))
"""


class SwitchedBox:
    """A directory that stands for a box: units, start records, one job."""

    def __init__(self, root: Path) -> None:
        self.root, self.units, self.records, self.jobs = root, root / "units", root / "records", root / "jobs"
        for directory in (self.units, self.records, self.jobs, root / "bin"):
            directory.mkdir()
        self.job_directory = self.jobs / "switch-a"
        """Of the last switch that was started."""
        self.runs = 0
        self.more_environment: dict[str, str] = {}
        self.take_port()
        self.mend_systemctl()
        self.program("journalctl", JOURNALCTL.format(root=root))

    def take_port(self) -> None:
        """Use a free port from now on."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]

    def listens(self) -> bool:
        """Whether a server listens on the port."""
        with socket.socket() as client:
            return client.connect_ex(("127.0.0.1", self.port)) == 0

    def program(self, name: str, script: str) -> None:
        # Written by another process: a child that another thread starts meanwhile would have it open for writing, too,
        # and it could not be run.
        write = ["/bin/sh", "-c", 'cat >"$1" && chmod 755 "$1"', "sh", str(self.root / "bin" / name)]
        subprocess.run(write, input=f"#!/bin/sh\n{script}\n", text=True, check=True)

    def break_systemctl(self, command: str) -> None:
        """Let this command of systemctl fail."""
        self.program("systemctl", f'test "$1" = {command} && exit 1; {SYSTEMCTL}')

    def mend_systemctl(self) -> None:
        """Let every command of systemctl work."""
        self.program("systemctl", SYSTEMCTL)

    @property
    def environment(self) -> dict[str, str]:
        path = f"{self.root}/bin:/usr/bin:/bin"
        ours = {"PATH": path, "LLAMARIG_STAND_IN": str(self.root), "PYTHONPATH": str(PACKAGE)}
        return {**os.environ, **ours, **self.more_environment}

    def systemctl(self, *words: str) -> str:
        return subprocess.run(
            [str(self.root / "bin" / "systemctl"), *words], env=self.environment, capture_output=True, text=True
        ).stdout

    def pid(self, unit: str) -> str:
        """Process of a unit's server; 0 where none runs."""
        return self.systemctl("show", unit, "-p", "MainPID", "--value").strip()

    def log(self) -> str:
        """What the servers have logged."""
        return "".join(file.read_text() for file in (self.root / "logs").iterdir())

    def text(self, mode: str, *more: str, conflicts: str = "") -> str:
        program = [sys.executable, "-I", "-S", "-B", str(HERE / "server_stand_in.py"), "--host", "127.0.0.1"]
        command = shlex.join([*program, "--port", str(self.port), "--mode", mode, *more])
        return f"[Unit]\nConflicts={conflicts}\n[Service]\nExecStart={command}\n"

    def serve(self, unit: str, mode: str, *more: str) -> str:
        """Start a unit before the switch; return its text."""
        text = self.text(mode, *more)
        (self.units / unit).write_text(text)
        self.systemctl("daemon-reload")
        self.systemctl("start", unit)
        wait_for(lambda: self.answers() == mode)
        return text

    def record_start(self, unit: str, text: str) -> None:
        (self.records / f"{unit}.json").write_text(json.dumps({"text": text, "job": {}}))

    def start(
        self, text: str, name: str = "switch-a", owner: str = "anna@laptop", takeover: bool = False, **job: Any
    ) -> subprocess.Popen[bytes]:
        """Start the switch to a unit with this text, as engine/jobs.py does."""
        whole = {
            "unit": UNIT,
            "text": text,
            "check": [sys.executable, "-c", "pass"],
            "peers": [],
            "retired": [],
            "start": True,
            "enable": True,
            "port": self.port,
            "load_timeout_s": 15,
            "needs_gpu": False,
            "environment": {},
            "model_bytes": 1,
            "commit": COMMIT,
            "context_per_slot": 8192,
            "api_key_file": None,
            "proof": str(self.records / f"{job.get('unit', UNIT)}.json"),
            "plan": None,
            "pinned_mib": None,
            **job,
        }
        self.runs += 1
        self.job_directory = self.jobs / name
        self.job_directory.mkdir(exist_ok=True)
        for file in (self.jobs / GATE, self.job_directory / LOCK):
            file.touch()
        request = {"job": json.dumps(whole), "owner": owner, "takeover": takeover}
        (self.job_directory / f"request-{self.runs}.json").write_text(json.dumps(request))
        command = [sys.executable, "-B", "-c", RUN, str(self.units), str(self.job_directory), str(self.runs)]
        with (self.root / "output").open("wb") as output:
            return subprocess.Popen(command, env=self.environment, cwd=self.root, stdout=output, stderr=output)

    def answer(self) -> str:
        """Why the last start was not admitted; empty where the same job ran already."""
        return (self.job_directory / f"answer-{self.runs}").read_text()

    def switch(self, text: str, **job: Any) -> str:
        """Run the switch to a unit with this text; return its state and message."""
        self.start(text, **job).wait(timeout=600)
        return self.ended()

    @property
    def restores(self) -> list[str]:
        """The command that systemd runs after a switch, however that has ended, and at boot."""
        return [sys.executable, "-B", "-c", RESTORE, str(self.units), str(self.records), str(self.jobs)]

    def restore(self, *, code: int = 0) -> str:
        """Run that command; return what it printed.

        :param code: the expected exit code
        """
        done = subprocess.run(self.restores, env=self.environment, cwd=self.root, capture_output=True, text=True)
        assert done.returncode == code, done.stderr
        return done.stderr

    def boots(self) -> None:
        """Lose power, and boot."""
        self.systemctl("power-cut")
        self.restore()
        self.systemctl("start-enabled")

    def status(self) -> dict[str, Any]:
        try:
            status: dict[str, Any] = json.loads((self.job_directory / "status.json").read_text())
        except OSError:
            return {}
        return status

    def ended(self) -> str:
        return f"{self.status().get('state')}: {self.status().get('message')}"

    def answers(self, key: str = "", *, prefix: str = "", scheme: str = "http") -> str:
        """The mode of the server that answers; empty where none does. Leaves no connection in TIME-WAIT."""
        try:
            server = Server(f"{scheme}://127.0.0.1:{self.port}{prefix}", key or None)
            return str(server.get("/props", timeout=60)["mode"])
        except (OSError, KeyError):
            return ""

    def enabled(self) -> list[str]:
        """Units that start at boot."""
        return sorted(file.name for file in (self.root / "enabled").iterdir())

    def left_over(self) -> set[str]:
        """Files left over by switches that have not ended, without temporary ones, which the next write removes."""
        files = (*self.units.iterdir(), *self.records.iterdir())
        return {file.name for file in files if re.search("before$|journal$|replaced$", file.name)}


def wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true"
        time.sleep(0.05)
