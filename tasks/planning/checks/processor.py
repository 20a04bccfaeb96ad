"""Processor: clock policy, the CPUs a model is bound to, threads against cores."""

from __future__ import annotations

from collections.abc import Iterator

from tasks.planning.checks.base import Check, Finding, Severity
from tasks.planning.checks.box import Box
from tasks.spec.rig import Rig

_SLOW_GOVERNORS = {"powersave", "conservative"}


class Governor(Check):
    """Cores that clock down between tokens make each token wait."""

    id = "cpu.governor"
    expects = (
        "no governor that keeps the clock down; derived: `powersave` is fine of intel_pstate, and where the hardware "
        "steers itself (energy preference not `power`)"
    )
    remedy = "cpupower frequency-set -g performance, or a power profile of the distribution (powerprofilesctl)"

    def look(self, rig: Rig, box: Box) -> Iterator[Finding]:
        """With an energy preference, `powersave` is the driver's normal name for steering by itself.

        intel_pstate calls so, on processors without hardware-managed P-states, its own algorithm that follows the load;
        the generic governor of that name, which keeps the least clock, is what other drivers have, intel_cpufreq among
        them (docs.kernel.org/admin-guide/pm/intel_pstate.html, "Active Mode Without HWP", "Passive Mode").
        """
        machine = box.machine
        if machine.energy_preferences:
            if "power" in machine.energy_preferences:
                yield self.finding("energy preference `power`", "balance_performance or performance")
        elif machine.scaling_drivers == ("intel_pstate",):
            return
        elif slow := sorted(_SLOW_GOVERNORS.intersection(machine.governors)):
            yield self.finding(f"governor {', '.join(slow)}", "performance or schedutil")


class Affinity(Check):
    """systemd only logs an affinity list that names CPUs the box lacks, and takes what is left of it."""

    id = "cpu.affinity"
    expects = "every CPU of a model's cpu_affinity (declared) online"
    remedy = "correct serve.cpu_affinity; `lscpu -e` shows the box's CPUs"
    severity = Severity.ERROR

    def look(self, rig: Rig, box: Box) -> Iterator[Finding]:
        """CPU by CPU."""
        online = box.machine.cpus_online
        for model in rig.models:
            wanted = cpu_list(model.serve.cpu_affinity or "")
            if not wanted:
                continue
            if not online:
                yield self.not_known("lscpu tells no CPUs", declared=True, about=model.name)
            elif missing := sorted(wanted - online):
                yield self.finding(
                    f"no CPU {', '.join(map(str, missing))}; there are {len(online)}",
                    f"CPUs {model.serve.cpu_affinity}",
                    about=model.name,
                )


class Threads(Check):
    """Generation waits for its slowest thread: two on one core are slower than one."""

    id = "cpu.threads"
    expects = "serve.threads (declared) no more than the CPUs the model may use, and no more than the box's cores"
    remedy = "set serve.threads to the number of (performance) cores"

    def look(self, rig: Rig, box: Box) -> Iterator[Finding]:
        """More threads than CPUs is a mistake, more than cores is usually one."""
        online, cores = box.machine.cpus_online, box.machine.cores
        for model in rig.models:
            threads = model.serve.threads
            if threads is None:
                continue
            if not online:
                yield self.not_known("lscpu tells no CPUs", f"{threads} threads", declared=True, about=model.name)
                continue
            usable = len(cpu_list(model.serve.cpu_affinity or "") & online) or len(online)
            if threads > usable:
                yield self.finding(f"{threads} threads on {usable} CPUs", f"at most {usable}", about=model.name)
            elif threads > cores:
                yield self.finding(
                    f"{threads} threads on {cores} cores", f"at most {cores}", about=model.name, severity=Severity.NOTE
                )


def cpu_list(text: str) -> frozenset[int]:
    """``0-3,8`` as {0, 1, 2, 3, 8}; the declaration has checked its form."""
    cpus: set[int] = set()
    for part in text.replace(",", " ").split():
        first, _, last = part.partition("-")
        cpus.update(range(int(first), int(last or first) + 1))
    return frozenset(cpus)


ALL: tuple[Check, ...] = (Governor(), Affinity(), Threads())
