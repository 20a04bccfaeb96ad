"""NVIDIA driver packages, read from output of package managers.

Debian's is from a test box after the driver was installed, with a stand-in for the GPU on the PCI bus: the open module
550.163.01-2 of Debian 13 does not compile for its kernel 6.12.117 (nv-pci.c: too few arguments to pci_resize_resource).
Arch's is written by pacman's manual, because no Arch box was available.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from llamarig.declare.host_policy import NvidiaDriver
from llamarig.facts.nvidia_packages import DriverState, NvidiaPackages
from llamarig.items.driver_steps import next_step

DATA = Path(__file__).parent / "data/driver"
ARCH = (DATA.parent / "documented/NvidiaPackages.arch.txt").read_text().splitlines()


def test_a_module_that_does_not_compile_on_debian_is_reported_as_broken() -> None:
    state = NvidiaPackages().process((DATA / "debian13_module_does_not_compile.txt").read_text().splitlines())
    assert (state.family, state.release, state.kernels) == ("debian", "trixie", ("amd64",))
    assert (state.module, state.library) == ("", "550.163.01")
    assert state.broken == {"nvidia-open-kernel-dkms"}
    assert {"libcuda1", "nvidia-smi", "nvidia-open-kernel-dkms", "firmware-nvidia-gsp"} <= state.parts
    assert not {"nvidia-persistenced", "linux-image-amd64"} & state.parts
    assert state.installed["libcuda1"] == state.offered["libcuda1"] == "550.163.01-2"
    assert state.components == {"main", "contrib", "non-free", "non-free-firmware"}
    # The stand-in for the GPU had been removed before the capture.
    step = next_step(NvidiaDriver(), replace(state, cards=1), [], {})
    assert step is not None
    assert step.kind == "refuse"
    assert "nvidia-open-kernel-dkms: the module does not compile for this box's kernel" in step.message


def test_output_of_arch_is_parsed() -> None:
    assert NvidiaPackages().process(ARCH) == DriverState(
        family="arch",
        cards=1,
        kernels=("linux-cachyos",),
        installed={
            "linux-cachyos-headers": "6.17.8-2",
            "nvidia-open-dkms": "590.48.01-1",
            "nvidia-utils": "590.48.01-1",
        },
        parts=frozenset({"nvidia-open-dkms", "nvidia-utils"}),
        held=frozenset({"nvidia-utils"}),
        offered={"nvidia-utils": "590.48.01-1"},
        boot="0b7c1a2e-33a5-4c0e-9d53-8f6a0d8a0f11",
    )


@given(st.lists(st.text() | st.sampled_from(ARCH).flatmap(lambda line: st.text().map(line.__add__))))
def test_garbage_does_not_raise(output: list[str]) -> None:
    assert isinstance(NvidiaPackages().process(output), DriverState)
