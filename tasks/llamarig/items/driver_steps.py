"""The NVIDIA driver from the distribution's packages: their names, and the next step of its installation."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from llamarig.declare.build import Build
from llamarig.declare.host_policy import NvidiaDriver
from llamarig.facts.cuda_toolkits import Version
from llamarig.facts.gpus import WSL
from llamarig.facts.nvidia_packages import DriverState, Family
from llamarig.items.cuda_support import oldest_driver, toolkit_version

CudaBuilds = list[tuple[Build, Version]]
"""Builds whose CUDA toolkit's version is known, with that version."""


@dataclass(frozen=True)
class Step:
    """One step of the installation. ``refuse`` ends it with an error, ``wait`` until the owner restarts the box."""

    kind: Literal["refuse", "components", "refresh", "install", "hold", "load", "reboot", "wait"]
    names: tuple[str, ...] = ()
    """Names of packages; for ``components``, of components of Debian's archive."""
    message: str = ""


DEBIAN_COMPONENTS = ("contrib", "non-free", "non-free-firmware")
"""Debian's components with the driver: kernel module in contrib, libraries in non-free, firmware in the last."""


def packages(
    driver: NvidiaDriver, family: Family, kernels: Iterable[str] = (), module_package: str = "", utils: str = ""
) -> tuple[str, ...]:
    """What compute needs: the module's source for DKMS, headers of the kernels, CUDA and NVML libraries, nvidia-smi.

    DKMS builds the module for every new kernel, so the driver can be held while kernels are upgraded. Prebuilt modules
    have to follow each kernel. Where one is installed, it is kept.

    :param module_package: the installed package with the module
    :param utils: the installed package of Arch or a relative with the libraries
    """
    is_open = driver.kernel_module == "open"
    if family == "debian":
        module = "nvidia-open-kernel-dkms" if is_open else "nvidia-kernel-dkms"
        # With the kernels, since the archive may no longer have the headers of an installed, older kernel.
        kernel_packages = [
            f"linux-{part}-{kernel}" for kernel in kernels if kernel != "pve" for part in ("headers", "image")
        ]
        if "pve" in kernels:
            kernel_packages.append("proxmox-default-headers")
        return (module, "libcuda1", "nvidia-smi", "nvidia-persistenced", *kernel_packages)
    if family == "ubuntu":
        module = f"nvidia-dkms-{driver.series}{'-open' if is_open else ''}"
        prebuilt = f"linux-modules-nvidia-{driver.series}{'-open' if is_open else ''}-"
        if re.match(rf"{prebuilt}(?!open-|server-)", module_package):
            module, kernels = module_package, ()
        libraries = (
            f"{name}-{driver.series}" for name in ("libnvidia-compute", "nvidia-utils", "nvidia-compute-utils")
        )
        return (module, *libraries, *(f"linux-headers-{kernel}" for kernel in kernels))
    module = module_package or "nvidia-open-dkms"
    headers = (f"{kernel}-headers" for kernel in kernels) if is_dkms(module) else ()
    return (module, utils or "nvidia-utils", *headers)


def is_dkms(package: str) -> bool:
    """Whether a package has the source of the module, which DKMS compiles; other packages have it ready."""
    return "dkms" in package


def queried_packages(driver: NvidiaDriver) -> tuple[str, ...]:
    """The packages of all distributions whose offered versions have to be read: with either kind of the module."""
    families: tuple[Family, ...] = ("debian", "ubuntu", "arch") if driver.series else ("debian", "arch")
    kinds = (driver, _with_other_module(driver))
    return tuple(dict.fromkeys(name for kind in kinds for family in families for name in packages(kind, family)))


def _with_other_module(driver: NvidiaDriver) -> NvidiaDriver:
    other = "proprietary" if driver.kernel_module == "open" else "open"
    return driver.model_copy(update={"kernel_module": other})


