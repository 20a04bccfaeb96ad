"""From the facts of a box to the declaration that a survey proposes."""

from __future__ import annotations

from dataclasses import replace

from llamarig.survey.backend import of_cards
from llamarig.survey.hardware import Hardware
from llamarig.survey.machine import disk_of, memory_of, threads_of
from llamarig.survey.proposal import Proposal


def proposal(hardware: Hardware) -> Proposal:
    """Propose the declaration of a box. It passes a dry run of a deploy."""
    found = of_cards(hardware)
    mts, memory, memory_remarks = memory_of(hardware)
    threads, affinity, cpu = threads_of(hardware)
    disk, disk_remarks = disk_of(hardware)
    notes = {**found.notes, "memory": memory, "cpu": cpu, "disk": disk}
    return replace(
        found,
        memory_mts=mts,
        threads=threads,
        cpu_affinity=affinity,
        notes={about: lines for about, lines in notes.items() if lines},
        remarks=(*found.remarks, *memory_remarks, *disk_remarks),
    )
