"""A sandbox that systemd or the kernel does not apply: the audit says so, and a deploy where that matters."""

from __future__ import annotations

from typing import Any

import pytest
from llamarig.checks.base import Severity
from llamarig.checks.box import Box
from llamarig.checks.sandbox_note import SandboxNote
from llamarig.declare.rig import Rig
from llamarig.engine.control_machine import ControlMachine
from llamarig.engine.item import Seen
from llamarig.facts.sandbox_support import Filtering, PacketFilter, SystemdVersion

from tests.checks.example_boxes import BOX_B, UNIT_B, look, rig

LOCAL: dict[str, Any] = {"host": "127.0.0.1"}
BEYOND: dict[str, Any] = {"host": "0.0.0.0", "api_key_file": "/etc/llamarig/keys/api"}


def declared(fields: dict[str, Any]) -> Rig:
    return rig({**BOX_B, "models": [{**one, "serve": {**one["serve"], **fields}} for one in BOX_B["models"]]})


def notes(filtering: Filtering, fields: dict[str, Any], systemd: int | None = 257) -> list[str]:
    """What a deploy prints of a box where this was found."""
    of = declared(fields)
    queries = SandboxNote().queries(of, ControlMachine())
    found = {PacketFilter: filtering, SystemdVersion: systemd}
    seen = Seen("box", ControlMachine(), {one: found[one.fact] for one in queries})
    assert SandboxNote().differences(of, seen) == []
    return list(SandboxNote().notes(of, seen))


def test_a_model_that_listens_to_the_network_unfiltered_fails_the_audit_and_is_named_by_every_deploy() -> None:
    (finding,) = look("llama.clients", declared(BEYOND), Box(packet_filter="ignored"))
    assert (finding.about, finding.severity, finding.fails) == (UNIT_B, Severity.WARNING, True)
    assert finding.found == "every address can connect to it, and be reached from it"
    assert "CONFIG_CGROUP_BPF" in finding.remedy
    printed = "\n".join(notes("ignored", BEYOND))
    assert f"llama.clients {UNIT_B}: every address can connect to it" in printed
    assert "CONFIG_CGROUP_BPF" in printed


def test_one_on_loopback_is_a_note_of_the_audit_alone() -> None:
    (finding,) = look("llama.clients", declared(LOCAL), Box(packet_filter="ignored"))
    assert (finding.found, finding.severity, finding.fails) == ("it may reach other machines", Severity.NOTE, False)
    assert notes("ignored", LOCAL) == []


@pytest.mark.parametrize("filtering", ["applied", ""])
def test_where_packets_are_filtered_or_that_is_unknown_there_is_nothing_to_say(filtering: Filtering) -> None:
    assert look("llama.clients", declared(BEYOND), Box(packet_filter=filtering)) == []
    assert notes(filtering, BEYOND) == []


@pytest.mark.parametrize(
    ("output", "found"), [(["applied"], "applied"), (["ignored"], "ignored"), ([], ""), (["Failed to start"], "")]
)
def test_only_an_answer_of_the_unit_itself_is_taken(output: list[str], found: Filtering) -> None:
    assert PacketFilter().process(output) == found


@pytest.mark.parametrize(("version", "severity"), [(247, Severity.WARNING), (249, Severity.NOTE), (251, Severity.NOTE)])
def test_a_systemd_that_is_older_than_those_tried_is_named(version: int, severity: Severity) -> None:
    (finding,) = look("llama.systemd", declared(LOCAL), Box(systemd=version))
    assert (finding.found, finding.severity) == (f"systemd {version}", severity)
    assert bool(notes("", LOCAL, version)) is (severity is Severity.WARNING)


@pytest.mark.parametrize("version", [252, 257, None])
def test_one_that_was_tried_is_not(version: int | None) -> None:
    assert look("llama.systemd", declared(LOCAL), Box(systemd=version)) == []
    assert notes("", LOCAL, version) == []


@pytest.mark.parametrize(
    ("line", "version"),
    [("systemd 252 (252.39-1~deb12u1)", 252), ("systemd 260~rc1 (x)", None), ("", None), ("bash: no systemctl", None)],
)
def test_the_version_is_read_of_systemctl(line: str, version: int | None) -> None:
    assert SystemdVersion().process([line]) == version
