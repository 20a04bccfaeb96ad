"""Repositories of owners for the screens of the survey: made by `llamarig init`, with boxes that declare no rig yet.

Their answers are those of tests/survey/hardware.py, by pyinfra's connector `@fake`.
"""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llamarig.commands.init import init
from llamarig.engine.item import Query
from llamarig.facts.installed_toolkits import InstalledToolkits
from llamarig.survey.hardware import queries_of_survey, queries_of_toolkits

from tests.items.converged_box import batch_reply
from tests.screens.boxes import GONE
from tests.survey.golden import written
from tests.survey.hardware import BOXES, Answers, value


def declared(directory: Path) -> None:
    """A box whose rig a survey has written."""
    _make(directory, {"rtx3090": {"a": "rtx3090"}})
    (directory / "group_data/rtx3090.py").write_text(written("rtx3090"))


def one_new(directory: Path) -> None:
    """A box in a group that has no file."""
    _make(directory, {"boxes": {"a": "rtx3090_x2"}})


def three_hosts(directory: Path) -> None:
    """A new box, one whose card is another than declared, and one that cannot be reached."""
    _make(directory, {"boxes": {"a": "rx7900xt", "gone": None}, "rtx3090": {"b": "no_driver_ubuntu"}})
    (directory / "group_data/rtx3090.py").write_text(written("rtx3090"))


def boxes_that_differ(directory: Path) -> None:
    """Two boxes of one group, which one file cannot declare."""
    _make(directory, {"boxes": {"a": "rtx4060ti", "b": "p40"}})


def _make(directory: Path, groups: Mapping[str, Mapping[str, str | None]]) -> None:
    """:param groups: of the inventory: name of a host -> its hardware, None for one that cannot be reached"""
    with contextlib.redirect_stdout(io.StringIO()):
        assert init([str(directory)]) == 0
    listed = {
        group: [GONE if kind is None else (f"@fake/{host}", _fake(BOXES[kind])) for host, kind in hosts.items()]
        for group, hosts in groups.items()
    }
    (directory / "hosts.json").write_text(json.dumps(listed))
    lines = ["import json", "", '_hosts = json.load(open("hosts.json"))']
    lines += [f'{group} = [(name, data) for name, data in _hosts["{group}"]]' for group in groups]
    (directory / "inventory/home.py").write_text("".join(f"{line}\n" for line in lines))


def _fake(answers: Answers) -> dict[str, Any]:
    replies: dict[str, str] = {}
    paths = value(Query(InstalledToolkits), answers)
    for queries in (list(queries_of_survey()), list(queries_of_toolkits(paths))):
        replies |= batch_reply(queries, {each: answers.get(each.fact, "") for each in queries})
    return {"fake_delay": 0, "fake_delay_jitter": 0, "fake_responses": replies}
