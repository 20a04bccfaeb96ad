"""What needs a kernel of its own, on one virtual machine: RAM profile, swappiness, out-of-memory kills, packet filters.

A container shares its host's settings, and one that shares its host's network filters no packets. The guest reaches
this machine as 10.0.2.2 (QEMU's user network), a private address.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from llamarig.declare.rig import Rig
from llamarig.declare.serve import Serve
from llamarig.facts.sandbox_support import PacketFilter
from llamarig.items.wanted_unit import wanted_unit
from llamarig.render import layout
from llamarig.render.sandbox import network_lines
from llamarig.render.server_arguments import ModelFiles

from tests.box.deployment import REPOSITORY_ROOT, rehearsal_rig
from tests.box.exclusive_use import exclusive_use
from tests.box.paths import Rehearsal
from tests.prepared_pyinfra import PYINFRA
from tests.render.golden_units import PINNED
from tests.vm.emulator import VirtualMachine

pytestmark = pytest.mark.vm

PORT = 23122
# A DDR4-3600 kit without and with its XMP profile. QEMU writes the speed into both speed fields of SMBIOS.
KIT = "type=17,loc_pfx=DIMM,manufacturer=G Skill Intl,part=F4-3600C16-16GTZNC"
PROFILE_OFF, PROFILE_ON = f"{KIT},speed=2133", f"{KIT},speed=3600"

HOST = "10.0.2.2"
FILTERED = "TimeoutError"
"""What a program sees of a packet that is filtered: no answer."""
CONNECT = """
import socket, sys
def attempt(call):
    try:
        call()
        return "yes"
    except OSError as error:
        return error.strerror or type(error).__name__
with socket.socket() as own:
    print("listens", attempt(lambda: own.bind(("127.0.0.1", {port}))))
with socket.socket() as other:
    print("other", attempt(lambda: other.bind(("127.0.0.1", {port} + 1))))
def connect(address):
    socket.create_connection(address, timeout=5).close()
