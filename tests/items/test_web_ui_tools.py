"""Which Node.js compiles the pages of the web UI, and what is said where there is none."""

from __future__ import annotations

import re
from typing import Any

import pytest
from llamarig import declare as d
from llamarig.declare.rig import Rig
from llamarig.items.web_ui_tools import NodeInstalled, compiles_pages

from tests.engine.fake_run import OperationFailedError, converged_commands
from tests.items.package_managers import MANAGERS, package_replies


@pytest.mark.parametrize(
    ("version", "compiles"),
    [
        ("18.19.0", False),
        ("20.18.9", False),
        ("20.19.2", True),
        ("21.7.3", False),
        ("22.11.0", False),
        ("22.12.0", True),
        ("24.1", True),
        ("", False),
    ],
)
def test_the_versions_are_those_of_the_pages_own_lock(version: str, compiles: bool) -> None:
    assert compiles_pages(version) == compiles


def rig(web_ui: bool = True) -> Rig:
    build = d.build(name="b", backend="cpu")
    serve = d.serve(port=8080, context=4096, web_ui=web_ui)
    return Rig.model_validate(
        d.rig(builds=[build], models=[d.model(name="m", repo="o/r", quant="Q6", build="b", serve=serve)])
    )


def replies(node: str, family: str = "debian") -> dict[Any, Any]:
    return {**package_replies(family, []), "node --version": node}


def installs(commands: list[str], family: str) -> list[str]:
    return [command for command in commands if re.search(MANAGERS[family][3], command)]


@pytest.mark.parametrize(
    ("family", "npm"),
    [("debian", " npm"), ("arch", " npm"), ("fedora", " nodejs-npm")],
    ids=["debian", "arch", "fedora"],
)
def test_the_distributions_node_is_installed_where_it_can_compile_the_pages(family: str, npm: str) -> None:
    offer = "== own\n\n== npm\n\n== offered\n  Candidate: 20.19.2+dfsg-1"
    (install,) = installs(converged_commands([NodeInstalled()], rig(), replies(offer, family)), family)
    assert " nodejs" in install
    assert npm in install


def test_an_own_node_is_used_as_it_is() -> None:
    found = "== own\nv22.14.0\n\n== npm\n10.9.2\n\n== offered\n  Candidate: 18.13.0"
    assert not installs(converged_commands([NodeInstalled()], rig(), replies(found)), "debian")


@pytest.mark.parametrize(
    ("found", "said"),
    [
        ("== own\n\n== npm\n\n== offered\n  Candidate: 18.13.0", "its distribution has 18.13.0"),
        ("== own\n\n== npm\n\n== offered", "its distribution has none"),
        ("== own\nv18.19.1\n\n== npm\n9.2.0\n\n== offered\n  Candidate: 22.12.0", "Node.js 18.19.1 is installed"),
        ("== own\nv22.14.0\n\n== npm\n\n== offered", "Node.js 22.14.0 is installed without npm"),
    ],
    ids=["too old", "none", "an own one that is too old", "no npm"],
)
def test_a_box_that_cannot_compile_the_pages_is_refused_before_it_builds(
    found: str, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(OperationFailedError) as failed:
        converged_commands([NodeInstalled()], rig(), replies(found))
    for word in ("build b", "20.19 or newer", said, "built_by", "nothing was built"):
        assert word in caplog.text
    assert not installs(failed.value.commands, "debian")


def test_without_pages_no_fact_is_read() -> None:
    assert converged_commands([NodeInstalled()], rig(web_ui=False)) == []
