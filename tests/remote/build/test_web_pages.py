"""The pages of the web UI are in a release that is to have them, or the build fails in words."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from llamarig.remote.build.web_pages import compile_pages
from llamarig.remote.shared.job_status import JobFailedError, Progress

ON = {"LLAMA_BUILD_UI": "ON"}


@pytest.fixture
def objects(tmp_path: Path) -> Path:
    (tmp_path / "source/tools/ui").mkdir(parents=True)
    (tmp_path / "source/tools/ui/package.json").write_text("{}")
    (tmp_path / "objects").mkdir()
    return tmp_path / "objects"


@pytest.fixture
def progress(tmp_path: Path) -> Progress:
    (tmp_path / "job").mkdir()
    return Progress(tmp_path / "job")


def cmake(objects: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """Let a script stand for CMake, whose target needs a whole source tree and the npm registry."""
    program = objects.parent / "bin/cmake"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")


def compiled(objects: Path, definitions: dict[str, str], progress: Progress) -> None:
    compile_pages(objects.parent / "source", objects, definitions, progress)


def test_llama_cpps_own_target_compiles_them(
    objects: Path, monkeypatch: pytest.MonkeyPatch, progress: Progress
) -> None:
    pages = '"$2/tools/ui/dist"'
    cmake(objects, monkeypatch, f'echo "$@" >"$2/arguments"; mkdir -p {pages}; : >{pages}/index.html')
    compiled(objects, ON, progress)
    assert (objects / "arguments").read_text().split() == ["--build", str(objects), "--target", "llama-ui-assets"]


def test_a_release_without_them_runs_nothing(
    objects: Path, monkeypatch: pytest.MonkeyPatch, progress: Progress
) -> None:
    cmake(objects, monkeypatch, 'touch "$2/ran"; exit 1')
    compiled(objects, {"LLAMA_BUILD_UI": "OFF"}, progress)
    assert not (objects / "ran").exists()


def test_pages_that_cmake_leaves_out_silently_fail_the_build(
    objects: Path, monkeypatch: pytest.MonkeyPatch, progress: Progress
) -> None:
    """CMake goes on without pages where npm fails."""
    cmake(objects, monkeypatch, "echo 'npm error code ENOTFOUND'; echo 'UI: npm install failed'")
    with pytest.raises(JobFailedError, match=r"/etc/npmrc.*leave web_ui out.*journalctl") as failed:
        compiled(objects, ON, progress)
    assert failed.value.lines == ["npm error code ENOTFOUND", "UI: npm install failed"]


def test_a_tree_without_pages_is_refused(objects: Path, progress: Progress) -> None:
    (objects.parent / "source/tools/ui/package.json").unlink()
    with pytest.raises(JobFailedError, match="declare a newer commit, or leave web_ui out"):
        compiled(objects, ON, progress)
