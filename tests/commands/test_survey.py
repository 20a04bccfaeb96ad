"""tasks/survey.py in a repository of the owner's own, where nothing may be written."""

from __future__ import annotations

from pathlib import Path

import click
import pytest
from llamarig.commands.init import init

from tests.prepared_pyinfra import run_pyinfra
from tests.screens import survey_boxes


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    assert init([str(tmp_path)]) == 0
    return tmp_path


def files(repository: Path) -> list[str]:
    return sorted(path.name for path in (repository / "group_data").glob("*.py"))


def test_a_box_that_does_not_answer_gets_no_file(repository: Path) -> None:
    """A host without an inventory file, which answers every command with nothing."""
    done = run_pyinfra("-y", "@fake/x", "tasks/survey.py", cwd=repository)
    assert done.returncode == 1
    assert "this box does not answer `uname -m`, so nothing is written for it" in done.stdout + done.stderr
    assert files(repository) == ["all.py"]


def test_a_dry_run_writes_nothing(tmp_path: Path) -> None:
    survey_boxes.one_new(tmp_path)
    done = run_pyinfra("--dry", "inventory/home.py", "tasks/survey.py", cwd=tmp_path)
    assert done.returncode == 0
    assert "@fake/a: read, and nothing was written: leave --dry out" in click.unstyle(done.stdout + done.stderr)
    assert files(tmp_path) == ["all.py"]


def test_a_file_of_the_owners_with_the_groups_name_stays(tmp_path: Path) -> None:
    """It holds data of the group, and no rig."""
    survey_boxes.one_new(tmp_path)
    (tmp_path / "group_data/boxes.py").write_text('ssh_user = "root"\n')
    done = run_pyinfra("-y", "inventory/home.py", "tasks/survey.py", cwd=tmp_path)
    text = click.unstyle(done.stdout + done.stderr)
    assert "wrote group_data/rtx3090_x2.py" in text
    assert 'list it so: rtx3090_x2 = [("@fake/a", {...})] with its data as it is' in text
    assert (tmp_path / "group_data/boxes.py").read_text() == 'ssh_user = "root"\n'
