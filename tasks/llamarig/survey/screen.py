"""The lines of a survey for one box: what it is, what was written, and what is left for its owner to do."""

from __future__ import annotations

from collections.abc import Sequence

from llamarig.survey.destinations import Destination, Undeclared
from llamarig.survey.hardware import Hardware
from llamarig.survey.machine import ram_words
from llamarig.survey.proposal import Proposal
from llamarig.survey.words import cards_words, engine_words, processor_words

_GIB = 1024**3


def new_box(box: Undeclared, to: Destination, *, file: str, inventory: str) -> list[str]:
    """A box without a declaration; the first line sums it up."""
    cards = cards_words((*box.proposal.cards, *box.proposal.unused)) or "no graphics card"
    lines = [_machine_words(box.hardware, box.proposal), *(f"note: {remark}" for remark in box.proposal.remarks)]
    if to.exists:
        remedy = f"in {inventory}, list it so, and survey again to see what differs: {to.inventory_line}"
        return [f"{cards}: nothing written, since {file} is there already", *lines, f"next: {remedy}"]
    if not to.listed:
        return [f"{cards}: wrote {file}", *lines, f"next: in {inventory}, list it so: {to.inventory_line}"]
    return [f"{cards}: wrote {file}", *lines, "next: read that file, then deploy.py --dry"]


def declared_box(hardware: Hardware, differences: Sequence[str], cards: str, file: str) -> list[str]:
    """A box with a declaration; the first line sums it up."""
    what = cards or "no graphics card"
    if not differences:
        return [f"{what}: as {file} declares it", f"{processor_words(hardware)}, {ram_words(hardware)}"]
    number = "one difference" if len(differences) == 1 else f"{len(differences)} differences"
    return [f"{what}: {number} from {file}, which stays as it is", *differences]


def _machine_words(hardware: Hardware, proposal: Proposal) -> str:
    free = hardware.machine.disk_free
    driver = hardware.gpus.gpus[0].driver if hardware.gpus.gpus else ""
    parts = [
        f"{engine_words(hardware, proposal)}{f', driver {driver}' if driver else ''}",
        processor_words(hardware),
        ram_words(hardware),
        *([f"{free / _GIB:.0f} GiB free for models"] if free is not None else ()),
    ]
    return "; ".join(parts)
