"""What real boxes answered, read back: each fact's numbers against what its capture says."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tasks.facts.files import Ownership
from tasks.facts.machine import MachineState
from tasks.facts.measured import MemoryBandwidthMeasured, ReadSpeedMeasured
from tasks.facts.strays import LlamaStrays

DATA = Path(__file__).parent / "data"


def lines(name: str) -> list[str]:
    return (DATA / name).read_text().splitlines()


def test_the_machine_this_was_written_on() -> None:
    machine = MachineState().process(lines("machine/vm_debian12.txt"))
    assert (machine.swappiness, machine.swappiness_at_boot, machine.swappiness_file) == (60, None, "")
    assert (machine.total_kib, machine.swap_used_kib, machine.huge_pages) == (24684084, 0, "madvise")
    assert (machine.cpus_online, machine.cores) == (frozenset({0, 1}), 2)
    assert (machine.filesystem, machine.unattended_upgrades) == ("ext4", False)


def test_the_last_sysctl_file_wins_and_comments_are_no_files() -> None:
    said = [
        *("== at-boot", "# /etc/sysctl.d/90-llamarig.conf", "vm.swappiness = 10", "# /etc/sysctl.d/99-sysctl.conf"),
        *("# /etc/sysctl.conf - Configuration file for setting system variables", "-vm/swappiness=61"),
    ]
    machine = MachineState().process(said)
    assert (machine.swappiness_at_boot, machine.swappiness_file) == (61, "/etc/sysctl.d/99-sysctl.conf")


def test_the_rehearsal_boxs_own_server() -> None:
    (server,) = LlamaStrays().process(lines("strays/nspawn_debian13.txt")).servers
    assert server.unit == "llamarig-tiny.service"
    assert server.command[0].endswith("/bin/llama-server")
    assert "--no-ui" in server.command
    assert server.listens == ("127.0.0.1:27032",)
    assert server.memlock_limit_kib == 8192


def test_a_box_that_speaks_german_is_asked_in_english() -> None:
    """coreutils 9.1 translates what a directory is: on such a box no directory was ever as declared."""
    german = Ownership().process(lines("answers/Ownership.vm_debian12_german.txt"))
    assert german["/etc"] == "root root 755 Verzeichnis"
    assert Ownership().command(["/etc"]).startswith("LC_ALL=C stat ")


def test_measurements() -> None:
    assert MemoryBandwidthMeasured().process(["bytes 61471719424 seconds 2.0"]) == 30.735859712
    fast = "2147483648 bytes (2.1 GB, 2.0 GiB) copied, 1.04 s, 2.1 GB/s"
    assert round(ReadSpeedMeasured().process([fast]) or 0) == 2065
    too_small = "5242880 bytes (5.2 MB, 5.0 MiB) copied, 0.01 s, 500 MB/s"
    assert ReadSpeedMeasured().process([too_small]) is None


@pytest.mark.skipif(shutil.which("dpkg-query") is None, reason="asks dpkg, which this machine does not have")
@pytest.mark.parametrize(("wish", "held"), [("hold", True), ("install", False)])
def test_a_driver_that_is_held_back_is_seen_in_dpkgs_own_list(tmp_path: Path, wish: str, held: bool) -> None:
    package = f"Package: nvidia-driver\nStatus: {wish} ok installed\nVersion: 580\nArchitecture: all\nMaintainer: x\n"
    (tmp_path / "status").write_text(f"{package}Description: x\n\n")
    (tmp_path / "info").mkdir()
    (tmp_path / "updates").mkdir()
    environment = {"DPKG_ADMINDIR": str(tmp_path), "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
    said = subprocess.run(["sh", "-c", MachineState().command()], env=environment, capture_output=True, text=True)
    assert MachineState().process(said.stdout.splitlines()).driver_held is held
