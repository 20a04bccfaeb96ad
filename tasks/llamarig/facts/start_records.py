"""Start records of model units, which a switch writes when a server has answered a completion."""

from __future__ import annotations

from dataclasses import dataclass

from pyinfra.api.facts import FactBase

from llamarig.facts.output import json_object
from llamarig.remote.shared.jobs import BackOff, StartRecord
from llamarig.remote.shared.unit_directives import directives_sha256
from llamarig.render import layout


class PreviousProofs(FactBase[dict[str, StartRecord]]):
    """Unit name -> the start record before the current one, which a rollback returns to.

    Output::

        llamarig-tiny.service	{"text": "# tiny: ..., "proved_at": "2026-11-21T18:38:14Z", ...
    """

    default = dict

    def command(self) -> str:
        return _each_line("*.previous.json", ".previous.json", "test -f $f")

    def process(self, output: list[str]) -> dict[str, StartRecord]:
        return _usable(output)


class Proofs(FactBase[dict[str, StartRecord]]):
    """Unit name -> the start record of its last start that answered.

    Output::

        llamarig-tiny.service	{"text": "# tiny: ..., "proved_at": "2026-11-28T12:46:10Z", ...
    """

    default = dict

    def command(self) -> str:
        return _each_line("*.service.json", ".json", "test -f $f")

    def process(self, output: list[str]) -> dict[str, StartRecord]:
        return _usable(output)


@dataclass(frozen=True)
class RecordedBackOff:
    """A step down that a unit's last start took. ``served_directives``: sha256 of the directives it serves with."""

    taken: BackOff
    served_directives: str


class BackOffs(FactBase[dict[str, RecordedBackOff]]):
    """Unit name -> the smaller placement that the last start of a planned model fell back to, for those that did.

    Output::

        llamarig-tiny.service	{"text": ..."backed_off": {"of": "03e66968220206dc2db8a3da2de91df5...
    """

    default = dict

    def command(self) -> str:
        return _each_line("*.service.json", ".json", "grep -q '\"backed_off\": {' $f 2>/dev/null")

    def process(self, output: list[str]) -> dict[str, RecordedBackOff]:
        found = {}
        for unit, record in _records(output).items():
            taken = record.backed_off
            if taken is not None and taken.of and taken.placement and taken.reason:
                # The recorded digest may be of an earlier version, with other rules.
                found[unit] = RecordedBackOff(taken, directives_sha256(record.text))
        return found


def _each_line(pattern: str, suffix: str, condition: str) -> str:
    return (
        f"for f in {layout.PROOFS}/{pattern}; do {condition} || continue; "
        f"printf '%s\\t' $(basename $f {suffix}); tr -d '\\n' <$f; echo; done; true"
    )


def _usable(output: list[str]) -> dict[str, StartRecord]:
    """The records that a switch can be made of."""
    return {
        unit: record
        for unit, record in _records(output).items()
        if record.text and record.job.unit and record.job.text and record.job.commit
    }


def _records(output: list[str]) -> dict[str, StartRecord]:
    rows = (line.partition("\t") for line in output)
    return {unit: StartRecord.from_stored(json_object(text)) for unit, _, text in rows}
