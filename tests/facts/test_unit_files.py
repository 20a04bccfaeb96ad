"""Unit files and their state in systemd."""

from __future__ import annotations

import base64

from llamarig.facts.unit_files import UnitFile, UnitFiles


def test_unit_files_are_parsed() -> None:
    text = "[Unit]\nDescription=x\n"
    output = [
        "unit=a.timer",
        f"text={base64.b64encode(text.encode()).decode()}",
        "ActiveState=active",
        "UnitFileState=enabled",
        "NeedDaemonReload=yes",
        "unit=b.service",
        "ActiveState=inactive",
        "UnitFileState=",
        "NeedDaemonReload=no",
    ]
    assert UnitFiles().process(output) == {"a.timer": UnitFile(text, True, True, True), "b.service": UnitFile()}
