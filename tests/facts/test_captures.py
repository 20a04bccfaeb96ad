"""What real boxes answered, read back: each fact's numbers against what its capture says."""

from __future__ import annotations

from pathlib import Path

from tasks.facts.gpu_health import GpuHealth
from tasks.facts.machine import MachineState
from tasks.facts.measured import MemoryBandwidthMeasured, ReadSpeedMeasured
from tasks.facts.strays import LlamaStrays
from tasks.planning.checks.box import Gpu, Gpus

DATA = Path(__file__).parent / "data"


def lines(name: str) -> list[str]:
    return (DATA / name).read_text().splitlines()


def test_an_h200_as_its_driver_tells_it() -> None:
    assert GpuHealth().process(lines("gpu/h200_idle.txt")) == Gpus(
        cards=(
            Gpu(
                name="NVIDIA H200",
                uuid="GPU-00551929-39d2-ddb6-ba19-8718bf192e1b",
                bus_id="00000000:00:06.0",
                memory_mib=143771,
                free_mib=143156,
                display=False,
                persistence=True,
                power_limit_w=700.0,
                power_default_w=700.0,
                pcie_gen=5,
                pcie_gen_max=5,
                pcie_width=16,
                pcie_width_max=16,
                pstate="P0",
                throttle=1,
                ecc_errors=0,
            ),
        ),
        module="580.159.04",
        library="580.159.04",
    )


def test_a_driver_upgraded_under_a_loaded_module() -> None:
    """nvidia-smi's words for it; no card of ours was ever in that state."""
    said = [
        *("== nvidia", "Failed to initialize NVML: Driver/library version mismatch", "NVML library version: 580.95"),
        *("== module", "570.86.10"),
    ]
    found = GpuHealth().process(said)
    assert (found.cards, found.module, found.library) == ((), "570.86.10", "580.95")
    assert found.why_not.startswith("Failed to initialize NVML")


def test_a_consumer_card_without_ecc() -> None:
    """The H200's line with what a GeForce answers in those places."""
    text = (DATA / "gpu/h200_idle.txt").read_text().replace("0x0000000000000001, 0", "[N/A], [N/A]")
    (card,) = GpuHealth().process(text.splitlines()).cards
    assert (card.throttle, card.ecc_errors) == (None, None)


def test_an_amd_card_by_the_kernels_own_files() -> None:
    """Put together from the kernel's documentation of amdgpu's sysfs files: there was no such card to ask."""
    said = ["== amd", "0000:0c:00.0||21458059264|1073741824|16.0 GT/s PCIe|16.0 GT/s PCIe|8|16|300000000|315000000"]
    (card,) = GpuHealth().process(said).cards
    assert (card.memory_mib, card.free_mib, card.pcie_gen, card.pcie_width, card.pcie_width_max) == (
        20464,
        19440,
        4,
        8,
        16,
    )
    assert (card.power_limit_w, card.power_default_w) == (300, 315)


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


def test_measurements() -> None:
    assert MemoryBandwidthMeasured().process(["bytes 61471719424 seconds 2.0"]) == 30.735859712
    fast = "2147483648 bytes (2.1 GB, 2.0 GiB) copied, 1.04 s, 2.1 GB/s"
    assert round(ReadSpeedMeasured().process([fast]) or 0) == 2065
    too_small = "5242880 bytes (5.2 MB, 5.0 MiB) copied, 0.01 s, 500 MB/s"
    assert ReadSpeedMeasured().process([too_small]) is None