def next_step(
    driver: NvidiaDriver, state: DriverState, builds: Iterable[Build], toolkits: Mapping[str, Version]
) -> Step | None:
    """The next step; None if the declared driver is installed, held and loaded.

    :param toolkits: versions of the toolkits that builds declare by path
    """
    needs = [(build, version) for build in builds if (version := toolkit_version(build, toolkits)) is not None]
    if state.family is None:
        return _refused(
            "this box is neither Debian, Ubuntu nor Arch: install the driver by hand and leave it undeclared"
        )
    if state.wsl:
        return _refused(f"{WSL}: remove the declaration of nvidia_driver")
    if state.container:
        return _refused("a container runs on its host's driver: declare nvidia_driver for the host, and not here")
    if not state.cards:
        return _refused(
            "nvidia_driver is declared, and this box has no NVIDIA card on its PCI bus: seat the card, or remove the "
            "declaration"
        )
    if state.family == "ubuntu" and driver.series is None:
        return _refused('Ubuntu offers several drivers side by side: name one as series, for example "580-server"')
    if state.family == "arch" and driver.kernel_module == "proprietary" and not state.module_package:
        return _refused(
            "Arch's packages have only the open kernel module; for a GTX 10xx or older install nvidia-580xx-dkms "
            "from the AUR by hand and leave nvidia_driver undeclared"
        )
    if modules := sorted(state.parts & state.broken):
        return _refused(
            f"{', '.join(modules)}: the module does not compile for this box's kernel; the compiler's output is in "
            "/var/lib/dkms/nvidia*/*/build/make.log: install a newer one by hand (from Debian's backports), or remove "
            "the newest kernel and its headers; then `dpkg --configure --pending`, and deploy again"
        )
    wanted = packages(driver, state.family, state.kernels, state.module_package, state.utils_package)
    missing = tuple(name for name in wanted if name not in state.installed)
    if missing:
        return _installation(driver, state, missing, needs)
    if too_old := _too_old(state.library or state.installed[_library(driver, state)], needs, state):
        return _refused(too_old)
    # A module that is not compiled by DKMS, and the libraries with it, have to follow the kernel.
    if is_dkms(wanted[0]) and (loose := tuple(sorted(state.parts - state.held))):
        return Step("hold", loose)
    return _loaded(driver, state)


def _installation(driver: NvidiaDriver, state: DriverState, missing: tuple[str, ...], needs: CudaBuilds) -> Step:
    if state.module and not state.parts:
        return _refused(
            f"driver {state.module} is loaded, and not from this distribution's packages: uninstall it with the tool "
            "that installed it, or leave nvidia_driver undeclared"
        )
    if not state.kernels and not state.has_headers:
        return _refused(
            f"the running kernel {state.running}".rstrip() + " is not of the distribution's own packages, and its "
            "headers are not installed, so the driver's module cannot be built: install the headers from where the "
            "kernel comes from, or start one of the distribution's (linux-image-amd64, linux-generic)"
        )
    if state.secure_boot:
        return _refused(
            "Secure Boot is on, and refuses modules of DKMS until their key is enrolled at the console: switch "
            "it off in the firmware, or install the driver by hand (mokutil --import) and leave it undeclared"
        )
    if state.family == "debian" and (more := tuple(name for name in DEBIAN_COMPONENTS if name not in state.components)):
        return Step("components", more)
    library = _library(driver, state)
    offered = state.offered.get(library) or state.installed.get(library, "")
    if not offered:
        return Step("refresh", message=f"this distribution's packages have no driver {driver.series or ''}".rstrip())
    if (lacking := _module_not_offered(driver, state, missing)) is not None:
        return lacking
    if driver.series and upstream_version(offered).partition(".")[0] != driver.series.removesuffix("-server"):
        return _refused(
            f"this distribution offers driver {upstream_version(offered)}, declared is series {driver.series}: declare "
            "what it offers, or leave series out"
        )
    if too_old := _too_old(offered, needs, state):
        return _refused(too_old)
    return Step("install", missing)


