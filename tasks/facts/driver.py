"""The NVIDIA driver as the box's packages know it: installed, held, offered; loaded; and the card on the bus."""

from __future__ import annotations

import re
from collections.abc import Iterable

from pyinfra.api.facts import FactBase
from typing_extensions import override

from tasks.facts.sections import answers, ask, number
from tasks.planning.driver import DriverState, Family

# What a driver's source makes. Persistenced and modprobe have sources of their own and go with any driver.
SOURCES = "nvidia-graphics-drivers|nvidia-open-gpu-kernel-modules|linux-restricted-modules"
_ARCH_PARTS = "nvidia|nvidia-open|nvidia-utils|lib32-nvidia-utils|opencl-nvidia|nvidia-settings"
# VGA, 3D and other display controllers are class 0x03....
_CARDS = (
    "for d in /sys/bus/pci/devices/*; do read -r v <$d/vendor; read -r c <$d/class; "
    "case $v$c in 0x10de0x03*) echo $d;; esac; done"
)


class NvidiaPackages(FactBase[DriverState]):
    """One command, and nothing of it asks a mirror: what could be installed is read from the box's package lists."""

    @staticmethod
    @override
    def default() -> DriverState:
        return DriverState()

    @override
    def command(self, packages: Iterable[str]) -> str:
        asked = " ".join(sorted(packages))
        return ask(
            [
                ("os", "grep -E '^(ID|ID_LIKE|VERSION_CODENAME)=' /etc/os-release"),
                ("container", "systemd-detect-virt --container"),
                ("cards", _CARDS),
                ("module", "cat /sys/module/nvidia/version"),
                ("library", "ldconfig -p | grep -o '/[^ ]*libcuda[.]so[.]1$' | head -n 1 | xargs -r readlink -f"),
                (
                    "packages",
                    "dpkg-query -W -f '${db:Status-Status} ${Package} ${Version} ${source:Package}\\n' "
                    "| grep -E '^(installed|half-configured) "
                    f"((linux-(image|headers)-|nvidia-persistenced )|.* ({SOURCES}))'; "
                    f"pacman -Q | grep -E '^({_ARCH_PARTS})(-dkms|-lts)? |-headers ' "
                    "| sed 's/^/installed /; s/$/ arch/'",
                ),
                ("held", "apt-mark showhold; pacman-conf IgnorePkg"),
                (
                    "offered",
                    f"apt-cache policy {asked} "
                    "| sed -nE 's/^([a-z0-9.+-]+):$/package \\1/p; s/^  Candidate: /version /p'; "
                    "pacman -Si nvidia-utils | sed -nE 's/^Version *: /package nvidia-utils\\nversion /p'",
                ),
                (
                    "components",
                    "apt-get indextargets --format '$(COMPONENT)' 'Created-By: Packages' | sort -u",
                ),
                ("kernel", "cat /usr/lib/modules/$(uname -r)/pkgbase"),
                (
                    "changed",
                    "stat -c %Y /var/lib/dpkg/info/*nvidia*.list /var/lib/pacman/local/nvidia-*/desc | sort -n",
                ),
                ("booted", "sed -n 's/^btime //p' /proc/stat"),
                ("secure-boot", "od -An -tu1 -j4 -N1 /sys/firmware/efi/efivars/SecureBoot-*"),
            ]
        )

    @override
    def process(self, output: list[str]) -> DriverState:
        said = answers(output)
        family, release = _distribution(said.get("os", []))
        found = [words for line in said.get("packages", []) if len(words := line.split()) == 4]
        installed = {name: version for status, name, version, _ in found if status == "installed"}
        metas = [
            name.removeprefix("linux-image-") for name in installed if re.match(r"linux-image-(?!\d|unsigned)", name)
        ]
        library = re.search(r"libcuda\.so\.(\d[\d.]*)$", " ".join(said.get("library", [])))
        return DriverState(
            family=family,
            release=release,
            container="".join(said.get("container", [])).strip() not in ("", "none"),
            cards=len(said.get("cards", [])),
            kernels=tuple(line.strip() for line in said.get("kernel", []))
            if family == "arch"
            else tuple(sorted(metas)),
            module=_version(said.get("module")),
            library=library[1] if library else "",
            installed=installed,
            parts=frozenset(name for _, name, _, source in found if _is_part(name, source)),
            broken=frozenset(name for status, name, _, _ in found if status == "half-configured"),
            held=frozenset(word for line in said.get("held", []) for word in line.split()),
            offered=_offered(said.get("offered", [])),
            components=frozenset(line.strip() for line in said.get("components", [])),
            packages_changed_at=number(said.get("changed", [])[-1:]) or 0,
            booted_at=number(said.get("booted")) or 0,
            secure_boot=" ".join(said.get("secure-boot", [])).strip() == "1",
        )


def _distribution(lines: list[str]) -> tuple[Family | None, str]:
    values = {key: value.strip().strip('"') for line in lines for key, _, value in [line.partition("=")]}
    own, kin = values.get("ID", ""), values.get("ID_LIKE", "").split()
    release = values.get("VERSION_CODENAME", "")
    if own == "debian":  # Debian's archive knows nothing of its kin's releases
        return "debian", release
    if "ubuntu" in (own, *kin):
        return "ubuntu", release
    return ("arch", release) if "arch" in (own, *kin) else (None, "")


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


def _version(lines: list[str] | None) -> str:
    text = lines[0].strip() if lines else ""
    return text if re.fullmatch(r"\d[\d.]*", text) else ""
