"""The first line of the block that each command ends with."""

from __future__ import annotations

import pytest
from llamarig.commands.closing import AS_DECLARED, CHANGED, DONE, FAILED, WOULD_CHANGE, HostVerdict, heading


@pytest.mark.parametrize(
    ("kinds", "is_dry", "line"),
    [
        ((AS_DECLARED,), False, "1 of 1 host is as declared"),
        ((CHANGED, AS_DECLARED), False, "2 of 2 hosts are as declared"),
        ((CHANGED, AS_DECLARED, FAILED), False, "2 of 3 hosts are as declared"),
        ((FAILED, CHANGED), False, "1 of 2 hosts is as declared"),
        ((FAILED, FAILED), False, "0 of 2 hosts are as declared"),
        ((AS_DECLARED, WOULD_CHANGE, FAILED), True, "1 of 3 hosts is as declared, and nothing was changed"),
    ],
)
def test_a_deploy_counts_the_hosts_that_are_as_declared(kinds: tuple[str, ...], is_dry: bool, line: str) -> None:
    assert heading([HostVerdict("h", kind, "") for kind in kinds], converges=True, is_dry=is_dry) == line


@pytest.mark.parametrize(
    ("kinds", "line"), [((DONE,), "1 host"), ((DONE, DONE), "2 hosts"), ((DONE, FAILED), "1 of 2 hosts")]
)
def test_another_command_counts_the_hosts_on_which_it_succeeded(kinds: tuple[str, ...], line: str) -> None:
    assert heading([HostVerdict("h", kind, "") for kind in kinds], converges=False, is_dry=False) == line
