"""RAM speed on dumps that were not used in development; selection: data/dmidecode-holdout/README.md."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from llamarig.checks.ram_speed import Verdict, judge
from llamarig.facts.ram import Ram, parse

HOLDOUT = Path(__file__).parent / "data/dmidecode-holdout"
LABELLED: list[dict[str, Any]] = json.loads((HOLDOUT / "index.json").read_text())


def dumps() -> dict[str, Ram]:
    """Path in linuxhw/DMI -> parsed dump."""
    found = {}
    for file in sorted(HOLDOUT.glob("ddr*.txt")):
        for text in re.split(r"^# ", file.read_text(), flags=re.MULTILINE)[1:]:
            path, *lines = text.splitlines()
            found[path] = parse(lines)
    return found


def test_boxes_below_their_rating_are_found_and_no_others() -> None:
    verdicts = {path: judge(ram).verdict for path, ram in dumps().items()}
    assert verdicts.keys() == {item["path"] for item in LABELLED}
    for kind, boxes in {"DDR3": (18, 59), "DDR4": (64, 103), "DDR5": (63, 55)}.items():
        below = [item["path"] for item in LABELLED if item["type"] == kind and item["label"] == "off"]
        at_rating = [item["path"] for item in LABELLED if item["type"] == kind and item["label"] == "on"]
        assert (len(below), len(at_rating)) == boxes
        missed = [path for path in below if verdicts[path] is not Verdict.BELOW]
        false_positives = [path for path in at_rating if verdicts[path] is not Verdict.FULL]
        assert len(missed) / len(below) <= 0.03, missed
        assert len(false_positives) / len(at_rating) <= 0.02, false_positives
        # Suspicions may be wrong, but RAM at its rating is never reported as certainly below it.
        assert [path for path in at_rating if verdicts[path] is Verdict.BELOW] == []


def test_what_the_platform_does_not_allow_is_no_warning() -> None:
    """A fourth of the slow DDR3 and DDR4 boxes have modules that processor, chipset or board cannot run faster."""
    read = dumps()
    limits = [judge(read[item["path"]]).limit for item in LABELLED if item["label"] == "off"]
    assert sum("allow" in limit for limit in limits) == 20


def test_effective_speeds_are_as_labelled() -> None:
    read = dumps()
    other = [item["path"] for item in LABELLED if judge(read[item["path"]]).mts != item["effective_mts"]]
    assert other == []
