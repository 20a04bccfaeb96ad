"""Two unit files have the same directives when a service started with one needs no restart for the other."""

from __future__ import annotations

import pytest
from llamarig.remote.shared.unit_directives import directives, directives_sha256

UNIT = """\
# A comment.
[Service]
ExecStartPre=-/opt/llamarig/python3 -I -B /opt/llamarig/lib/llamarig/remote/serve/wait_for_vram.py
ExecStart=/x/llama-server \\
  --port 8080
Environment=A=1
"""


@pytest.mark.parametrize(
    "change",
    [
        ("# A comment.", "; Another comment.\n"),
        ("llamarig/remote/serve/wait", "tasks/files/wait"),
        (" \\\n  --port", "  --port"),
        ("Environment", "\n  Environment"),
        ("Environment", "ExecStartPost=/p -I /x.py http://127.0.0.1:8080 300\nTimeoutStartSec=360\nEnvironment"),
        ("Environment", "DefaultDependencies=no\nAfter=sysinit.target basic.target\nEnvironment"),
    ],
    ids=["comment", "path of a helper", "line break", "blanks", "what ends a start", "what comes before it"],
)
def test_a_change_that_needs_no_restart(change: tuple[str, str]) -> None:
    changed = UNIT.replace(*change)
    assert changed != UNIT
    assert directives(changed) == directives(UNIT)
    assert directives_sha256(changed) == directives_sha256(UNIT)


@pytest.mark.parametrize(
    "change",
    [("8080", "8081"), ("A=1", "A=2"), ("Environment=A=1\n", ""), ("-I -B", "-B"), ("wait_for_vram", "wait_for_ram")],
)
def test_a_change_that_needs_a_restart(change: tuple[str, str]) -> None:
    assert directives_sha256(UNIT.replace(*change)) != directives_sha256(UNIT)


def test_a_helper_that_is_started_as_a_module() -> None:
    old = "ExecStart=/p -B -m tasks.files.probe_servers /s"
    new = "ExecStart=/p -B -m llamarig.remote.serve.probe_servers /s"
    assert directives(old) == directives(new) == ("ExecStart=/p -B -m probe_servers /s",)
