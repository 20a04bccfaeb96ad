"""The packages of the distribution that a box needs to serve, and to compile if it builds releases."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pyinfra.facts.deb import DebPackages
from pyinfra.facts.files import File
from pyinfra.facts.pacman import PacmanPackages
from pyinfra.facts.rpm import RpmPackages
from pyinfra.operations import apt, dnf, pacman

from llamarig.declare.rig import Rig
from llamarig.engine.control_machine import ControlMachine
from llamarig.engine.item import Commands, Difference, Item, Query, Seen, query
from llamarig.engine.shared_builds import is_received

_MANAGERS = {"debian": "/usr/bin/apt-get", "arch": "/usr/bin/pacman", "fedora": "/usr/bin/dnf"}
WAIT_FOR_APT = "-o DPkg::Lock::Timeout=600"
"""Seconds that a deploy waits for apt's lock, which unattended upgrades hold now and then."""

FAMILIES = ("debian", "arch", "fedora")
"""Families of distributions, by package manager: apt, pacman, dnf."""

# D-Bus is how `systemd-run --wait` learns that a dry run has ended.
_EVERYWHERE = ("ca-certificates", "curl", "dbus", "dmidecode")
_BASE = {
    "debian": ("iproute2", "procps", "python3", "python3-venv"),
    "arch": ("iproute2", "procps-ng", "python"),
    "fedora": ("iproute", "procps-ng", "python3"),
}
_COMPILERS_EVERYWHERE = ("ccache", "cmake", "git")
_COMPILERS = {
    "debian": ("build-essential", "ninja-build"),
    "arch": ("base-devel", "ninja"),
    "fedora": ("gcc", "gcc-c++", "make", "ninja-build"),
}
# Fedora's are those of its llama-cpp.spec. CUDA toolkits are no packages of the distribution, and ROCm need not be.
_BACKENDS = {
    ("debian", "vulkan"): ("libvulkan-dev", "glslc", "spirv-headers"),
    ("arch", "vulkan"): ("vulkan-headers", "vulkan-icd-loader", "shaderc", "spirv-headers"),
    ("fedora", "vulkan"): ("vulkan-loader-devel", "glslc", "spirv-headers-devel"),
}
_TLS = {"debian": ("libssl-dev",), "arch": ("openssl",), "fedora": ("openssl-devel",)}
"""The libraries themselves are there wherever ca-certificates is, which needs the program openssl."""
# Libraries that a release from another box is linked with. On the box that builds it, the compilers depend on them.
_LIBRARIES = {
    "debian": ("libgomp1", "libstdc++6"),
    "arch": ("gcc-libs",),
    "fedora": ("libgomp", "libstdc++"),
}
_BACKEND_LIBRARIES = {
    ("debian", "vulkan"): ("libvulkan1",),
    ("arch", "vulkan"): ("vulkan-icd-loader",),
    ("fedora", "vulkan"): ("vulkan-loader",),
}
ROCM = {
    "debian": ["hipcc", "libhipblas-dev", "librocblas-dev", "rocminfo"],
    "arch": ["rocm-hip-sdk"],
    "fedora": ["hipcc", "hipblas-devel", "rocblas-devel", "rocm-hip-devel", "rocminfo"],
}
"""For HIP, unless AMD's own packages are installed. A release from another box is linked with the same libraries."""


def wanted_packages(rig: Rig, name: str) -> dict[str, list[str]]:
    """Family -> packages that the box called ``name`` needs; without compilers if other boxes build its releases."""
    return {family: _of_family(family, rig, name) for family in FAMILIES}


def _of_family(family: str, rig: Rig, name: str) -> list[str]:
    built = sorted({build.backend for build in rig.builds if not is_received(build, name)})
    received = sorted({build.backend for build in rig.builds if is_received(build, name)})
    with_tls = any(build.tls and not is_received(build, name) for build in rig.builds)
    return [
        *_EVERYWHERE,
        *_BASE[family],
        *((*_COMPILERS_EVERYWHERE, *_COMPILERS[family]) if built else ()),
        *(package for backend in built for package in _BACKENDS.get((family, backend), ())),
        *(_TLS[family] if with_tls else ()),
        *(_LIBRARIES[family] if received else ()),
        *(package for backend in received for package in _BACKEND_LIBRARIES.get((family, backend), ())),
    ]


class Packages(Item):
    """The packages of the distribution that serving and compiling need are installed, in any version.

    A box that has them all contacts no mirror.
    """

    name = "Compilers and tools"

    def queries(self, rig: Rig, here: ControlMachine) -> Iterable[Query[Any]]:
        """The package manager, and the installed packages."""
        yield from package_queries()

    def differences(self, rig: Rig, seen: Seen) -> list[Difference]:
        """At most one, for all missing packages."""
        return package_differences(wanted_packages(rig, seen.host), seen)

    def fix(self, rig: Rig, seen: Seen, differences: list[Difference]) -> Commands:
        """Install the missing packages."""
        yield from install_missing(wanted_packages(rig, seen.host), seen)


def package_queries() -> Iterable[Query[Any]]:
    """What ``package_differences`` reads. The facts of absent package managers cost almost nothing."""
    yield from (query(File, path=path) for path in _MANAGERS.values())
    yield from (query(fact) for fact in (DebPackages, PacmanPackages, RpmPackages))


def package_differences(wanted: Mapping[str, Sequence[str]], seen: Seen) -> list[Difference]:
    """At most one difference, for all missing packages.

    :param wanted: family (debian, arch, fedora) -> names
    """
    family = _family(seen)
    if family is None:
        message = (
            "this box has neither apt, pacman nor dnf: llamarig supports Debian, Ubuntu, Arch, Fedora and relatives"
        )
        return [Difference.refusal_of("package manager", "apt, pacman or dnf", message)]
    missing = _missing(family, wanted, seen)
    if not missing:
        return []
    names = ", ".join(missing)
    will, did = f"packages: installs {names}", f"packages: installed {names}"
    return [Difference("packages", "all that are needed", f"missing {names}", will=will, did=did)]


def install_missing(wanted: Mapping[str, Sequence[str]], seen: Seen) -> Commands:
    """Install the missing packages with the box's package manager."""
    family = _family(seen)
    missing = _missing(family, wanted, seen) if family else []
    if not missing:
        return
    if family == "debian":
        yield from apt.packages._inner(
            packages=missing, update=True, no_recommends=True, extra_install_args=WAIT_FOR_APT
        )
    elif family == "arch":
        # Without refreshing the package list: Arch does not support new packages beside old ones. If the mirror no
        # longer has the listed versions, pacman fails, and the owner has to upgrade first (pacman -Syu).
        yield from pacman.packages._inner(packages=missing)
    else:
        yield from dnf.packages._inner(packages=missing, extra_install_args="--setopt=install_weak_deps=False")


def _family(seen: Seen) -> str | None:
    return next((family for family, path in _MANAGERS.items() if seen.get(File, path=path)), None)


def _missing(family: str, wanted: Mapping[str, Sequence[str]], seen: Seen) -> list[str]:
    facts = {"debian": DebPackages, "arch": PacmanPackages, "fedora": RpmPackages}
    installed: Mapping[str, Any] = seen.get(facts[family])
    return sorted(set(wanted[family]) - installed.keys())
