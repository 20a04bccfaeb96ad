"""The package installs with the README's commands, with pip, and as a uv tool. Needs PyPI."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from tests.box.deployment import REPOSITORY_ROOT
from tests.box.paths import Rehearsal
from tests.readme_commands import INSTALL
from tests.set_up import UV_VERSION

pytestmark = pytest.mark.box

NO_HOST = ("-y", "--limit", "nobody", "inventory/home.py", "deploy.py")
REFUSED = "inventory/home.py: --limit nobody leaves no host"
"""Printed by config.py after it has read inventory and group_data, so the package was found and works."""


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A copy of the working tree with uncommitted changes and without ignored files."""
    directory = tmp_path / "clone"
    listed = run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], REPOSITORY_ROOT).stdout
    for name in listed.split("\0"):
        source, target = REPOSITORY_ROOT / name, directory / name
        if name and source.is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(source.read_bytes())
    return directory


@pytest.fixture
def uv(users_box: Rehearsal) -> str:
    return str(users_box.cache / f"uv-{UV_VERSION}/bin/uv")


def run(command: Sequence[str], cwd: Path, extra: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    return subprocess.run(
        command,
        cwd=cwd,
        env={**environment, "UV_SYSTEM_CERTS": "1", "UV_PYTHON_DOWNLOADS": "never", **(extra or {})},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


def install(command: Sequence[str], cwd: Path, extra: Mapping[str, str] | None = None) -> None:
    done = run(command, cwd, extra)
    assert done.returncode == 0, done.stderr


def test_pyinfra_runs_after_the_readmes_commands_in_the_clone_and_in_a_repository_of_ones_own(
    clone: Path, uv: str
) -> None:
    install(["sh", "-e", "-c", "\n".join(INSTALL)], clone, {"PATH": f"{Path(uv).parent}:/usr/bin:/bin"})
    boxes = clone.parent / "boxes"
    for repository in (clone, boxes):
        done = run([".venv/bin/pyinfra", *NO_HOST], repository)
        assert done.returncode == 1
        assert REFUSED in done.stderr
    assert f'"llamarig @ file://{clone}"' in (boxes / "pyproject.toml").read_text()
    # A script runs the installed one of its name.
    listed = run([".venv/bin/pyinfra", "@local", "tasks/audit.py", "-y", "--data", "list=1"], boxes)
    assert "gpu.pcie" in listed.stderr, listed.stderr


def test_a_repository_depends_on_the_commit_that_llamarig_was_installed_from(
    clone: Path, tmp_path: Path, uv: str
) -> None:
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b", "-c", "init.defaultBranch=main"]
    for words in (["init", "--quiet"], ["add", "-A"], ["commit", "--quiet", "-m", "x"]):
        install([*git, *words], clone)
    commit = run([*git, "rev-parse", "HEAD"], clone).stdout.strip()
    environment = tmp_path / "environment"
    install([sys.executable, "-m", "venv", str(environment)], tmp_path)
    # The pip of Python 3.11 takes no file: URL of a repository.
    python = str(environment / "bin/python")
    install([uv, "pip", "install", "--quiet", "--python", python, f"llamarig @ git+file://{clone}"], tmp_path)
    install([str(environment / "bin/llamarig"), "init", "boxes", "--example", "rx7900xt"], tmp_path)
    boxes = tmp_path / "boxes"
    assert f'"llamarig @ git+file://{clone}@{commit}"' in (boxes / "pyproject.toml").read_text()
    install([uv, "sync", "--python", sys.executable], boxes)
    done = run([".venv/bin/pyinfra", *NO_HOST], boxes)
    assert REFUSED in done.stderr, done.stderr


def test_a_repository_depends_on_the_archive_that_llamarig_was_installed_from(
    clone: Path, tmp_path: Path, uv: str
) -> None:
    install([uv, "build", "--quiet", "--sdist", "--out-dir", str(tmp_path)], clone)
    (archive,) = tmp_path.glob("llamarig-*.tar.gz")
    environment = tmp_path / "environment"
    install([sys.executable, "-m", "venv", str(environment)], tmp_path)
    install([str(environment / "bin/python"), "-m", "pip", "install", "--quiet", str(archive)], tmp_path)
    install([str(environment / "bin/llamarig"), "init", "boxes", "--example", "rx7900xt"], tmp_path)
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    assert f'"llamarig @ file://{archive}#sha256={digest}"' in (tmp_path / "boxes/pyproject.toml").read_text()
    install([uv, "sync", "--python", sys.executable], tmp_path / "boxes")


def test_pyinfra_installed_with_pip_runs_from_another_directory(clone: Path, tmp_path: Path) -> None:
    environment = tmp_path / "environment"
    install([sys.executable, "-m", "venv", str(environment)], tmp_path)
    install([str(environment / "bin/python"), "-m", "pip", "install", "--quiet", str(clone)], tmp_path)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    done = run([str(environment / "bin/pyinfra"), "--chdir", str(clone), *NO_HOST], elsewhere)
    assert done.returncode == 1
    assert REFUSED in done.stderr


def test_llamarig_installed_as_a_uv_tool_runs(clone: Path, tmp_path: Path, uv: str) -> None:
    directories = {"UV_TOOL_DIR": str(tmp_path / "tools"), "UV_TOOL_BIN_DIR": str(tmp_path / "bin")}
    install([uv, "tool", "install", "--python", sys.executable, str(clone)], tmp_path, directories)
    program = str(tmp_path / "bin/llamarig")
    assert run([program, "--version"], tmp_path).stdout.startswith("llamarig 0.1.0, pyinfra 3.")
    done = run([program, *NO_HOST], clone)
    assert done.returncode == 1
    assert REFUSED in done.stderr
