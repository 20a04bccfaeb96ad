"""Start records of model units, which a switch writes when a server has answered a completion."""

from __future__ import annotations

from pyinfra.api.facts import FactBase

from llamarig.facts.output import json_object
from llamarig.remote.shared.jobs import BackOff, StartRecord
from llamarig.render import layout


class PreviousProofs(FactBase[dict[str, StartRecord]]):
    """Unit name -> the start record before the current one, which a rollback returns to.

    Output::

        llamarig-tiny.service	{"text": "# tiny: ..., "proved_at": "2026-11-21T18:38:14Z", ...
    """

    default = dict

    def command(self) -> str:
        return (
            f"for f in {layout.PROOFS}/*.previous.json; do test -f $f || continue; "
            "printf '%s\\t' $(basename $f .previous.json); tr -d '\\n' <$f; echo; done; true"
        )

    def process(self, output: list[str]) -> dict[str, StartRecord]:
        records = {}
        for line in output:
            unit, _, written = line.partition("\t")
            record = StartRecord.from_stored(json_object(written))
            if record.text and record.job.unit and record.job.text and record.job.commit:
                records[unit] = record
        return records


class BackOffs(FactBase[dict[str, BackOff]]):
    """Unit name -> the smaller placement that the last start of a planned model fell back to, for those that did.

    Output::

        llamarig-tiny.service	{"text": ..."backed_off": {"of": "03e66968220206dc2db8a3da2de91df5...
    """

    default = dict

    def command(self) -> str:
        return (
            f"for f in {layout.PROOFS}/*.service.json; do grep -q '\"backed_off\": {{' $f 2>/dev/null || continue; "
            "printf '%s\\t' $(basename $f .json); tr -d '\\n' <$f; echo; done; true"
        )

    def process(self, output: list[str]) -> dict[str, BackOff]:
        found = {}
        for line in output:
            unit, _, text = line.partition("\t")
            backed_off = StartRecord.from_stored(json_object(text)).backed_off
            if backed_off is not None and backed_off.of and backed_off.placement and backed_off.reason:
                found[unit] = backed_off
        return found
