"""Results of facts for captured output."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from llamarig.facts.files import Ownership
from llamarig.facts.machine import Machine, MachineState
from llamarig.facts.measurements import MemoryBandwidthMeasured, ReadSpeedMeasured
from llamarig.facts.stray_settings import StraySettings

DATA = Path(__file__).parent / "data"


def lines(name: str) -> list[str]:
    return (DATA / name).read_text().splitlines()


def test_state_of_a_debian_12_machine() -> None:
    machine = MachineState().process(lines("machine/vm_debian12.txt"))
    assert (machine.swappiness, machine.swappiness_at_boot, machine.swappiness_file) == (60, None, "")
    assert (machine.total_kib, machine.swap_used_kib, machine.huge_pages) == (24684084, 0, "madvise")
    assert (machine.cpus_online, machine.cores) == (frozenset({0, 1}), 2)
    assert (machine.filesystem, machine.unattended_upgrades) == ("ext4", False)


def test_the_last_sysctl_file_wins_and_comments_in_it_are_not_files() -> None:
    output = [
        *("== at-boot", "# /etc/sysctl.d/90-llamarig.conf", "vm.swappiness = 10", "# /etc/sysctl.d/99-sysctl.conf"),
        *("# /etc/sysctl.conf - Configuration file for setting system variables", "-vm/swappiness=61"),
    ]
    machine = MachineState().process(output)
    assert (machine.swappiness_at_boot, machine.swappiness_file) == (61, "/etc/sysctl.d/99-sysctl.conf")


def test_a_running_server() -> None:
    strays = StraySettings().process(lines("strays/nspawn_debian13.txt"))
    assert (strays.unseen, strays.ports_unseen) == ("", "")
    (server,) = strays.servers
    assert server.unit == "llamarig-tiny.service"
    assert server.command[0].endswith("/bin/llama-server")
    assert "--no-ui" in server.command
    assert server.listens == ("127.0.0.1:23980",)
    assert server.memlock_limit_kib == 8192


def test_a_running_server_without_root() -> None:
    strays = StraySettings().process(lines("strays/nspawn_debian13_without_root.txt"))
    assert strays.servers == ()
    assert "only root" in strays.unseen
    assert "only root" in strays.ports_unseen


def test_the_kind_of_a_file_is_not_translated() -> None:
    """Regression: coreutils 9.1 translates it, so with a German locale every directory was reported as different."""
    german = Ownership().process(lines("answers/Ownership.vm_debian12_german.txt"))
    assert german["/etc"] == "root root 755 Verzeichnis"
    assert Ownership().command(["/etc"]).startswith("LC_ALL=C stat ")


def test_measurements() -> None:
    assert MemoryBandwidthMeasured().process(["bytes 61471719424 seconds 2.0"]) == 30.735859712
    fast = "2147483648 bytes (2.1 GB, 2.0 GiB) copied, 1.04 s, 2.1 GB/s"
    assert round(ReadSpeedMeasured().process([fast]) or 0) == 2065
    too_small = "5242880 bytes (5.2 MB, 5.0 MiB) copied, 0.01 s, 500 MB/s"
    assert ReadSpeedMeasured().process([too_small]) is None


@pytest.mark.skipif(shutil.which("dpkg-query") is None, reason="this machine has no dpkg")
@pytest.mark.parametrize(
    ("package", "source", "want", "packaged", "held"),
    [
        ("libnvidia-compute-580", "nvidia-graphics-drivers-580", "hold", True, True),
        ("nvidia-driver-580-open", "nvidia-graphics-drivers-580", "install", True, False),
        ("nvidia-container-toolkit", "nvidia-container-toolkit", "hold", False, False),
        ("nvidia-settings", "nvidia-settings", "hold", False, False),
    ],
)
def test_a_held_driver_is_read_from_dpkg(
    tmp_path: Path, package: str, source: str, want: str, packaged: bool, held: bool
) -> None:
    fields = f"Package: {package}\nStatus: {want} ok installed\nVersion: 580\nArchitecture: all\nMaintainer: x\n"
    (tmp_path / "status").write_text(f"{fields}Source: {source}\nDescription: x\n\n")
    (tmp_path / "info").mkdir()
    (tmp_path / "updates").mkdir()
    machine = read({"DPKG_ADMINDIR": str(tmp_path)})
    assert (machine.driver_packaged, machine.driver_held) == (packaged, held)


@pytest.mark.parametrize(
    ("periodic", "timer", "upgrades"),
    [
        ('Unattended-Upgrade "1";', "enabled", True),
        ('Unattended-Upgrade "always";', "enabled", True),
        ('Unattended-Upgrade "1";', "disabled", False),
        ('Unattended-Upgrade "0";', "enabled", False),
        ('Enable "0"; Unattended-Upgrade "1";', "enabled", False),
    ],
)
def test_automatic_upgrades_need_setting_and_timer(tmp_path: Path, periodic: str, timer: str, upgrades: bool) -> None:
    """With stand-ins for systemctl and for a package that this machine may not have."""
    for name, output in (("systemctl", timer), ("unattended-upgrade", "")):
        (tmp_path / name).write_text(f"#!/bin/sh\necho {output}\n")
        (tmp_path / name).chmod(0o755)
    (tmp_path / "apt.conf").write_text(f"APT::Periodic {{ {periodic} }};\n")
    machine = read({"PATH": f"{tmp_path}:/usr/bin:/bin", "APT_CONFIG": f"{tmp_path}/apt.conf"})
    assert machine.unattended_upgrades is upgrades


def read(environment: dict[str, str]) -> Machine:
    """State of this machine, by the fact's own command."""
    environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", **environment}
    done = subprocess.run(["sh", "-c", MachineState().command()], env=environment, capture_output=True, text=True)
    return MachineState().process(done.stdout.splitlines())
