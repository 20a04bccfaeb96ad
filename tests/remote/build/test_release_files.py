"""A finished release is put in place so that there is a whole one of that name at every moment."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from llamarig.facts.releases import InstalledOrder
from llamarig.remote.build.release_files import INSTALLED, put_in_place

from tests.remote.serve.switched_box import HERE, PACKAGE

PUT = """
import os, runpy, sys
from pathlib import Path
runpy.run_path(os.environ["LLAMARIG_FAULT"])
from llamarig.remote.build.release_files import put_in_place
put_in_place(*map(Path, sys.argv[1:]))
"""


def directories(top: Path, content: str = "old") -> tuple[Path, Path]:
    """A finished release, and the one that it is to replace."""
    part, release = top / "release.part", top / "release"
    for path, text in ((part, "new"), (release, content)):
        if text:
            path.mkdir(parents=True)
            (path / "server").write_text(text)
    return part, release


def put(top: Path, *directories: Path, kind: str, at: int) -> None:
    """Put it in place in a process of its own, with a fault."""
    fault = {"KIND": kind, "AT": str(at), "COUNT": str(top / "count")}
    environment = {f"LLAMARIG_FAULT_{name}": value for name, value in fault.items()}
    environment |= {"LLAMARIG_FAULT": str(HERE / "fault_injection.py"), "PYTHONPATH": str(PACKAGE)}
    command = [sys.executable, "-B", "-c", PUT, *map(str, directories)]
    subprocess.run(command, env={**os.environ, **environment}, check=kind == "count")


def test_a_damaged_release_is_replaced_in_one_step(tmp_path: Path) -> None:
    """Killed before each of its operations: a box that boots then still has a release of that name."""
    part, release = directories(tmp_path / "whole")
    put(tmp_path, part, release, kind="count", at=0)
    assert (release / "server").read_text() == "new"
    assert sorted(path.name for path in release.parent.iterdir()) == [INSTALLED, "release"]
    count = int((tmp_path / "count").read_text())
    assert count >= 2, "the operations are not seen"
    for at in range(1, count + 1):
        part, release = directories(tmp_path / str(at))
        put(tmp_path, part, release, kind="kill", at=at)
        assert (release / "server").read_text() in ("old", "new"), f"killed before operation {at}"


def test_the_order_in_which_releases_are_put_in_place_is_kept(tmp_path: Path) -> None:
    for name in ("b", "a", "b"):
        part = tmp_path / f"{name}.part"
        part.mkdir()
        put_in_place(part, tmp_path / name)
    output = (tmp_path / INSTALLED).read_text().splitlines()
    assert InstalledOrder().process(output) == ["b", "a", "b"]


@pytest.mark.parametrize("kind", ["count", "kill"])
def test_a_new_release_is_there_whole_or_not_at_all(tmp_path: Path, kind: str) -> None:
    part, release = directories(tmp_path / "top", content="")
    put(tmp_path, part, release, kind=kind, at=1)
    assert release.exists() == (kind == "count")
    assert (release if kind == "count" else part).joinpath("server").read_text() == "new"
