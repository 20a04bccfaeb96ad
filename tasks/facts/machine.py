"""The machine itself: memory and swap, processor, model store's filesystem, updates that come by themselves."""

from __future__ import annotations

import contextlib
import re
from fnmatch import fnmatchcase

from pyinfra.api.facts import FactBase
from typing_extensions import override

from tasks.facts.driver import SOURCES
from tasks.facts.sections import answers, ask, number
from tasks.facts.udev import parsed, swappiness_rules
from tasks.planning import layout
from tasks.planning.checks.box import Machine

# Of NVIDIA's own repository (nvidia-driver, kmod-nvidia, dkms-nvidia) and of RPM Fusion.
_RPMS = "nvidia-(driver|open|kmod)|[ad]?kmod-nvidia|dkms-nvidia|xorg-x11-drv-nvidia"


class MachineState(FactBase[Machine]):
    """All in one command: every question reads /proc, /sys or a small configuration file."""

    @staticmethod
    @override
    def default() -> Machine:
        return Machine()

    @override
    def command(self) -> str:
        return ask(
            [
                ("virtualization", "systemd-detect-virt"),
                ("swappiness", "cat /proc/sys/vm/swappiness"),
                # systemd's own reading of all sysctl.d directories, in the order in which they are applied.
                (
                    "at-boot",
                    "p=/usr/lib/systemd/systemd-sysctl; test -x $p || p=/lib/systemd/systemd-sysctl; "
                    "$p --cat-config | grep -E '^# /|^-?vm[./]swappiness'",
                ),
                ("udev", swappiness_rules()),
                ("meminfo", "grep -E '^(MemTotal|MemAvailable|SwapTotal|SwapFree):' /proc/meminfo"),
                ("swaps", "tail -n +2 /proc/swaps"),
                ("oom", "sed -n 's/^oom_kill //p' /proc/vmstat"),
                (
                    "oom-units",
                    "for u in $(systemctl list-units --all --plain --no-legend 'llamarig-*.service' "
                    "| cut -d' ' -f1); do "
                    'test "$(systemctl show $u -p Result --value)" = oom-kill && echo $u; done',
                ),
                ("huge-pages", "cat /sys/kernel/mm/transparent_hugepage/enabled"),
                ("cpus", "lscpu -p=CPU,CORE,SOCKET | grep -v '^#'"),
                ("cpu-model", "grep -m 1 '^model name' /proc/cpuinfo"),
                ("governors", "cat /sys/devices/system/cpu/cpu*/cpufreq/scaling_governor | sort -u"),
                ("scaling-drivers", "cat /sys/devices/system/cpu/cpu*/cpufreq/scaling_driver | sort -u"),
                ("energy", "cat /sys/devices/system/cpu/cpu*/cpufreq/energy_performance_preference | sort -u"),
                # Before the first deploy the store is not there; its filesystem is that of the nearest parent.
                (
                    "disk",
                    f'd={layout.MODELS}; while [ ! -d "$d" ]; do d=$(dirname "$d"); done; '
                    'df --output=fstype,avail -B1 "$d" | tail -n 1',
                ),
                (
                    "upgrades",
                    # apt.systemd.daily, which this timer starts, reads these: Enable "0" ends it, "always" is an
                    # interval too.
                    "if command -v apt-config >/dev/null; then p=$(apt-config dump APT::Periodic); "
                    '! echo "$p" | grep -q \'::Enable "0"\' && echo "$p" | grep -qE '
                    "'::Unattended-Upgrade \"([1-9]|always)' && command -v unattended-upgrade >/dev/null "
                    "&& systemctl is-enabled apt-daily-upgrade.timer | grep -q '^enabled' && echo yes || echo no; "
                    "elif command -v dnf >/dev/null; then systemctl is-enabled dnf-automatic.timer "
                    "dnf-automatic-install.timer dnf5-automatic.timer | grep -q '^enabled' && echo yes || echo no; "
                    # Arch upgrades nothing by itself.
                    "elif command -v pacman >/dev/null; then echo no; fi",
                ),
                (
                    "driver-packages",
                    # dpkg's own list: apt-mark opens the whole package cache, which takes a second of the processor.
                    "dpkg-query -W -f '${db:Status-Status} ${db:Status-Want} ${Package} ${source:Package}\\n' "
                    f"| grep -E '^installed [a-z]+ ((libcuda1|libnvidia-compute[0-9a-z-]*) |[^ ]+ ({SOURCES}))'; "
                    "command -v dnf >/dev/null && rpm -qa --qf 'installed rpm %{NAME} rpm\\n' '*nvidia*' "
                    f"| grep -E ' ({_RPMS})'",
                ),
                (
                    "held",
                    "command -v apt-config >/dev/null && apt-config dump Unattended-Upgrade::Package-Blacklist; "
                    "grep -hs nvidia /etc/dnf/versionlock.toml /etc/dnf/plugins/versionlock.list; "
                    "grep -hsE '^exclude(pkgs)? *=.*nvidia' /etc/dnf/dnf.conf",
                ),
            ]
        )

    @override
    def process(self, output: list[str]) -> Machine:
        said = answers(output)
        memory = _meminfo(said.get("meminfo", []))
        at_boot, file = _at_boot(said.get("at-boot", []))
        if rules := parsed(said.get("udev", [])):
            file, at_boot = rules[-1]
        cpus = [match for line in said.get("cpus", []) if (match := re.fullmatch(r"(\d{1,5}),(\d+),(\d*)", line))]
        disk = re.fullmatch(r"\s*(\S+)\s+(\d{1,18})\s*", " ".join(said.get("disk", [])))
        packages = [tuple(words[1:3]) for line in said.get("driver-packages", []) if len(words := line.split()) == 4]
        upgrades = " ".join(said.get("upgrades", []))
        swap_total, swap_free = memory.get("SwapTotal"), memory.get("SwapFree")
        return Machine(
            virtualization=_word(said.get("virtualization")),
            swappiness=number(said.get("swappiness")),
            swappiness_at_boot=at_boot,
            swappiness_file=file,
            total_kib=memory.get("MemTotal"),
            available_kib=memory.get("MemAvailable"),
            swap_used_kib=None if swap_total is None or swap_free is None else max(swap_total - swap_free, 0),
            swap_devices=tuple(line.split()[0] for line in said.get("swaps", [])),
            huge_pages=_chosen(" ".join(said.get("huge-pages", []))),
            cpu_model=" ".join(said.get("cpu-model", [])).partition(":")[2].strip(),
            cpus_online=frozenset(int(match[1]) for match in cpus),
            cores=len({(match[2], match[3]) for match in cpus}),
            governors=tuple(said.get("governors", [])),
            scaling_drivers=tuple(said.get("scaling-drivers", [])),
            energy_preferences=tuple(said.get("energy", [])),
            oom_killed_units=tuple(said.get("oom-units", [])),
            oom_kills=number(said.get("oom")),
            filesystem=disk[1] if disk else "",
            disk_free=int(disk[2]) if disk else None,
            unattended_upgrades={"yes": True, "no": False}.get(upgrades),
            driver_packaged=bool(packages),
            driver_held=any(wish == "hold" or _kept_back(name, said.get("held", [])) for wish, name in packages),
        )


