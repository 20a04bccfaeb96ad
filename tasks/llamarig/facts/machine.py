"""The machine itself: memory and swap, processor, filesystem of the model store, automatic upgrades."""

from __future__ import annotations

import contextlib
import re
from dataclasses import dataclass
from fnmatch import fnmatchcase

from pyinfra.api.facts import FactBase

from llamarig.facts.nvidia_packages import SOURCES
from llamarig.facts.output import parse_sections, section_number, sections_command
from llamarig.facts.udev import parse_rules, swappiness_rules
from llamarig.render import layout

# Driver packages of NVIDIA's own repository (nvidia-driver, kmod-nvidia, dkms-nvidia) and of RPM Fusion.
_RPMS = "nvidia-(driver|open|kmod)|[ad]?kmod-nvidia|dkms-nvidia|xorg-x11-drv-nvidia"


@dataclass(frozen=True)
class Machine:
    """The machine itself. Memory in KiB, disk in bytes; None where unknown."""

    virtualization: str = ""
    swappiness: int | None = None
    swappiness_at_boot: int | None = None
    swappiness_file: str = ""
    total_kib: int | None = None
    available_kib: int | None = None
    swap_used_kib: int | None = None
    swap_devices: tuple[str, ...] = ()
    huge_pages: str = ""
    """Setting in /sys/kernel/mm/transparent_hugepage/enabled: always, madvise or never."""
    cpus_online: frozenset[int] = frozenset()
    cores: int = 0
    governors: tuple[str, ...] = ()
    scaling_drivers: tuple[str, ...] = ()
    """Drivers of cpufreq: intel_pstate, intel_cpufreq, amd-pstate-epp, acpi-cpufreq."""
    energy_preferences: tuple[str, ...] = ()
    oom_killed_units: tuple[str, ...] = ()
    oom_kills: int | None = None
    """Processes killed by the kernel's OOM killer since boot."""
    filesystem: str = ""
    disk_free: int | None = None
    unattended_upgrades: bool | None = None
    """Whether the distribution upgrades packages automatically; None where unknown."""
    driver_packaged: bool = False
    """Whether NVIDIA's driver is installed from packages; upgrades do not touch one from a .run file."""
    driver_held: bool = False
    """Whether automatic upgrades leave the GPU driver's packages alone."""


