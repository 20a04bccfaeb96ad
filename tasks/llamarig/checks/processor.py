"""Checks of the processor: clock policy, CPU affinity of models, threads and cores."""

from __future__ import annotations

from collections.abc import Iterator

from llamarig.checks.base import Check, Finding, Severity
from llamarig.checks.box import Box
from llamarig.declare.rig import Rig
from llamarig.placement.box_capacity import parse_cpu_list

_SLOW_GOVERNORS = {"powersave", "conservative"}


class Governor(Check):
    """Cores that reduce their clock between tokens delay each token."""

    id = "cpu.governor"
    expects = (
        "no governor that keeps the clock low; derived: `powersave` is fine with intel_pstate, and if the hardware "
        "controls its clock (energy preference not `power`)"
    )
    remedy = "cpupower frequency-set -g performance, or a power profile of the distribution (powerprofilesctl)"

    def look(self, rig: Rig, box: Box) -> Iterator[Finding]:
        """Judge the governor together with the scaling driver and the energy preference.

        With an energy preference, `powersave` is the normal mode, in which the hardware controls its clock.
        intel_pstate on processors without hardware-managed P-states gives this name to its own algorithm, which follows
        the load. With other drivers, intel_cpufreq among them, it is the generic governor, which keeps the lowest clock
        (docs.kernel.org/admin-guide/pm/intel_pstate.html, "Active Mode Without HWP", "Passive Mode").
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
    """If an affinity list names CPUs that the box lacks, systemd only logs it and uses the rest."""

    id = "cpu.affinity"
    expects = "every CPU of a model's cpu_affinity (declared) online"
    remedy = "correct serve.cpu_affinity; `lscpu -e` shows the box's CPUs"
    severity = Severity.ERROR

    def look(self, rig: Rig, box: Box) -> Iterator[Finding]:
        online = box.machine.cpus_online
        for model in rig.models:
            wanted = parse_cpu_list(model.serve.cpu_affinity or "")
            if not wanted:
                continue
            if not online:
                yield self.not_known("lscpu prints no CPUs", declared=True, about=model.name)
            elif missing := sorted(wanted - online):
                yield self.finding(
                    f"no CPU {', '.join(map(str, missing))}; there are {len(online)}",
                    f"CPUs {model.serve.cpu_affinity}",
                    about=model.name,
                )


class Threads(Check):
    """Generation waits for its slowest thread, and two threads on one core are slower than one."""

    id = "cpu.threads"
    expects = "serve.threads (declared) no more than the CPUs the model may use, and no more than the box's cores"
    remedy = "set serve.threads to the number of (performance) cores"

    def look(self, rig: Rig, box: Box) -> Iterator[Finding]:
        online, cores = box.machine.cpus_online, box.machine.cores
        for model in rig.models:
            threads = model.serve.threads
            if threads is None:
                continue
            if not online:
                yield self.not_known("lscpu prints no CPUs", f"{threads} threads", declared=True, about=model.name)
                continue
            usable = len(parse_cpu_list(model.serve.cpu_affinity or "") & online) or len(online)
            if threads > usable:
                yield self.finding(f"{threads} threads on {usable} CPUs", f"at most {usable}", about=model.name)
            elif threads > cores:
                yield self.finding(
                    f"{threads} threads on {cores} cores", f"at most {cores}", about=model.name, severity=Severity.NOTE
                )