def _module_not_offered(driver: NvidiaDriver, state: DriverState, missing: tuple[str, ...]) -> Step | None:
    """Where the distribution has the libraries and not this kind of the module, as Debian testing of November 2026."""
    module = packages(driver, state.family or "debian")[0]
    if state.family == "arch" or module not in missing or module in state.offered:
        return None
    other = _with_other_module(driver)
    offers_other = packages(other, state.family or "debian")[0] in state.offered
    declare = f'declare kernel_module="{other.kernel_module}", which it has'
    limits = "needs the open one" if driver.kernel_module == "open" else "needs the proprietary one"
    kind = "an RTX 50xx" if driver.kernel_module == "open" else "a GTX 10xx or older"
    remedy = f"{declare} ({kind} {limits}), or " if offers_other else ""
    return Step(
        "refresh",
        message=f"this distribution's packages have no {module}: {remedy}install the driver by hand and leave "
        "nvidia_driver undeclared",
    )


def _loaded(driver: NvidiaDriver, state: DriverState) -> Step | None:
    if state.module and state.module == (state.library or state.module):
        return None
    if not state.module and not _was_restarted(state):
        # The module can be loaded without a restart unless nouveau is loaded.
        return Step("load", message=_restart(driver, "the NVIDIA driver is installed, but its module is not loaded"))
    if not state.module:
        return _refused(
            "the NVIDIA driver is installed, the box has been restarted since, and its module does not load: look at "
            "`dkms status`, `modprobe nvidia` and `dmesg`; an RTX 50xx needs kernel_module open, a GTX 10xx proprietary"
        )
    differ = f"kernel module {state.module} is loaded, but the library is {state.library}, so CUDA cannot start"
    return Step("reboot" if driver.reboot else "wait", message=_restart(driver, differ))


def load_record(state: DriverState) -> str:
    """What is recorded before the module is loaded: the boot, and the driver's packages with their versions.

    Identities, because a clock that was wrong while the packages were installed would restart the box again and again.
    """
    packages = "\n".join(f"{name} {state.installed.get(name, '')}" for name in sorted(state.parts))
    return f"{state.boot} {hashlib.sha256(packages.encode()).hexdigest()}"


def _was_restarted(state: DriverState) -> bool:
    """Whether a deploy tried to load the module of these packages, and the box has been restarted since."""
    boot, _, packages = load_record(state).partition(" ")
    tried_in, _, tried = state.load_tried.partition(" ")
    return tried == packages and tried_in != boot


def after_load(driver: NvidiaDriver, step: Step) -> Step:
    """The step to take if the module could not be loaded into the running kernel."""
    return Step("reboot" if driver.reboot else "wait", message=step.message)


def _restart(driver: NvidiaDriver, why: str) -> str:
    if driver.reboot:
        return f"{why}: restarting the box"
    return f"reboot needed: {why}. Restart the box and deploy again, or declare nvidia_driver(reboot=True)"


def upstream_version(version: str) -> str:
    """The driver's version in a package's: 550.163.01 of ``550.163.01-2~bpo``. An epoch before it is dropped."""
    found = re.search(r"(?:^|:)(\d+(?:\.\d+)+)", version)
    return found[1] if found else version


def _library(driver: NvidiaDriver, state: DriverState) -> str:
    arch = state.utils_package or "nvidia-utils"
    names = {"debian": "libcuda1", "ubuntu": f"libnvidia-compute-{driver.series}", "arch": arch}
    return names[state.family or "debian"]


def _too_old(version: str, needs: CudaBuilds, state: DriverState) -> str | None:
    number = upstream_version(version).partition(".")[0]
    for build, toolkit in needs:
        needed = oldest_driver(toolkit)
        if number.isdigit() and int(number) < needed:
            return (
                f"build {build.name}: CUDA {toolkit[0]}.{toolkit[1]} needs driver {needed} or newer, and this "
                f"distribution's is {upstream_version(version)}: {_newer(state)}"
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
