"""The NVIDIA driver of a box: packages installed, held and offered; kernel module; GPUs on the PCI bus."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from pyinfra.api.facts import FactBase

from llamarig.facts.output import parse_sections, sections_command
from llamarig.render import layout

# Source packages of the driver. Not those of persistenced and modprobe, which work with any driver version.
SOURCES = "nvidia-graphics-drivers|nvidia-open-gpu-kernel-modules|linux-restricted-modules"
_ARCH_PARTS = "nvidia|nvidia-open|nvidia-utils|lib32-nvidia-utils|opencl-nvidia|nvidia-settings"
# The packages of Arch's relatives that stand for the module and the libraries have other names: linux618-nvidia
# (Manjaro), linux-cachyos-nvidia-open, nvidia-580xx-dkms. All provide NVIDIA-MODULE or nvidia-utils.
_ARCH_PROVIDERS = (
    "pacman -Qq | grep nvidia | xargs -r pacman -Qi | awk '/^Name /{n=$3} "
    '/^Provides .* NVIDIA-MODULE/{print "module",n} /^Provides .* nvidia-utils(=| |$)/{print "utils",n}\''
)
# Classes 0x03...: VGA, 3D and other display controllers.
_CARDS = (
    "for d in /sys/bus/pci/devices/*; do read -r v <$d/vendor; read -r c <$d/class; "
    "case $v$c in 0x10de0x03*) echo $d;; esac; done"
)


Family = Literal["debian", "ubuntu", "arch"]


@dataclass(frozen=True)
class DriverState:
    """NVIDIA driver and packages of a box. Versions are empty where there is none."""

    family: Family | None = None
    release: str = ""
    """Code name of the distribution, for example trixie."""
    container: bool = False
    wsl: bool = False
    """Whether it is WSL2, whose driver is that of Windows."""
    cards: int = 0
    """NVIDIA GPUs on the PCI bus, with any driver or none."""
    kernels: tuple[str, ...] = ()
    """Debian, Ubuntu: suffixes of the installed linux-image meta packages (``amd64``, ``generic-hwe-24.04``), or
    ``pve`` where a kernel of Proxmox runs. Arch: package of the running kernel (``linux-lts``)."""
    running: str = ""
    """The running kernel, as `uname -r` prints it."""
    has_headers: bool = False
    """Whether the headers of the running kernel are installed, from whatever package."""
    module: str = ""
    """Version of the loaded kernel module."""
    library: str = ""
    """Version of libcuda.so.1, which must be that of the module."""
    installed: Mapping[str, str] = field(default_factory=dict)
    """Package -> version, for packages of the driver and of kernels."""
    parts: frozenset[str] = frozenset()
    """Those of ``installed`` that are built from the driver's source: module and libraries, which must be upgraded
    together."""
    module_package: str = ""
    """The installed package with the kernel module, or with its source for DKMS, whatever its name."""
    utils_package: str = ""
    """The installed package of Arch or a relative with the libraries and nvidia-smi."""
    broken: frozenset[str] = frozenset()
    """Packages that are half-configured: the module's, where it does not compile."""
    held: frozenset[str] = frozenset()
    """Packages that are held back from upgrades."""
    offered: Mapping[str, str] = field(default_factory=dict)
    """Package -> version that the distribution would install, for the given packages."""
    components: frozenset[str] = frozenset()
    """Components of Debian's archive that are enabled: main, non-free."""
    boot: str = ""
    """Identity of the running boot."""
    load_tried: str = ""
    """In which boot, and of which packages, a deploy tried to load the module last; empty where none has."""
    secure_boot: bool = False


