"""On a real kernel with real firmware tables: the audit fails, deploy and BIOS fix it, a reboot, it passes."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from llamarig.declare.rig import Rig
from llamarig.items.wanted_unit import wanted_unit
from llamarig.render.server_arguments import ModelFiles

from tests.box.deployment import PYINFRA, REPOSITORY_ROOT, rehearsal_rig
from tests.box.paths import Rehearsal
from tests.render.golden_units import PINNED
from tests.vm.emulator import VirtualMachine

pytestmark = pytest.mark.vm

PORT = 23122
# A DDR4-3600 kit: without its profile, and with it. QEMU writes the speed into both of SMBIOS's fields.
KIT = "type=17,loc_pfx=DIMM,manufacturer=G Skill Intl,part=F4-3600C16-16GTZNC"
PROFILE_OFF, PROFILE_ON = f"{KIT},speed=2133", f"{KIT},speed=3600"


@pytest.fixture
def vm(users_box: Rehearsal) -> Iterator[VirtualMachine]:
    if os.geteuid() != 0:
        if os.environ.get("CI"):
            pytest.fail("the virtual machine needs root, and in CI it may not be left out")
        pytest.skip("the virtual machine needs root to be made: run `sudo python3 -m tests check`")
    machine = VirtualMachine(users_box.cache / "vm", int(os.environ.get("LLAMARIG_TEST_VM_PORT", PORT)))
    machine.make()
    try:
        yield machine
    finally:
        machine.kill()


class Owner:
    """Runs pyinfra against the virtual machine, with a rig whose swappiness is declared."""

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
        """Exit code and findings that fail, of the checks of memory."""
        data = [word for item in ("only=memory", f"json={self._report}") for word in ("--data", item)]
        done = self.pyinfra("tasks/audit.py", *data)
        assert "Traceback" not in done.stderr, done.stderr
        (host,) = json.loads(self._report.read_text())["hosts"]
        return done.returncode, [finding for finding in host["findings"] if finding["fails"]]


def _killed_for_memory(vm: VirtualMachine, owner: Owner) -> None:
    """A server beyond its MemoryMax: the kernel kills it, its unit stays down as failed, and an audit reports it.

    The unit is the one a deploy would write. A program that only takes memory stands in for llama-server: what the
    guest has of processor would build none within an hour.
    """
    rig = Rig.model_validate(owner.rig)
    model = rig.models[0].model_copy(update={"serve": rig.models[0].serve.model_copy(update={"memory_max_mib": 64})})
    wanted = wanted_unit(
        rig,
        model,
        release="/opt/llamarig/hungry",
        flags=PINNED,
        files=ModelFiles("/m.gguf"),
        inputs_written=0,
        model_bytes=10**6,
        running=True,
    )
    program = "#!/usr/bin/python3\nheld = []\nwhile True:\n    held.append(bytes(range(256)) * 4096)\n"
    vm.write("/opt/llamarig/hungry/bin/llama-server", program, mode="755")
    vm.write(f"/etc/systemd/system/{wanted.unit}", wanted.text)
    vm.shell(f"systemctl daemon-reload && systemctl start {wanted.unit}")
    properties = f"systemctl show {wanted.unit} -p ActiveState -p Result -p ExecMainStatus -p NRestarts --value"
    deadline = time.monotonic() + 120
    while (output := vm.shell(properties).split()) and "failed" not in output:
        assert time.monotonic() < deadline, output
        time.sleep(1)
    assert sorted(output) == sorted(["failed", "oom-kill", "9", "0"])
    code, found = owner.audit()
    assert code == 1
    oom = [finding for finding in found if finding["check"] == "memory.oom"]
    assert [(finding["about"], finding["severity"]) for finding in oom] == [(wanted.unit, "error")]
    # Longer than RestartSec: what was killed for memory is not tried again.
    time.sleep(12)
    assert sorted(vm.shell(properties).split()) == sorted(["failed", "oom-kill", "9", "0"])
    vm.shell(f"rm /etc/systemd/system/{wanted.unit} && systemctl daemon-reload && systemctl reset-failed")


def test_deploy_and_bios_fix_what_the_audit_finds_and_a_reboot_keeps_it(vm: VirtualMachine, tmp_path: Path) -> None:
    owner = Owner(vm, tmp_path)
    vm.start([PROFILE_OFF])
    assert "F4-3600C16-16GTZNC" in vm.shell("dmidecode --type 17"), "the guest's own dmidecode sees the table"

    code, found = owner.audit()
    assert code == 1
    assert [finding["check"] for finding in found] == ["memory.speed", "memory.swappiness"]
    assert found[0]["expected"] == "3600 MT/s (part number F4-3600C16-16GTZNC)"
    assert "2133 MT/s" in found[0]["found"]
    assert "XMP" in found[0]["remedy"]
    assert found[1]["found"] == "60 now, nothing set after a reboot"

    deployed = owner.pyinfra("tests/vm/deploy_settings.py")
    assert deployed.returncode == 0, deployed.stderr
    assert "2133 MT/s" in deployed.stderr, "a deploy reports what it cannot fix"
    assert vm.shell("cat /proc/sys/vm/swappiness") == "7"
    code, found = owner.audit()
    assert (code, [finding["check"] for finding in found]) == (1, ["memory.speed"])

    _killed_for_memory(vm, owner)

    vm.power_off()
    vm.start([PROFILE_ON])  # the owner has been in the BIOS setup
    assert vm.shell("cat /proc/sys/vm/swappiness") == "7", "it has to survive a reboot"
    assert owner.audit() == (0, [])