def _kept_back(package: str, rules: list[str]) -> bool:
    """Whether unattended-upgrades or dnf leaves the package alone, by their own settings."""
    for line in rules:
        if blacklisted := re.fullmatch(r'Unattended-Upgrade::Package-Blacklist:: "(.+)";', line):
            # "Python regular expressions, matching packages to exclude", from their beginning on: its own
            # 50unattended-upgrades.
            with contextlib.suppress(re.error, RecursionError):
                if re.match(blacklisted[1], package):
                    return True
        # dnf's versionlock.list has whole packages, name-epoch:version-release.architecture; the others names.
        elif any(
            fnmatchcase(package, word) or re.match(rf"{re.escape(package)}-[\d*]", word)
            for word in re.split(r'[\s,="]+', line)
        ):
            return True
    return False


def _meminfo(lines: list[str]) -> dict[str, int]:
    """KiB, which the kernel writes as kB."""
    found = (re.fullmatch(r"(\w+):\s+(\d{1,15}) kB", line) for line in lines)
    return {match[1]: int(match[2]) for match in found if match}


def _at_boot(lines: list[str]) -> tuple[int | None, str]:
    """The last assignment wins, as systemd-sysctl reads them; with the file it stands in."""
    value, file, heading = None, "", ""
    for line in lines:
        if match := re.fullmatch(r"# (/\S+)\s*", line):
            heading = match[1]
        elif match := re.fullmatch(r"-?vm[./]swappiness\s*=\s*(\d{1,4})\s*", line):
            value, file = int(match[1]), heading
    return value, file


def _chosen(text: str) -> str:
    match = re.search(r"\[(\w+)\]", text)
    return match[1] if match else ""


def _word(lines: list[str] | None) -> str:
    return lines[0].strip() if lines else ""