class NvidiaPackages(FactBase[DriverState]):
    """Driver state, from package databases and sysfs. Contacts no mirror: offers come from the box's package lists.

    Output::

        == os
        VERSION_CODENAME=trixie
        ID=debian

        == packages
        half-configured nvidia-open-kernel-dkms 550.163.01-2 nvidia-open-gpu-kernel-modules

        == offered
        package libcuda1
        version (none)

        == components
        main

        == booted
        1795271451
    """

    default = DriverState

    def command(self, packages: Iterable[str]) -> str:
        names = " ".join(sorted(packages))
        return sections_command(
            {
                "os": "grep -E '^(ID|ID_LIKE|VERSION_CODENAME)=' /etc/os-release",
                "container": "systemd-detect-virt --container",
                "cards": _CARDS,
                "module": "cat /sys/module/nvidia/version",
                "library": "ldconfig -p | grep -o '/[^ ]*libcuda[.]so[.]1$' | head -n 1 | xargs -r readlink -f",
                "packages": (
                    "dpkg-query -W -f '${db:Status-Status} ${Package} ${Version} ${source:Package}\\n' "
                    "| grep -E '^(installed|half-configured) "
                    f"((linux-(image|headers)-|proxmox-default-|nvidia-persistenced )|.* ({SOURCES}))'; "
                    f"pacman -Q | grep -E '^({_ARCH_PARTS})(-dkms|-lts)? |^linux[^ ]*-nvidia|-headers ' "
                    "| sed 's/^/installed /; s/$/ arch/'"
                ),
                "providers": _ARCH_PROVIDERS,
                "held": "apt-mark showhold; pacman-conf IgnorePkg",
                "offered": (
                    f"apt-cache policy {names} "
                    "| sed -nE 's/^([a-z0-9.+-]+):$/package \\1/p; s/^  Candidate: /version /p'; "
                    "pacman -Si nvidia-utils | sed -nE 's/^Version *: /package nvidia-utils\\nversion /p'"
                ),
                "components": "apt-get indextargets --format '$(COMPONENT)' 'Created-By: Packages' | sort -u",
                "kernel": "cat /usr/lib/modules/$(uname -r)/pkgbase",
                "running": "uname -r; test -d /lib/modules/$(uname -r)/build && echo headers",
                "boot": "cat /proc/sys/kernel/random/boot_id",
                "load-tried": f"cat {layout.DRIVER_LOAD}",
                "secure-boot": "od -An -tu1 -j4 -N1 /sys/firmware/efi/efivars/SecureBoot-*",
            }
        )

    def process(self, output: list[str]) -> DriverState:
        sections = parse_sections(output)
        family, release = _distribution(sections["os"])
        found = [words for line in sections["packages"] if len(words := line.split()) == 4]
        installed = {name: version for status, name, version, _ in found if status == "installed"}
        metas = [
            name.removeprefix("linux-image-") for name in installed if re.match(r"linux-image-(?!\d|unsigned)", name)
        ]
        running = "".join(sections["running"][:1]).strip()
        if running.endswith("-pve"):
            metas = ["pve"]
        container = "".join(sections["container"]).strip()
        providers = {kind: name for line in sections["providers"] for kind, _, name in [line.partition(" ")] if name}
        library = re.search(r"libcuda\.so\.(\d[\d.]*)$", " ".join(sections["library"]))
        return DriverState(
            family=family,
            release=release,
            container=container not in ("", "none", "wsl"),
            wsl=container == "wsl",
            cards=len(sections["cards"]),
            kernels=tuple(line.strip() for line in sections["kernel"]) if family == "arch" else tuple(sorted(metas)),
            running=running,
            has_headers="headers" in sections["running"],
            module=_version(sections["module"]),
            library=library[1] if library else "",
            installed=installed,
            parts=frozenset(name for _, name, _, source in found if _is_part(name, source))
            | {name for name in providers.values() if name in installed},
            module_package=providers.get("module", "") if family == "arch" else _module_package(installed),
            utils_package=providers.get("utils", ""),
            broken=frozenset(name for status, name, _, _ in found if status == "half-configured"),
            held=frozenset(word for line in sections["held"] for word in line.split()),
            offered=_offered(sections["offered"]),
            components=frozenset(line.strip() for line in sections["components"]),
            boot="".join(sections["boot"][:1]),
            load_tried="".join(sections["load-tried"][:1]),
            secure_boot=" ".join(sections["secure-boot"]).strip() == "1",
        )


def _distribution(lines: list[str]) -> tuple[Family | None, str]:
    values = {key: value.strip().strip('"') for line in lines for key, _, value in [line.partition("=")]}
    own, kin = values.get("ID", ""), values.get("ID_LIKE", "").split()
    release = values.get("VERSION_CODENAME", "")
    if own == "debian":  # not ID_LIKE: derivatives have code names of their own
        return "debian", release
    if "ubuntu" in (own, *kin):
        return "ubuntu", release
    return ("arch", release) if "arch" in (own, *kin) else (None, "")


def _module_package(installed: Mapping[str, str]) -> str:
    """The package of Debian or Ubuntu with the module; a meta package, whose name ends in a flavour of the kernel."""
    pattern = r"nvidia-(open-)?kernel-dkms|nvidia-dkms-\d.*|linux-modules-nvidia-\d{3}(-server)?(-open)?-[a-z].*"
    return next((name for name in sorted(installed) if re.fullmatch(pattern, name)), "")


def _is_part(name: str, source: str) -> bool:
    if source == "arch":
        return not name.endswith("-headers")
    return re.match(SOURCES, source) is not None


def _offered(lines: list[str]) -> dict[str, str]:
    offered, package = {}, ""
    for line in lines:
        kind, _, value = line.partition(" ")
        if kind == "package":
            package = value
        elif kind == "version" and package and value != "(none)":
            offered[package] = value
    return offered


def _version(lines: list[str]) -> str:
    text = lines[0].strip() if lines else ""
    return text if re.fullmatch(r"\d[\d.]*", text) else ""
