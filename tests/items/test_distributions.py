"""Each distribution that llamarig meets is served, or refused once and in words.

By facts that were recorded, or written from documentation where no such system could be had (facts/data/README.md).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from llamarig import declare as d
from llamarig.declare.host_policy import NvidiaDriver
from llamarig.declare.rig import Rig
from llamarig.engine.item import Difference, Item, Query, Seen, query
from llamarig.facts.cuda_toolkits import ToolkitVersions
from llamarig.facts.gpus import Gpus
from llamarig.facts.nvidia_packages import DriverState, NvidiaPackages
from llamarig.facts.platform import HostPlatform
from llamarig.items.declarations import WorkableDeclarations
from llamarig.items.driver_steps import queried_packages
from llamarig.items.graphics_cards import SupportedCards
from llamarig.items.nvidia_driver import NvidiaDriverInstalled
from llamarig.items.packages import Packages
from pyinfra.facts.files import File

from tests.items.converged_box import control_machine
from tests.placement.cuda_rig import rig as cuda_rig

DATA = Path(__file__).parents[1] / "facts/data"
ITEMS: tuple[Item, ...] = (WorkableDeclarations(), NvidiaDriverInstalled(), Packages(), SupportedCards())
MANAGERS = {"debian": "/usr/bin/apt-get", "arch": "/usr/bin/pacman", "fedora": "/usr/bin/dnf"}


@dataclass(frozen=True)
class Distribution:
    """``manager``: family of its packages; ``step``: what a deploy does about a declared driver; or its refusal."""

    file: str
    manager: str
    step: str = ""
    refusal: str = ""
    series: str | None = None
    changes: tuple[tuple[str, Any], ...] = ()
    """What the captured box lacks, since it is a root without a kernel or a card."""


CUDA_12 = "/usr/local/cuda-12.9"
ON_A_CARD = (("cards", 1), ("kernels", ("amd64",)))
OPEN_TOO = (*ON_A_CARD, ("offered", {"libnvidia-compute-580": "580.95-0u", "nvidia-dkms-580-open": "580.95-0u"}))
DISTRIBUTIONS = {
    "wsl2": Distribution("documented/NvidiaPackages.wsl2", "debian", refusal="this box is WSL2", series="580"),
    "proxmox": Distribution("documented/NvidiaPackages.proxmox", "debian", "proxmox-default-headers"),
    "cachyos": Distribution("documented/NvidiaPackages.cachyos_prebuilt", "arch"),
    "manjaro": Distribution("documented/NvidiaPackages.manjaro", "arch"),
    "ubuntu 26.04": Distribution(
        "answers/NvidiaPackages.ubuntu_26_04", "debian", "nvidia-dkms-580-open", series="580", changes=OPEN_TOO
    ),
    "debian testing": Distribution(
        "answers/NvidiaPackages.debian_testing", "debian", "reading the distribution's package lists", changes=ON_A_CARD
    ),
    "fedora": Distribution("documented/NvidiaPackages.fedora", "fedora", refusal="neither Debian, Ubuntu nor Arch"),
}


def state_of(of: Distribution) -> DriverState:
    found = NvidiaPackages().process((DATA / f"{of.file}.txt").read_text().splitlines())
    return replace(found, **dict(of.changes))


def differences(of: Distribution, *, driver: NvidiaDriver | None, backend: str = "cuda") -> list[Difference]:
    """What a deploy of these items says first, without what follows from it."""
    # CUDA 13 does not run on the driver of Debian, which is no question of this test.
    toolkit: dict[str, Any] = {"cuda_toolkit": CUDA_12} if of.manager == "debian" else {}
    declared = cuda_rig({"placement": {"kind": "all-on-gpu"}}, backend=backend)
    builds = [build.model_copy(update=toolkit) if backend == "cuda" else build for build in declared.builds]
    rig = Rig.model_validate(
        declared.model_copy(update={"builds": tuple(builds), "host": d.host_policy(nvidia_driver=driver)}).to_json()
    )
    here = control_machine(rig, locked=None)
    values: dict[Query[Any], Any] = {}
    for item in ITEMS:
        values |= {each: each.fact().default() for each in item.queries(rig, here)}
    values[query(ToolkitVersions, paths=[CUDA_12])] = {CUDA_12: (12, 9)}
    if query(Gpus) in values:
        wsl = ["== wsl", "yes"] if state_of(of).wsl else []
        values[query(Gpus)] = Gpus().process(["== nvidia", "none", *wsl])
    if driver is not None:
        values[query(NvidiaPackages, packages=queried_packages(driver))] = state_of(of)
    for family, path in MANAGERS.items():
        values[query(File, path=path)] = {"mode": 755} if family == of.manager else None
    found: dict[str, list[Difference]] = {}
    for item in ITEMS:
        waits = any(found.get(need.name) for need in item.needs)
        found[item.name] = [] if waits else item.differences(rig, Seen("box", here, values))
    return [each for several in found.values() for each in several]


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_a_declared_driver_is_served_or_refused_once(name: str) -> None:
    of = DISTRIBUTIONS[name]
    found = differences(of, driver=NvidiaDriver(series=of.series))
    refusals = [one.refusal for one in found if not one.by_deploy]
    steps = [str(one) for one in found if one.what == NvidiaDriverInstalled.name]
    if of.refusal:
        (refusal,) = refusals
        assert of.refusal in refusal
    else:
        assert refusals == []
        assert [of.step in step for step in steps] == [True] * bool(of.step)


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_without_a_declared_driver_only_wsl2_is_refused(name: str) -> None:
    refusals = [one.refusal for one in differences(DISTRIBUTIONS[name], driver=None) if not one.by_deploy]
    assert len(refusals) == (name == "wsl2"), refusals


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_each_serves_from_its_processor(name: str) -> None:
    found = differences(DISTRIBUTIONS[name], driver=None, backend="cpu")
    assert [one.what for one in found] == ["packages"], "to be installed by its own package manager"
    assert all(one.by_deploy for one in found)


def test_debian_testing_has_the_proprietary_module_alone() -> None:
    """In November 2026. The step before reads its package lists again."""
    of = DISTRIBUTIONS["debian testing"]
    assert "nvidia-open-kernel-dkms" not in state_of(of).offered
    (found,) = [
        one
        for one in differences(of, driver=NvidiaDriver(kernel_module="proprietary"))
        if one.what == NvidiaDriverInstalled.name
    ]
    assert "installing nvidia-kernel-dkms, libcuda1" in str(found)


@pytest.mark.parametrize(("name", "system"), [("ubuntu_26_04", "Ubuntu 26.04 LTS"), ("debian_testing", "forky/sid")])
def test_new_c_libraries_are_read(name: str, system: str) -> None:
    found = HostPlatform().process((DATA / f"answers/HostPlatform.{name}.txt").read_text().splitlines())
    assert found.glibc == "2.43"
    assert system in found.system
