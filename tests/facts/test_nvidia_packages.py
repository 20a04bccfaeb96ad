"""NVIDIA driver packages, read from output of package managers.

Debian's is from a test box after the driver was installed, with a stand-in for the GPU on the PCI bus: the open module
550.163.01-2 of Debian 13 does not compile for its kernel 6.12.117 (nv-pci.c: too few arguments to pci_resize_resource).
Arch's is written by pacman's manual, because no Arch box was available.
"""

from __future__ import annotations

import os
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from llamarig.declare.host_policy import NvidiaDriver
from llamarig.facts.nvidia_packages import DriverState, NvidiaPackages
from llamarig.items.driver_steps import Step, next_step

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


def documented(name: str) -> DriverState:
    file = DATA.parent / f"documented/NvidiaPackages.{name}.txt"
    return NvidiaPackages().process(file.read_text().splitlines())


def next_of(state: DriverState, **driver: Any) -> Step | None:
    return next_step(NvidiaDriver(**driver), state, [], {})


def test_a_module_of_arch_s_relatives_counts_as_the_driver() -> None:
    cachyos = documented("cachyos_prebuilt")
    assert cachyos.module_package == "linux-cachyos-nvidia-open"
    assert next_of(cachyos) is None
    manjaro = documented("manjaro")
    assert (manjaro.module_package, manjaro.kernels) == ("linux618-nvidia", ("linux618",))
    assert next_of(manjaro) is None


PACMAN = """#!/bin/sh
# pacman in the format of its version 7: no Arch box was available.
case "$*" in
-Qq) printf '%s\\n' bash lib32-nvidia-580xx-utils nvidia-580xx-dkms nvidia-580xx-utils ;;
-Qi*)
    printf 'Name            : nvidia-580xx-dkms\\nProvides        : NVIDIA-MODULE  nvidia-dkms=580.105.08\\n'
    printf 'Name            : nvidia-580xx-utils\\nProvides        : vulkan-driver  nvidia-utils=580.105.08\\n'
    printf 'Name            : lib32-nvidia-580xx-utils\\nProvides        : lib32-nvidia-utils=580.105.08\\n' ;;
esac
"""


def test_what_packages_provide_is_read(tmp_path: Path) -> None:
    program = tmp_path / "pacman"
    program.write_text(PACMAN)
    program.chmod(0o755)
    path = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    command = ["sh", "-c", NvidiaPackages().command(["nvidia-utils"])]
    output = subprocess.run(command, env=path, stdout=subprocess.PIPE, text=True, check=True).stdout.splitlines()
    state = NvidiaPackages().process(["== os", "ID=arch", *output[output.index("== container") :]])
    assert (state.module_package, state.utils_package) == ("nvidia-580xx-dkms", "nvidia-580xx-utils")


def test_a_driver_from_the_aur_keeps_its_libraries_and_its_headers() -> None:
    legacy = replace(
        documented("cachyos_prebuilt"),
        installed={"nvidia-580xx-dkms": "580.105.08-1", "nvidia-580xx-utils": "580.105.08-1"},
        module_package="nvidia-580xx-dkms",
        utils_package="nvidia-580xx-utils",
    )
    assert next_of(legacy, kernel_module="proprietary") == Step("install", ("linux-cachyos-headers",))


def test_proxmox_gets_the_headers_of_its_own_kernel() -> None:
    proxmox = documented("proxmox")
    assert (proxmox.kernels, proxmox.running) == (("pve",), "6.17.4-1-pve")
    step = next_of(proxmox)
    assert step is not None
    assert step.kind == "install"
    assert "proxmox-default-headers" in step.names
    assert not any(name.startswith("linux-") for name in step.names)


def test_a_kernel_from_elsewhere_needs_its_own_headers() -> None:
    liquorix = replace(documented("proxmox"), kernels=(), running="6.17.4-1-liquorix-amd64")
    step = next_of(liquorix)
    assert step is not None
    assert step.kind == "refuse"
    assert "the running kernel 6.17.4-1-liquorix-amd64 is not of the distribution's own packages" in step.message
    ready = next_of(replace(liquorix, has_headers=True))
    assert ready is not None
    assert ready.kind == "install"


def test_ubuntu_26_04_is_ubuntu() -> None:
    output = (DATA.parent / "answers/NvidiaPackages.ubuntu_26_04.txt").read_text().splitlines()
    state = NvidiaPackages().process(output)
    assert (state.family, state.release, state.container) == ("ubuntu", "resolute", False)
    assert state.boot


def test_wsl2_is_refused() -> None:
    step = next_of(documented("wsl2"), series="580")
    assert step is not None
    assert step.kind == "refuse"
    assert "this box is WSL2" in step.message


def test_a_ready_module_of_ubuntu_counts_as_the_driver_and_is_not_held() -> None:
    names = ("libnvidia-compute-580", "nvidia-utils-580", "nvidia-compute-utils-580")
    state = DriverState(
        family="ubuntu",
        cards=1,
        kernels=("generic",),
        module="580.95.05",
        library="580.95.05",
        installed=dict.fromkeys(("linux-modules-nvidia-580-open-generic", *names), "580.95.05-0ubuntu1"),
        parts=frozenset(names),
        module_package="linux-modules-nvidia-580-open-generic",
    )
    assert next_of(state, series="580") is None
    # Of the other kind, or of another series, it does not.
    for driver in ({"series": "580", "kernel_module": "proprietary"}, {"series": "570"}):
        step = next_of(state, **driver)
        assert step is not None
        assert step.kind in ("install", "refresh")


@given(st.lists(st.text() | st.sampled_from(ARCH).flatmap(lambda line: st.text().map(line.__add__))))
def test_garbage_does_not_raise(output: list[str]) -> None:
    assert isinstance(NvidiaPackages().process(output), DriverState)
