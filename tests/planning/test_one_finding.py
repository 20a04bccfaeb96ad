"""What becomes of findings that belong together: one cause is one finding, and a refusal is its own remedy."""

from __future__ import annotations

from dataclasses import replace

from tasks.planning.checks.base import Severity
from tasks.planning.checks.box import Box, ServerProcess, Strays
from tasks.planning.checks.llama_cpp import ModelFiles
from tasks.planning.checks.registry import findings, selected
from tasks.planning.difference import Difference
from tests.planning.test_checks import REHEARSAL, R, look, rig


def test_nobody_is_sent_to_run_deploy_where_that_refuses() -> None:
    """By the words of the operation that would refuse, once, and only where it closes the finding."""
    room = "model files need 40 GiB more than there is: free 40 GiB under /var/lib/llamarig/models"
    lacking = {"llama.model-files": [Difference("model file m.gguf", "there", "not there")]}
    operations = {"Models | Downloads": (ModelFiles,), "Toolchain | Python": ()}
    refusals = {"Models | Downloads": room, "Toolchain | Python": "no Python is to be had"}
    box = Box(differences=lacking, operations=operations, refusals=refusals)
    found = {finding.check: finding for finding in findings(selected(("llama", "deploy")), R, box)}
    assert found.keys() == {"llama.model-files", "deploy.operation"}
    assert found["llama.model-files"].remedy == f"deploy.py refuses: {room}"
    assert found["deploy.operation"].found == "deploy.py refuses: no Python is to be had"
    assert not any(finding.by_deploy for finding in found.values())
    (mended,) = look("llama.model-files", R, replace(box, refusals={}))
    assert (mended.remedy, mended.by_deploy) == ("run deploy.py", True)


def stray(unit: str, pid: int) -> ServerProcess:
    """A server that was told by its environment to listen for everyone."""
    environment = ("LLAMA_ARG_CTX_SIZE", "LLAMA_ARG_HOST")
    return ServerProcess(pid, ("/x/llama-server",), unit, environment, listens=(f"0.0.0.0:{pid}",))


def test_a_stray_server_is_one_finding_with_all_it_does() -> None:
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
    assert [finding.check for finding in alone] == ["llama.open-port"] * 2, "its cause was not asked for"


def test_a_unit_that_was_edited_is_one_finding_with_all_that_follows() -> None:
    unit = "llamarig-tiny.service"
    edited = {"llama.units": [Difference(unit, "the unit text rendered from this repository", "another text")]}
    box = Box(strays=Strays(servers=(stray(unit, 7),)), differences=edited)
    (finding,) = findings(selected(("llama",)), R, box)
    assert (finding.check, finding.about, finding.remedy) == ("llama.units", unit, "run deploy.py")
    assert finding.found.startswith("another text; ")
    assert finding.found.endswith("; listens on 0.0.0.0:7 without a key")
    # As declared, and open all the same: told for itself; and so is what follows from a cause that was accepted.
    declared = findings(selected(("llama",)), R, replace(box, differences={}))
    assert {finding.check for finding in declared} == {"llama.environment", "llama.open-port"}
    accepting = rig(REHEARSAL, accepted={f"llama.units {unit}": "an experiment"})
    found = findings(selected(("llama",)), accepting, box)
    assert {finding.check for finding in found if finding.fails} == {"llama.environment", "llama.open-port"}
