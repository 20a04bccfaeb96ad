"""Power cuts in the rehearsal's virtual machine: QEMU is killed with SIGKILL while a switch is at a given phase.

What the guest had not written to its disk is lost with its memory. The disk is an overlay with a write cache of its own
(QEMU keeps the map of a qcow2 file in memory until the guest flushes), so that what was written and never flushed may
be lost as well, as on a real disk.

A switch is begun once, and the machine's state is saved while it stands at its first phase. Each round goes on from
there, up to its phase.
"""

from __future__ import annotations

import json
import shlex
import socket
import subprocess
import time
from pathlib import Path

from llamarig.render import layout

from tests.box import machine, power_cut_hook, virtual_box
from tests.box.host import tail
from tests.box.paths import Rehearsal

STATE = "begun"
SWITCH = "switch-tiny"
HOOK = "/opt/power-cut"
BOOT_SECONDS = PHASE_SECONDS = 600.0
SSH_SECONDS = 300.0


class CutMachine:
    """The rehearsal's virtual machine, with a disk that can be put back to where a switch had begun."""

    def __init__(self, rehearsal: Rehearsal, accelerator: str) -> None:
        """Make the overlay, on the disk of a machine that is powered off. ``accelerator``: of QEMU."""
        self._rehearsal, self._accelerator = rehearsal, accelerator
        self._overlay = rehearsal.directory / "power-cut.qcow2"
        self._monitor = rehearsal.directory / "monitor"
        self._console = rehearsal.directory / "power-cut.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._overlay.unlink(missing_ok=True)
        # QEMU makes an overlay itself, of a machine that does not run yet: qemu-img is not among its files.
        self._start("-S", disk=machine.disk_option(rehearsal))
        self._command(f"snapshot_blkdev virtio0 {self._overlay} qcow2")
        self.cut()

    def boot(self) -> None:
        """Start the machine, and return when systemd has started everything.

        :raises AssertionError: with the end of the console's log
        """
        self._start()
        deadline = time.monotonic() + BOOT_SECONDS
        state = ""
        while state not in ("running", "degraded"):
            self._check(time.monotonic() < deadline, f"has not booted: systemd says {state or 'nothing'}")
            try:
                waited = "systemctl is-system-running --wait"
                state = machine.ssh(self._rehearsal, waited, check=False, timeout=60).stdout.strip()
            except machine.BoxError:
                continue

    def begin(self, old: str, new: str) -> None:
        """Begin the switch to another release, and save the machine's state at its first phase.

        Not by a deploy, which takes minutes where the processor is emulated: the job is the one of the rehearsal's
        switch, with the other release.

        :param old: directory of the release that serves; ``new``: of the one to switch to
        """
        hook = Path(power_cut_hook.__file__).read_text()
        machine.ssh(self._rehearsal, f"mkdir -p {HOOK} && printf %s {shlex.quote(hook)} >{HOOK}/sitecustomize.py")
        switch = f"{layout.JOBS}/{SWITCH}"
        environment = f"HOME=/root LC_ALL=C.UTF-8 PYTHONPATH={HOOK}"
        command = ["systemd-run", "--quiet", "--collect", f"--unit={layout.job_unit(SWITCH)}cut.service"]
        command += [f"--property=WorkingDirectory={layout.PROGRAMS}", f"--property=Environment={environment}"]
        command += [layout.PYTHON, "-B", "-m", "llamarig.remote.serve.switch_unit", f"{switch}-cut"]
        job = f"mkdir -p {switch}-cut && sed 's#{old}#{new}#g' {switch}/job.json >{switch}-cut/job.json && sync"
        machine.ssh(self._rehearsal, f"{job} && {shlex.join(command)}", timeout=SSH_SECONDS)
        self._await_phase(1)
        self._command(f"savevm {STATE}")
        self.cut()

    def cut_at(self, phase: int) -> None:
        """Go on from where the state was saved, and cut the power at a phase, counted from 1."""
        self._start("-loadvm", STATE)
        if phase > 1:
            self._await_phase(phase)
        self.cut()

    def cut(self) -> None:
        """Kill QEMU, if it runs."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def _start(self, *words: str, disk: str = "") -> None:
        argv = virtual_box.emulator_argv(self._rehearsal, self._accelerator)
        overlay = f"file={self._overlay},format=qcow2,if=virtio,cache=writeback"
        argv[argv.index(machine.disk_option(self._rehearsal))] = disk or overlay
        argv += ["-qmp", f"unix:{self._monitor},server,nowait", *words]
        self._monitor.unlink(missing_ok=True)
        with self._console.open("wb") as console:
            self._process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                env=virtual_box.emulator_environment(self._rehearsal),
            )

    def _await_phase(self, phase: int) -> None:
        deadline = time.monotonic() + PHASE_SECONDS
        mark = f"{power_cut_hook.MARK} {phase}\n".encode()
        while mark not in self._console.read_bytes().replace(b"\r", b""):
            self._check(time.monotonic() < deadline, f"has not come to phase {phase} of the switch")
            time.sleep(0.02)

    def _command(self, line: str) -> None:
        """Run a command of QEMU's monitor, and wait for its end.

        :raises AssertionError: with what it printed, if it printed anything
        """
        deadline = time.monotonic() + 60
        while not self._monitor.exists():
            self._check(time.monotonic() < deadline, "has no monitor")
            time.sleep(0.05)
        with socket.socket(socket.AF_UNIX) as monitor:
            monitor.settimeout(300)
            monitor.connect(str(self._monitor))
            answers = monitor.makefile("r")
            # The protocol (QEMU's docs/interop/qmp-spec.rst): a greeting, the negotiation, and an answer to each
            # command, with events between them.
            greeting = json.loads(answers.readline())
            assert "QMP" in greeting, greeting
            output = ""
            for command, arguments in (
                ("qmp_capabilities", {}),
                ("human-monitor-command", {"command-line": line}),
            ):
                monitor.sendall(json.dumps({"execute": command, "arguments": arguments}).encode())
                while "return" not in (answer := json.loads(answers.readline())):
                    assert "error" not in answer, answer
                output = answer["return"]
        assert not output, output

    def _check(self, holds: bool, trouble: str) -> None:
        assert self._process is not None
        ended = self._process.poll()
        trouble = f"has ended with {ended}" if ended is not None else "" if holds else trouble
        assert not trouble, f"the virtual machine {trouble}; its console ends:\n{tail(self._console)}"