print("out", attempt(lambda: connect(("{host}", {listener}))))
"""


@pytest.fixture(scope="module")
def vm(users_box: Rehearsal) -> Iterator[VirtualMachine]:
    machine = VirtualMachine(users_box.cache / "vm", int(os.environ.get("LLAMARIG_TEST_VM_PORT", PORT)))
    with exclusive_use(users_box.cache / "vm"):
        machine.make()
        try:
            yield machine
        finally:
            machine.kill()


class VmDeployment:
    """Runs pyinfra against the virtual machine, with a rig that declares swappiness."""

    def __init__(self, vm: VirtualMachine, directory: Path) -> None:
        rig = rehearsal_rig(Rehearsal(directory / "none"))
        rig["host"] = {**rig["host"], "swappiness": 7}
        self.rig = rig
        self._inventory = directory / "inventory.py"
        self._inventory.write_text(f"virtual = [('virtual', { ({**vm.login(), 'rig': rig})!r})]\n")
        self._report = directory / "report.json"

    def pyinfra(self, *words: str) -> subprocess.CompletedProcess[str]:
        argv = [PYINFRA, "-y", str(self._inventory), *words]
        return subprocess.run(argv, cwd=REPOSITORY_ROOT, capture_output=True, text=True, timeout=300)

    def audit(self) -> tuple[int, list[dict[str, Any]]]:
        """Run the memory checks; return the exit code and the findings that fail."""
        data = [word for item in ("only=memory", f"json={self._report}") for word in ("--data", item)]
        done = self.pyinfra("tasks/audit.py", *data)
        assert "Traceback" not in done.stderr, done.stderr
        (host,) = json.loads(self._report.read_text())["hosts"]
        return done.returncode, [finding for finding in host["findings"] if finding["fails"]]


def _check_out_of_memory_kill(vm: VirtualMachine, deployment: VmDeployment) -> None:
    """A server that exceeds its MemoryMax is killed by the kernel and not restarted, and an audit reports it.

    The unit is the one that a deploy would write. A program that only allocates memory stands in for llama-server,
    because building llama.cpp on the emulated processor would take more than an hour.
    """
    rig = Rig.model_validate(deployment.rig)
    model = rig.models[0].model_copy(update={"serve": rig.models[0].serve.model_copy(update={"memory_max_mib": 64})})
    wanted = wanted_unit(
        rig,
        model,
        release="/opt/llamarig/memory-hog",
        flags=PINNED,
        files=ModelFiles("/m.gguf"),
        inputs="",
        model_bytes=10**6,
        running=True,
    )
    program = "#!/usr/bin/python3\nheld = []\nwhile True:\n    held.append(bytes(range(256)) * 4096)\n"
    vm.write("/opt/llamarig/memory-hog/bin/llama-server", program, mode="755")
    # As the item of Python leaves it. Without it the wait of the unit fails at once, perhaps before the memory is full.
    vm.shell(f"mkdir -p {layout.BIN} && ln -sfn /usr/bin/python3 {layout.PYTHON}")
    vm.write(f"/etc/systemd/system/{wanted.unit}", wanted.text)
    vm.shell(f"mkdir -p {layout.EMPTY_ROOT} && systemctl daemon-reload && systemctl start --no-block {wanted.unit}")
    properties = f"systemctl show {wanted.unit} -p ActiveState -p Result -p ExecMainStatus -p NRestarts --value"
    deadline = time.monotonic() + 120
    while (output := vm.shell(properties).split()) and "failed" not in output:
        assert time.monotonic() < deadline, output
        time.sleep(1)
    assert sorted(output) == sorted(["failed", "oom-kill", "9", "0"])
    code, found = deployment.audit()
    assert code == 1
    oom = [finding for finding in found if finding["check"] == "memory.oom"]
    assert [(finding["about"], finding["severity"]) for finding in oom] == [(wanted.unit, "error")]
    assert f"llama-server of {wanted.unit} held 0.1 GiB, more than its unit's limit" in oom[0]["found"]
    # Wait longer than RestartSec: a server that was killed for its memory use must not be restarted.
    time.sleep(12)
    assert sorted(vm.shell(properties).split()) == sorted(["failed", "oom-kill", "9", "0"])
    vm.shell(f"rm /etc/systemd/system/{wanted.unit} && systemctl daemon-reload && systemctl reset-failed")


def test_audit_finds_ram_profile_swappiness_and_oom_kill_and_their_fixes_survive_a_reboot(
    vm: VirtualMachine, tmp_path: Path
) -> None:
    deployment = VmDeployment(vm, tmp_path)
    vm.start([PROFILE_OFF])
    assert "F4-3600C16-16GTZNC" in vm.shell("dmidecode --type 17"), "the guest's dmidecode does not show the table"

    code, found = deployment.audit()
    assert code == 1
    assert [finding["check"] for finding in found] == ["memory.speed", "memory.swappiness"]
    assert found[0]["expected"] == "3600 MT/s (part number F4-3600C16-16GTZNC)"
    assert "2133 MT/s" in found[0]["found"]
    assert "XMP" in found[0]["remedy"]
    assert found[1]["found"] == "60 now, nothing set after a reboot"

    deployed = deployment.pyinfra("tests/vm/deploy_settings.py")
    assert deployed.returncode == 0, deployed.stderr
    assert "2133 MT/s" in deployed.stderr, "the deploy did not report the RAM speed, which it cannot fix"
    assert vm.shell("cat /proc/sys/vm/swappiness") == "7"
    code, found = deployment.audit()
    assert (code, [finding["check"] for finding in found]) == (1, ["memory.speed"])

    _check_out_of_memory_kill(vm, deployment)

    vm.power_off()
    vm.start([PROFILE_ON])  # as after enabling the profile in the BIOS setup
    assert vm.shell("cat /proc/sys/vm/swappiness") == "7", "the setting did not survive the reboot"
    assert deployment.audit() == (0, [])


@pytest.fixture
def running(vm: VirtualMachine) -> VirtualMachine:
    """The virtual machine, as the tests before have left it."""
    if not vm.is_running:
        vm.start([PROFILE_ON])
    return vm


@pytest.fixture(scope="module")
def listener() -> Iterator[int]:
    """The port of a server on this machine."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
    Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_port
    server.shutdown()
    server.server_close()


def attempts(vm: VirtualMachine, listener: int, **fields: Any) -> dict[str, str]:
    """What a program may do with the network of a unit that is declared so."""
    serve = Serve(**{"port": 8080, "context": 4096, "api_key_file": "/k", **fields})
    lines = [line for line in network_lines(serve) if not line.startswith("#")]
    program = CONNECT.format(port=serve.port, host=HOST, listener=listener)
    run = ["systemd-run", "--quiet", "--pipe", "--wait", "--collect", *(f"--property={line}" for line in lines)]
    output = vm.shell(shlex.join([*run, "--", "python3", "-c", program]))
    return dict(line.split(" ", 1) for line in output.splitlines())


def test_a_kernel_that_filters_packets_is_known_as_one(running: VirtualMachine) -> None:
    """One that does not is a container that shares its host's network (tests/box/test_audit.py)."""
    fact = PacketFilter()
    assert fact.process(running.shell(fact.command()).splitlines()) == "applied"


def test_a_server_on_loopback_reaches_nothing_outside(running: VirtualMachine, listener: int) -> None:
    found = attempts(running, listener)
    assert found["listens"] == "yes"
    assert found["other"] == "Operation not permitted"
    assert found["out"] == FILTERED


def test_a_server_beyond_loopback_reaches_private_networks_unless_its_clients_are_declared(
    running: VirtualMachine, listener: int
) -> None:
    assert attempts(running, listener, host="0.0.0.0")["out"] == "yes"
    assert attempts(running, listener, host="0.0.0.0", clients=("10.0.2.0/24",))["out"] == "yes"
    assert attempts(running, listener, host="0.0.0.0", clients=("192.168.77.0/24",))["out"] == FILTERED
