"""The NVIDIA driver on a fresh box: what its distribution calls it, and what is the next thing to do about it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from tasks.planning.gpus import Version, oldest_driver, toolkit_version
from tasks.spec.build import Build
from tasks.spec.host_policy import NvidiaDriver

Family = Literal["debian", "ubuntu", "arch"]
Needs = list[tuple[Build, Version]]
"""Builds with the version of their CUDA toolkit, where it is known."""


@dataclass(frozen=True)
class DriverState:
    """What a box says of its NVIDIA driver and of the packages it could be installed from; nothing of it is asked of a
    mirror. Versions are empty where there is none; times are seconds since the epoch.
    """

    family: Family | None = None
    release: str = ""
    """The distribution's code name: trixie."""
    container: bool = False
    cards: int = 0
    """NVIDIA cards on the PCI bus, whatever their driver."""
    kernels: tuple[str, ...] = ()
    """Debian, Ubuntu: ends of the installed linux-image meta packages (``amd64``, ``generic-hwe-24.04``).
    Arch: the running kernel's package (``linux-lts``)."""
    module: str = ""
    """Version of the loaded kernel module."""
    library: str = ""
    """Version of libcuda.so.1, the module's other half."""
    installed: Mapping[str, str] = field(default_factory=dict)
    """Package -> version, of the driver's packages and the kernels'."""
    parts: frozenset[str] = frozenset()
    """Of those, what the driver's own source makes: module and libraries, which are upgraded together or not at all."""
    broken: frozenset[str] = frozenset()
    """Packages whose installation broke off while they were set up: the module's, where it does not compile."""
    held: frozenset[str] = frozenset()
    """Packages that an upgrade leaves as they are."""
    offered: Mapping[str, str] = field(default_factory=dict)
    """Package -> version the distribution would install, of those asked for."""
    components: frozenset[str] = frozenset()
    """Of Debian's archive, those its package lists are read from: main, non-free."""
    packages_changed_at: int = 0
    booted_at: int = 0
    secure_boot: bool = False


@dataclass(frozen=True)
class Step:
    """The next thing to do. ``refuse`` and ``wait`` end the work: with a mistake, or until the owner has restarted."""

    kind: Literal["refuse", "components", "refresh", "install", "hold", "load", "reboot", "wait"]
    names: tuple[str, ...] = ()
    """Of packages; for ``components``, of parts of Debian's archive."""
    message: str = ""


DEBIAN_COMPONENTS = ("contrib", "non-free", "non-free-firmware")
"""Where Debian keeps the driver: kernel module in contrib, libraries in non-free, firmware in non-free-firmware."""


def packages(driver: NvidiaDriver, family: Family, kernels: Iterable[str] = ()) -> tuple[str, ...]:
    """What compute needs: the module's source for DKMS, headers of the kernels, CUDA and NVML libraries, nvidia-smi.

    DKMS, not prebuilt modules: it follows every kernel by itself, and so can stand still while kernels move.
    """
    is_open = driver.kernel_module == "open"
    if family == "debian":
        module = "nvidia-open-kernel-dkms" if is_open else "nvidia-kernel-dkms"
        # With their kernels: headers of an older one may be gone from the archive, and DKMS would build nothing.
        kernel_packages = [f"linux-{part}-{kernel}" for kernel in kernels for part in ("headers", "image")]
        return (module, "libcuda1", "nvidia-smi", "nvidia-persistenced", *kernel_packages)
    if family == "ubuntu":
        module = f"nvidia-dkms-{driver.series}{'-open' if is_open else ''}"
        libraries = (
            f"{name}-{driver.series}" for name in ("libnvidia-compute", "nvidia-utils", "nvidia-compute-utils")
        )
        return (module, *libraries, *(f"linux-headers-{kernel}" for kernel in kernels))
    return ("nvidia-open-dkms", "nvidia-utils", *(f"{kernel}-headers" for kernel in kernels))


def asked_for(driver: NvidiaDriver) -> tuple[str, ...]:
    """Every package, of whichever distribution, whose offer has to be known."""
    families: tuple[Family, ...] = ("debian", "ubuntu", "arch") if driver.series else ("debian", "arch")
    return tuple(name for family in families for name in packages(driver, family))


def next_step(
    driver: NvidiaDriver, state: DriverState, builds: Iterable[Build], toolkits: Mapping[str, Version]
) -> Step | None:
    """What is to be done next, None when the declared driver is installed, held and loaded.

    :param toolkits: versions of the toolkits that builds declare by path
    """
    needs = [(build, version) for build in builds if (version := toolkit_version(build, toolkits)) is not None]
    if state.family is None:
        return _refused(
            "this box is neither Debian, Ubuntu nor Arch: install the driver by hand and leave it undeclared"
        )
    if state.container:
        return _refused("a container runs on its host's driver: declare nvidia_driver for the host, and not here")
    if not state.cards:
        return _refused(
            "nvidia_driver is declared, and no NVIDIA card is on this box's PCI bus: seat the card, or remove the line"
        )
    if state.family == "ubuntu" and driver.series is None:
        return _refused('Ubuntu offers several drivers side by side: name one as series, for example "580-server"')
    if state.family == "arch" and driver.kernel_module == "proprietary":
        return _refused(
            "Arch's own packages hold the open kernel module alone; for a GTX 10xx or older install nvidia-580xx-dkms "
            "from the AUR by hand and leave nvidia_driver undeclared"
        )
    if modules := sorted(state.parts & state.broken):
        return _refused(
            f"{', '.join(modules)}: the module does not compile for this box's kernel; the compiler's words are in "
            "/var/lib/dkms/nvidia*/*/build/make.log: install a newer one by hand (from Debian's backports), or remove "
            "the newest kernel and its headers; then `dpkg --configure --pending`, and deploy again"
        )
    wanted = packages(driver, state.family, state.kernels)
    missing = tuple(name for name in wanted if name not in state.installed)
    if missing:
        return _installation(driver, state, missing, needs)
    if too_old := _too_old(state.library or state.installed[_library(driver, state)], needs, state):
        return _refused(too_old)
    if loose := tuple(sorted(state.parts - state.held)):
        return Step("hold", loose)
    return _loaded(driver, state)


