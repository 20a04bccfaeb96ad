"""The NVIDIA driver on a fresh box: each state of a box has one next step, and a converged box has none.

Package names and versions are those of the distributions' indexes in November 2026;
tests/box/test_nvidia_driver.py checks Debian's current index.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from llamarig.declare.build import Build
from llamarig.declare.host_policy import NvidiaDriver
from llamarig.facts.nvidia_packages import DriverState
from llamarig.items.driver_steps import Step, load_record, next_step, packages, queried_packages, upstream_version

CUDA_12 = Build(name="cuda", architectures=("89-real",), cuda_toolkit="/usr")
CUDA_13 = Build(name="cuda", architectures=("89-real",), cuda_toolkit="13.0")
TOOLKITS = {"/usr": (12, 4)}
DEBIAN_13 = "550.163.01-2"
FRESH = DriverState(
    family="debian",
    release="trixie",
    cards=1,
    kernels=("amd64",),
    installed={"linux-image-amd64": "6.12.48-1"},
    components=frozenset({"main", "non-free-firmware"}),
    boot="now",
)
ENABLED = replace(
    FRESH,
    components=frozenset({"main", "contrib", "non-free", "non-free-firmware"}),
    offered=dict.fromkeys(("libcuda1", "nvidia-open-kernel-dkms", "nvidia-kernel-dkms"), DEBIAN_13),
)
PARTS = ("nvidia-open-kernel-dkms", "libcuda1", "nvidia-smi", "nvidia-alternative")
INSTALLED = replace(
    ENABLED,
    installed={
        **dict.fromkeys(PARTS, DEBIAN_13),
        "nvidia-persistenced": "550.163.01-1",
        "linux-image-amd64": "6.12.48-1",
        "linux-headers-amd64": "6.12.48-1",
    },
    parts=frozenset(PARTS),
    library="550.163.01",
)
HELD = replace(INSTALLED, held=frozenset({*PARTS, "another"}))
LOADED = replace(HELD, module="550.163.01")
RESTARTED = replace(HELD, load_tried=load_record(replace(HELD, boot="before")))
UBUNTU = DriverState(
    family="ubuntu",
    release="noble",
    cards=1,
    kernels=("generic-hwe-24.04",),
    offered=dict.fromkeys(("libnvidia-compute-580", "nvidia-dkms-580-open"), "580.178.04-0ubuntu0.24.04.1"),
)
SERIES_580 = NvidiaDriver(series="580")


def step(state: DriverState, build: Build = CUDA_12, **driver: Any) -> Step:
    found = next_step(NvidiaDriver(**driver), state, [build], TOOLKITS)
    assert found is not None
    return found


def test_a_fresh_debian_goes_step_by_step() -> None:
    assert step(FRESH) == Step("components", ("contrib", "non-free"))
    assert step(ENABLED) == Step(
        "install",
        ("nvidia-open-kernel-dkms", "libcuda1", "nvidia-smi", "nvidia-persistenced", "linux-headers-amd64"),
    )
    assert step(INSTALLED) == Step("hold", tuple(sorted(PARTS)))
    assert step(HELD).kind == "load"
    assert next_step(NvidiaDriver(), LOADED, [CUDA_12], TOOLKITS) is None


def test_kernels_and_persistenced_are_not_held() -> None:
    """DKMS builds the held module for each new kernel, and persistenced works with any driver version."""
    assert not {"linux-image-amd64", "linux-headers-amd64", "nvidia-persistenced"} & set(step(INSTALLED).names)


def test_the_proprietary_module_is_installed_if_declared() -> None:
    assert step(ENABLED, kernel_module="proprietary").names[0] == "nvidia-kernel-dkms"


def test_module_and_library_of_two_versions_need_a_reboot() -> None:
    split = replace(LOADED, module="550.127.05")
    assert step(split).kind == "wait"
    assert step(split).message.startswith(
        "reboot needed: kernel module 550.127.05 is loaded, but the library is 550.163.01"
    )
    assert "nvidia_driver(reboot=True)" in step(split).message
    assert step(split, reboot=True).kind == "reboot"


def test_the_same_boot_and_other_packages_are_no_restart() -> None:
    """Whatever the clock was when they were installed."""
    for tried in (load_record(HELD), load_record(replace(INSTALLED, installed={}, boot="before")), "", "before "):
        assert step(replace(HELD, load_tried=tried), reboot=True).kind == "load"


def test_a_module_that_does_not_load_restarts_no_box_twice() -> None:
    refused = step(RESTARTED, reboot=True)
    assert refused.kind == "refuse"
    assert "the box has been restarted since, and its module does not load" in refused.message


@pytest.mark.parametrize("state", [ENABLED, LOADED], ids=["offered", "installed"])
def test_a_driver_too_old_for_the_toolkit_is_refused(state: DriverState) -> None:
    refused = step(state, CUDA_13)
    assert refused.kind == "refuse"
    assert "CUDA 13.0 needs driver 580 or newer, and this distribution's is 550.163.01" in refused.message
    assert "install a CUDA 12 toolkit on the box and declare its path as cuda_toolkit" in refused.message


@pytest.mark.parametrize(
    ("state", "driver", "words"),
    [
        (DriverState(), {}, "neither Debian, Ubuntu nor Arch"),
        (replace(FRESH, container=True), {}, "a container runs on its host's driver"),
        (replace(FRESH, cards=0), {}, "no NVIDIA card on its PCI bus"),
        (replace(ENABLED, kernels=()), {}, "the running kernel is not of the distribution's own packages"),
        (replace(ENABLED, secure_boot=True), {}, "Secure Boot is on"),
        (replace(ENABLED, module="580.95.05"), {}, "580.95.05 is loaded, and not from this distribution's packages"),
        (ENABLED, {"series": "580"}, "offers driver 550.163.01, declared is series 580"),
        (
            replace(INSTALLED, broken=frozenset({"nvidia-open-kernel-dkms"})),
            {},
            "nvidia-open-kernel-dkms: the module does not compile for this box's kernel",
        ),
        (UBUNTU, {}, 'name one as series, for example "580-server"'),
        (replace(FRESH, family="arch"), {"kernel_module": "proprietary"}, "nvidia-580xx-dkms"),
    ],
)
def test_what_cannot_be_installed_is_refused_with_the_remedy(
    state: DriverState, driver: dict[str, Any], words: str
) -> None:
    refused = step(state, **driver)
    assert refused.kind == "refuse"
    assert words in refused.message


def test_package_lists_are_refreshed_once_for_a_missing_driver() -> None:
    assert step(replace(UBUNTU, offered={}), series="580").kind == "refresh"


def test_a_kind_of_the_module_that_the_distribution_does_not_have() -> None:
    """Refreshed once, and then refused with this message."""
    proprietary = replace(ENABLED, offered=dict.fromkeys(("libcuda1", "nvidia-kernel-dkms"), DEBIAN_13))
    refused = step(proprietary)
    assert refused.kind == "refresh"
    assert "have no nvidia-open-kernel-dkms: declare kernel_module=" in refused.message
    assert "(an RTX 50xx needs the open one)" in refused.message
    assert step(proprietary, kernel_module="proprietary").kind == "install"
    neither = step(replace(ENABLED, offered={"libcuda1": DEBIAN_13}))
    assert "have no nvidia-open-kernel-dkms: install the driver by hand" in neither.message


def test_packages_of_ubuntu() -> None:
    assert step(UBUNTU, CUDA_13, series="580").names == (
        "nvidia-dkms-580-open",
        "libnvidia-compute-580",
        "nvidia-utils-580",
        "nvidia-compute-utils-580",
        "linux-headers-generic-hwe-24.04",
    )
    server = packages(NvidiaDriver(series="580-server", kernel_module="proprietary"), "ubuntu")
    assert server[:2] == ("nvidia-dkms-580-server", "libnvidia-compute-580-server")


def test_packages_of_arch() -> None:
    state = DriverState(
        family="arch",
        cards=1,
        kernels=("linux-lts",),
        installed={"linux-lts-headers": "6.12"},
        offered={"nvidia-utils": "590.48.01-1"},
    )
    assert step(state, CUDA_13).names == ("nvidia-open-dkms", "nvidia-utils")


def test_every_package_name_that_may_be_needed_is_queried() -> None:
    assert {"libcuda1", "nvidia-utils", "libnvidia-compute-580"} <= set(queried_packages(SERIES_580))
    assert not [name for name in queried_packages(NvidiaDriver()) if "None" in name]


@pytest.mark.parametrize(
    ("version", "driver"),
    [("550.163.01-4~bpo13+1", "550.163.01"), ("1:580.95.05-1", "580.95.05"), ("590.48.01-1", "590.48.01"), ("x", "x")],
)
def test_the_driver_version_is_read_from_a_package_version(version: str, driver: str) -> None:
    assert upstream_version(version) == driver
