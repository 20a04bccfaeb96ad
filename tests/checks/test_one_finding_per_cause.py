"""Findings that belong together: one cause is one finding."""

from __future__ import annotations

from dataclasses import replace

from llamarig.checks.base import Severity
from llamarig.checks.box import Box
from llamarig.checks.registry import findings, selected
from llamarig.engine.item import Difference
from llamarig.facts.stray_settings import ServerProcess, Strays

from tests.checks.example_boxes import REHEARSAL, R, look, rig


def test_the_remedy_of_a_refusal_is_not_to_run_deploy() -> None:
    space = "model files need 40 GiB more than there is: free 40 GiB under /var/lib/llamarig/models"
    differences = {
        "Model files": [Difference.refusal_of("model files", "there", space)],
        "Python": [Difference.refusal_of("Python", "installed", "no Python can be installed")],
    }
    found = {
        finding.check: finding for finding in findings(selected(("llama", "deploy")), R, Box(differences=differences))
    }
    assert found.keys() == {"llama.model-files", "deploy.operation"}
    assert found["llama.model-files"].found == space
    assert found["deploy.operation"].found == "no Python can be installed"
    assert {finding.remedy for finding in found.values()} == {"fix that, then run deploy.py"}
    assert not any(finding.by_deploy for finding in found.values())
    mixed = {"Python": [Difference("a.py", "there", "not there"), *differences["Python"]]}
    (refused,) = look("deploy.operation", R, Box(differences=mixed))
    assert refused.found == "no Python can be installed"
    assert refused.remedy == "fix that, then run deploy.py"
    missing = {"Model files": [Difference("model file m.gguf", "there", "not there")]}
    (fixable,) = look("llama.model-files", R, Box(differences=missing))
    assert (fixable.remedy, fixable.by_deploy) == ("run deploy.py", True)


def stray(unit: str, pid: int) -> ServerProcess:
    """A server that listens on all addresses because of its environment."""
    environment = ("LLAMA_ARG_CTX_SIZE", "LLAMA_ARG_HOST")
    return ServerProcess(pid, ("/x/llama-server",), unit, environment, listens=(f"0.0.0.0:{pid}",))


def test_a_stray_server_is_one_finding_with_its_consequences() -> None:
    box = Box(strays=Strays(servers=(stray("", 7), stray("mine.service", 8))))
    found = findings(selected(("llama",)), R, box)
    assert [finding.check for finding in found] == ["llama.other-servers"] * 2
    assert found[0].found == (
        "process 7; LLAMA_ARG_CTX_SIZE set in the running process; LLAMA_ARG_HOST set in the running process; "
        "listens on 0.0.0.0:7 without a key"
    )
    assert found[1].found.startswith("process 8 of mine.service; LLAMA_ARG")
    assert [finding.severity for finding in found] == [Severity.ERROR] * 2
    alone = findings(selected(("llama.open-port",)), R, box)
    assert [finding.check for finding in alone] == ["llama.open-port"] * 2, "the check of its cause was not selected"


def test_an_edited_unit_is_one_finding_with_its_consequences() -> None:
    unit = "llamarig-tiny.service"
    edited = {"Models served": [Difference(unit, "the unit text rendered from this repository", "another text")]}
    box = Box(strays=Strays(servers=(stray(unit, 7),)), differences=edited)
    (finding,) = findings(selected(("llama",)), R, box)
    assert (finding.check, finding.about, finding.remedy) == ("llama.units", unit, "run deploy.py")
    assert finding.found.startswith("another text; ")
    assert finding.found.endswith("; listens on 0.0.0.0:7 without a key")
    # An open port is a finding of its own if the unit is as declared, and so is each consequence of an accepted cause.
    declared = findings(selected(("llama",)), R, replace(box, differences={}))
    assert {finding.check for finding in declared} == {"llama.environment", "llama.open-port"}
    accepting = rig(REHEARSAL, accepted={f"llama.units {unit}": "an experiment"})
    found = findings(selected(("llama",)), accepting, box)
    assert {finding.check for finding in found if finding.fails} == {"llama.environment", "llama.open-port"}
