"""Files that are replaced whole. What holds for each record is in tests/records/test_store.py."""

from __future__ import annotations

import json
import os
import resource
import stat
import subprocess
import sys
from pathlib import Path

import llamarig
import pytest
from llamarig.remote.build import build_release
from llamarig.remote.build.build_release import fetch_source
from llamarig.remote.build.release_files import INSTALLED, put_in_place
from llamarig.remote.shared import durable
from llamarig.remote.shared.durable import locked, replace_file, replace_files
from llamarig.remote.shared.job_status import Progress
from llamarig.remote.shared.jobs import Source

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(llamarig.__file__).parents[1])}
COUNT = """
import json, sys
from pathlib import Path
from llamarig.remote.shared.durable import locked, replace_file
path, name = Path(sys.argv[1]), sys.argv[2]
for number in range(200):
    with locked(path):
        replace_file(path, json.dumps({**json.loads(path.read_text()), f"{name}{number}": number}))
"""
REPLACE = """
import sys
from pathlib import Path
from llamarig.remote.shared.durable import replace_file
for number in range(200):
    replace_file(Path(sys.argv[1]), sys.argv[2] * 10_000)
"""


def run_two(program: str, path: Path) -> None:
    processes = [
        subprocess.Popen([sys.executable, "-c", program, str(path), name], env=ENVIRONMENT) for name in ("a", "b")
    ]
    assert [process.wait(120) for process in processes] == [0, 0]


def test_two_processes_that_change_a_file_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    path.write_text("{}")
    run_two(COUNT, path)
    assert len(json.loads(path.read_text())) == 400
    assert list(tmp_path.iterdir()) == [path]


def test_two_processes_that_replace_a_file_without_a_lock_do_not_remove_each_others_temporary_files(
    tmp_path: Path,
) -> None:
    path = tmp_path / "unit.service"
    run_two(REPLACE, path)
    assert path.read_text() in ("a" * 10_000, "b" * 10_000)
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_replaces_none_of_several_files(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    first.write_text("old")
    second.write_text("old")
    child = os.fork()
    if not child:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
        try:
            replace_files({first: "new", second: "x" * 1000})
        except OSError:
            os._exit(7)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    assert (first.read_text(), second.read_text()) == ("old", "old")
    assert sorted(tmp_path.iterdir()) == [first, second]


@pytest.mark.parametrize("old", [None, 0o644])
def test_a_file_has_its_mode_before_it_has_its_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, old: int | None
) -> None:
    path = tmp_path / "secret"
    if old is not None:
        path.write_text("old")
        path.chmod(old)
    fchmod, modes = os.fchmod, list[int]()

    def logged(descriptor: int, mode: int) -> None:
        modes.append(stat.S_IMODE(os.fstat(descriptor).st_mode))
        fchmod(descriptor, mode)

    monkeypatch.setattr(os, "fchmod", logged)
    replace_file(path, b"new", mode=0o640)
    assert modes == [0o600], "others could read it before it had its mode"
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_the_lock_is_released_after_a_failure(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="of the caller"), locked(tmp_path / "record.json"):
        raise ValueError("of the caller")
    with locked(tmp_path / "record.json"):
        assert [path.name for path in tmp_path.iterdir()] == [".record.json.lock"]
    assert list(tmp_path.iterdir()) == []


def test_a_source_tree_is_on_the_disk_before_it_is_called_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A power cut may otherwise leave the marker and files without content, which would then be compiled."""
    calls: list[str] = []
    marker, sync, fsync = tmp_path / "work/source.commit", os.sync, os.fsync

    def fetched(url: str, commit: str, target: Path) -> None:
        target.mkdir(parents=True)
        (target / "CMakeLists.txt").write_text("")

    def logged_sync() -> None:
        calls.append(f"everything synced, marker {'there' if marker.exists() else 'absent'}")
        sync()

    def logged_fsync(descriptor: int) -> None:
        name = Path(f"/proc/self/fd/{descriptor}").readlink().name
        calls.append("marker synced" if name.startswith(".source.commit") else f"{name} synced")
        fsync(descriptor)

    monkeypatch.setattr(build_release, "_fetch_commit", fetched)
    monkeypatch.setattr(build_release, "build_number", lambda url, commit: 7)
    monkeypatch.setattr(os, "sync", logged_sync)
    monkeypatch.setattr(os, "fsync", logged_fsync)
    source = Source(kind="git", url="https://example.test/llama.cpp", commit="c" * 40)
    fetch_source(source, tmp_path / "work/source", tmp_path / "cache", Progress(tmp_path))
    assert marker.read_text() == "c" * 40
    assert calls == ["everything synced, marker absent", "marker synced", "work synced"]


def test_a_finished_release_is_on_the_disk_before_a_unit_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    part, release, sync, fsync = tmp_path / "c-1.part", tmp_path / "c-1", os.sync, os.fsync
    part.mkdir()

    def logged_sync() -> None:
        calls.append(f"everything synced, release {'there' if release.exists() else 'absent'}")
        sync()

    def logged_fsync(descriptor: int) -> None:
        name = Path(f"/proc/self/fd/{descriptor}").readlink()
        calls.append(f"{name} synced, release {'there' if release.exists() else 'absent'}")
        fsync(descriptor)

    monkeypatch.setattr(os, "sync", logged_sync)
    monkeypatch.setattr(os, "fsync", logged_fsync)
    put_in_place(part, release)
    assert calls == [
        f"{tmp_path}/{INSTALLED} synced, release absent",
        "everything synced, release absent",
        f"{tmp_path} synced, release there",
    ]


def test_a_lock_that_is_never_released_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(durable, "LOCK_WAIT_S", 0.1)
    with (
        locked(tmp_path / "record.json"),
        pytest.raises(durable.LockHeldError, match=r"has held .*/\.record\.json\.lock for 0 s"),
        locked(tmp_path / "record.json"),
    ):
        pass
