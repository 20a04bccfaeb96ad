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
# The program as a box runs it, with other directories of unit files.
RUN = """
import os, runpy, sys
from pathlib import Path
if "LLAMARIG_FAULT" in os.environ:
    runpy.run_path(os.environ["LLAMARIG_FAULT"])
from llamarig.remote.serve import first_start, model_units
from llamarig.remote.shared.job_status import run_job
from llamarig.remote.shared.jobs import SwitchJob
from llamarig.remote.serve import switch_unit
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
        self.program("systemctl", f'exec {sys.executable} -B {HERE}/systemctl_stand_in.py "$@"')
        self.program("journalctl", f"cat {root}/logs/* 2>/dev/null; true")

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
        path = self.root / "bin" / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    @property
    def environment(self) -> dict[str, str]:
        path = f"{self.root}/bin:/usr/bin:/bin"
        ours = {"PATH": path, "LLAMARIG_STAND_IN": str(self.root), "PYTHONPATH": str(PACKAGE)}
        return {**os.environ, **ours, **self.more_environment}

    def systemctl(self, *words: str) -> str:
        return subprocess.run(
            [str(self.root / "bin" / "systemctl"), *words], env=self.environment, capture_output=True, text=True
        ).stdout

    def text(self, mode: str, *more: str, conflicts: str = "") -> str:
        program = [sys.executable, "-B", str(HERE / "server_stand_in.py"), "--host", "127.0.0.1"]
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
        self.start(text, **job).wait(timeout=120)
        return self.ended()

    def restore(self, when: str) -> str:
        """Run what systemd runs after a switch (``after-switch``), however that has ended, or ``at-boot``."""
        job = [str(self.job_directory), str(self.runs)] if when == "after-switch" else []
        command = [sys.executable, "-B", "-c", RESTORE, str(self.units), when, str(self.records), *job]
        done = subprocess.run(command, env=self.environment, cwd=self.root, capture_output=True, text=True)
        assert "Traceback" not in done.stderr, done.stderr
        return done.stderr

    def boots(self) -> None:
        """Lose power, and boot."""
        self.systemctl("power-cut")
        self.restore("at-boot")
        self.systemctl("start-enabled")

    def status(self) -> dict[str, Any]:
        try:
            status: dict[str, Any] = json.loads((self.job_directory / "status.json").read_text())
        except OSError:
            return {}
        return status

    def ended(self) -> str:
        return f"{self.status().get('state')}: {self.status().get('message')}"

    def answers(self, key: str = "") -> str:
        """The mode of the server that answers; empty where none does. Leaves no connection in TIME-WAIT."""
        try:
            return str(Server(f"http://127.0.0.1:{self.port}", key or None).get("/props", timeout=10)["mode"])
        except (OSError, KeyError):
            return ""

    def left_over(self) -> set[str]:
        """Files left over by switches that have not ended, without temporary ones, which the next write removes."""
        files = (*self.units.iterdir(), *self.records.iterdir())
        return {file.name for file in files if re.search("before$|journal$", file.name)}


def wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true"
        time.sleep(0.05)