class MachineState(FactBase[Machine]):
    """State of the machine, from /proc, /sys, small configuration files and package lists.

    Output::

        == swappiness
        60

        == at-boot
        # /etc/sysctl.d/99-mine.conf
        vm.swappiness = 10

        == meminfo
        MemTotal:       24684092 kB
        MemAvailable:   23511580 kB

        == huge-pages
        always [madvise] never

        == cpus
        0,0,0
        1,1,0

        == disk
        ext4 71078096896

        == upgrades
        no
    """

    default = Machine

    def command(self) -> str:
        return sections_command(
            {
                "virtualization": "systemd-detect-virt",
                "swappiness": "cat /proc/sys/vm/swappiness",
                # All files of all sysctl.d directories, in the order in which systemd applies them.
                "at-boot": (
                    "p=/usr/lib/systemd/systemd-sysctl; test -x $p || p=/lib/systemd/systemd-sysctl; "
                    "$p --cat-config | grep -E '^# /|^-?vm[./]swappiness'"
                ),
                "udev": swappiness_rules(),
                "meminfo": "grep -E '^(MemTotal|MemAvailable|SwapTotal|SwapFree):' /proc/meminfo",
                "swaps": "tail -n +2 /proc/swaps",
                "oom": "sed -n 's/^oom_kill //p' /proc/vmstat",
                "oom-units": (
                    "for u in $(systemctl list-units --all --plain --no-legend 'llamarig-*.service' "
                    "| cut -d' ' -f1); do "
                    'test "$(systemctl show $u -p Result --value)" = oom-kill && echo $u; done'
                ),
                "huge-pages": "cat /sys/kernel/mm/transparent_hugepage/enabled",
                "cpus": "lscpu -p=CPU,CORE,SOCKET | grep -v '^#'",
                "governors": "cat /sys/devices/system/cpu/cpu*/cpufreq/scaling_governor | sort -u",
                "scaling-drivers": "cat /sys/devices/system/cpu/cpu*/cpufreq/scaling_driver | sort -u",
                "energy": "cat /sys/devices/system/cpu/cpu*/cpufreq/energy_performance_preference | sort -u",
                # Before the first deploy the store does not exist; its filesystem will be that of the nearest parent.
                "disk": (
                    f'd={layout.MODELS}; while [ ! -d "$d" ]; do d=$(dirname "$d"); done; '
                    'df --output=fstype,avail -B1 "$d" | tail -n 1'
                ),
                # Settings of apt.systemd.daily, which the timer starts: Enable "0" disables it; "always" is a valid
                # interval.
                "upgrades": (
                    "if command -v apt-config >/dev/null; then p=$(apt-config dump APT::Periodic); "
                    '! echo "$p" | grep -q \'::Enable "0"\' && echo "$p" | grep -qE '
                    "'::Unattended-Upgrade \"([1-9]|always)' && command -v unattended-upgrade >/dev/null "
                    "&& systemctl is-enabled apt-daily-upgrade.timer | grep -q '^enabled' && echo yes || echo no; "
                    "elif command -v dnf >/dev/null; then systemctl is-enabled dnf-automatic.timer "
                    "dnf-automatic-install.timer dnf5-automatic.timer | grep -q '^enabled' && echo yes || echo no; "
                    # Arch has no automatic upgrades.
                    "elif command -v pacman >/dev/null; then echo no; fi"
                ),
                # Not apt-mark, which opens the whole package cache: a second of CPU time.
                "driver-packages": (
                    "dpkg-query -W -f '${db:Status-Status} ${db:Status-Want} ${Package} ${source:Package}\\n' "
                    f"| grep -E '^installed [a-z]+ ((libcuda1|libnvidia-compute[0-9a-z-]*) |[^ ]+ ({SOURCES}))'; "
                    "command -v dnf >/dev/null && rpm -qa --qf 'installed rpm %{NAME} rpm\\n' '*nvidia*' "
                    f"| grep -E ' ({_RPMS})'"
                ),
                "held": (
                    "command -v apt-config >/dev/null && apt-config dump Unattended-Upgrade::Package-Blacklist; "
                    "grep -hs nvidia /etc/dnf/versionlock.toml /etc/dnf/plugins/versionlock.list; "
                    "grep -hsE '^exclude(pkgs)? *=.*nvidia' /etc/dnf/dnf.conf"
                ),
            }
        )

    def process(self, output: list[str]) -> Machine:
        sections = parse_sections(output)
        memory = _meminfo(sections["meminfo"])
        at_boot, file = _at_boot(sections["at-boot"])
        if rules := parse_rules(sections["udev"]):
            file, at_boot = rules[-1]
        cpus = [match for line in sections["cpus"] if (match := re.fullmatch(r"(\d{1,5}),(\d+),(\d*)", line))]
        disk = re.fullmatch(r"\s*(\S+)\s+(\d{1,18})\s*", " ".join(sections["disk"]))
        packages = [tuple(words[1:3]) for line in sections["driver-packages"] if len(words := line.split()) == 4]
        huge_pages = re.search(r"\[(\w+)\]", " ".join(sections["huge-pages"]))
        upgrades = " ".join(sections["upgrades"])
        swap_total, swap_free = memory.get("SwapTotal"), memory.get("SwapFree")
        return Machine(
            virtualization="".join(sections["virtualization"][:1]).strip(),
            swappiness=section_number(sections["swappiness"]),
            swappiness_at_boot=at_boot,
            swappiness_file=file,
            total_kib=memory.get("MemTotal"),
            available_kib=memory.get("MemAvailable"),
            swap_used_kib=None if swap_total is None or swap_free is None else max(swap_total - swap_free, 0),
            swap_devices=tuple(line.split()[0] for line in sections["swaps"]),
            huge_pages=huge_pages[1] if huge_pages else "",
            cpus_online=frozenset(int(match[1]) for match in cpus),
            cores=len({(match[2], match[3]) for match in cpus}),
            governors=tuple(sections["governors"]),
            scaling_drivers=tuple(sections["scaling-drivers"]),
            energy_preferences=tuple(sections["energy"]),
            oom_killed_units=tuple(sections["oom-units"]),
            oom_kills=section_number(sections["oom"]),
            filesystem=disk[1] if disk else "",
            disk_free=int(disk[2]) if disk else None,
            unattended_upgrades={"yes": True, "no": False}.get(upgrades),
            driver_packaged=bool(packages),
            driver_held=any(want == "hold" or _is_excluded(name, sections["held"]) for want, name in packages),
        )


def _is_excluded(package: str, rules: list[str]) -> bool:
    """Whether the settings of unattended-upgrades or dnf exclude a package from upgrades."""
    for line in rules:
        if blacklisted := re.fullmatch(r'Unattended-Upgrade::Package-Blacklist:: "(.+)";', line):
            # "Python regular expressions, matching packages to exclude" from the start of the name
            # (/etc/apt/apt.conf.d/50unattended-upgrades).
            with contextlib.suppress(re.error, RecursionError):
                if re.match(blacklisted[1], package):
                    return True
        # versionlock.list of dnf has name-epoch:version-release.architecture, the other files have names.
        elif any(
            fnmatchcase(package, word) or re.match(rf"{re.escape(package)}-[\d*]", word)
            for word in re.split(r'[\s,="]+', line)
        ):
            return True
    return False


def _meminfo(lines: list[str]) -> dict[str, int]:
    """Name -> KiB (the kernel prints kB)."""
    found = (re.fullmatch(r"(\w+):\s+(\d{1,15}) kB", line) for line in lines)
    return {match[1]: int(match[2]) for match in found if match}


def _at_boot(lines: list[str]) -> tuple[int | None, str]:
    """Value of the last assignment, which is the one that systemd-sysctl applies, and its file."""
    value, file, heading = None, "", ""
    for line in lines:
        if match := re.fullmatch(r"# (/\S+)\s*", line):
            heading = match[1]
        elif match := re.fullmatch(r"-?vm[./]swappiness\s*=\s*(\d{1,4})\s*", line):
            value, file = int(match[1]), heading
    return value, file