def _installation(driver: NvidiaDriver, state: DriverState, missing: tuple[str, ...], needs: Needs) -> Step:
    if state.module and not state.parts:
        return _refused(
            f"driver {state.module} is loaded, and not from this distribution's packages: uninstall it as it was "
            "installed, or leave nvidia_driver undeclared"
        )
    if not state.kernels:
        return _refused(
            "no kernel of the distribution's own packages is installed, so its headers are not known and the driver's "
            "module cannot be built: install one (linux-image-amd64, linux-generic), or the driver by hand"
        )
    if state.secure_boot:
        return _refused(
            "Secure Boot is on, and loads no module that DKMS built until its key is enrolled at the console: switch "
            "it off in the firmware, or install the driver by hand (mokutil --import) and leave it undeclared"
        )
    if state.family == "debian" and (more := tuple(name for name in DEBIAN_COMPONENTS if name not in state.components)):
        return Step("components", more)
    offered = state.offered.get(_library(driver, state), "")
    if not offered:
        return Step("refresh", message=f"no driver {driver.series or ''} is among this distribution's packages")
    if driver.series and upstream(offered).partition(".")[0] != driver.series.removesuffix("-server"):
        return _refused(
            f"this distribution offers driver {upstream(offered)}, declared is series {driver.series}: declare what it "
            "offers, or leave series out"
        )
    if too_old := _too_old(offered, needs, state):
        return _refused(too_old)
    return Step("install", missing)


def _loaded(driver: NvidiaDriver, state: DriverState) -> Step | None:
    if state.module and state.module == (state.library or state.module):
        return None
    fresh = state.packages_changed_at >= state.booted_at
    if not state.module and fresh:
        # Without the distribution's nouveau in the way there is nothing a restart would do better.
        return Step(
            "load", message=_restart(driver, "the NVIDIA driver is installed, and its module is not loaded yet")
        )
    if not state.module:
        return _refused(
            "the NVIDIA driver is installed, the box has been restarted since, and its module does not load: look at "
            "`dkms status`, `modprobe nvidia` and `dmesg`; an RTX 50xx needs kernel_module open, a GTX 10xx proprietary"
        )
    differ = f"kernel module {state.module} is loaded, and the library is {state.library}: CUDA starts no more"
    return Step("reboot" if driver.reboot else "wait", message=_restart(driver, differ))


def after_load(driver: NvidiaDriver, step: Step) -> Step:
    """What follows where the module could not be loaded into the running kernel."""
    return Step("reboot" if driver.reboot else "wait", message=step.message)


def _restart(driver: NvidiaDriver, why: str) -> str:
    if driver.reboot:
        return f"{why}: restarting the box"
    return f"reboot needed: {why}. Restart the box and deploy again, or declare nvidia_driver(reboot=True)"


def upstream(version: str) -> str:
    """``550.163.01-2~bpo`` is driver 550.163.01; an epoch in front of it is the packager's."""
    found = re.search(r"(?:^|:)(\d+(?:\.\d+)+)", version)
    return found[1] if found else version


def _library(driver: NvidiaDriver, state: DriverState) -> str:
    names = {"debian": "libcuda1", "ubuntu": f"libnvidia-compute-{driver.series}", "arch": "nvidia-utils"}
    return names[state.family or "debian"]


def _too_old(version: str, needs: Needs, state: DriverState) -> str | None:
    number = upstream(version).partition(".")[0]
    for build, toolkit in needs:
        needed = oldest_driver(toolkit)
        if number.isdigit() and int(number) < needed:
            return (
                f"build {build.name}: CUDA {toolkit[0]}.{toolkit[1]} needs driver {needed} or newer, and this "
                f"distribution's is {upstream(version)}: {_newer(state)}"
            )
    return None


def _newer(state: DriverState) -> str:
    if state.family == "ubuntu":
        return "declare a newer series"
    path = "/usr (Debian's own nvidia-cuda-toolkit)" if state.family == "debian" else "/usr/local/cuda-12.9"
    return (
        f"install a CUDA 12 toolkit on the box and declare its path as cuda_toolkit, for example {path}; or install a "
        "newer driver by hand and leave nvidia_driver undeclared"
    )


def _refused(message: str) -> Step:
    return Step("refuse", message=message)
