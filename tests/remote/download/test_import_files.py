"""Model files that already lie on the box: which are taken, how, and what stays as it was."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from llamarig.remote.download import import_files
from llamarig.remote.download.fetch_shards import Fetch
from llamarig.remote.download.import_files import regular_files
from llamarig.remote.shared.job_status import JobFailedError, Progress
from llamarig.remote.shared.jobs import FetchFile, FetchJob, ImportFile, ImportJob

CONTENT = os.urandom(3_000_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
NOBODY = 65534


class Box:
    """A model store and a directory with somebody's files, on one file system."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.store, self.models = root / "store", root / "models"
        self.target = self.store / "o/r/c/m.gguf"
        self.models.mkdir()

    def file(self, name: str = "m.gguf", content: bytes = CONTENT, *, owner: int = NOBODY, mode: int = 0o644) -> Path:
        path = self.models / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        os.chown(path, owner, owner)
        path.chmod(mode)
        return path

    def take(self, *, move: bool = False, reserve: int = 0, directories: tuple[str, ...] = ()) -> str:
        file = ImportFile(
            size=len(CONTENT),
            sha256=SHA256,
            target=str(self.target),
            partial=str(self.store / ".partial" / SHA256),
            directories=directories or (str(self.models),),
            move=move,
        )
        job = ImportJob(store=str(self.store), group=None, reserve=reserve, files=(file,))
        status = self.root / "job"
        status.mkdir(exist_ok=True)
        return import_files.import_files(job, Progress(status))

    def assert_imported(self) -> None:
        assert self.target.read_bytes() == CONTENT
        record = json.loads(self.target.with_name(".m.gguf.verified.json").read_text())
        assert (record["sha256"], record["inode"]) == (SHA256, self.target.stat().st_ino)
        assert list((self.store / ".partial").glob(f"{SHA256}*")) == []


@pytest.fixture
def box(tmp_path: Path) -> Box:
    # Only root may give a file to another user. The automatic run is root's, so that these tests run there.
    if os.geteuid() != 0:
        pytest.skip("gives files to other users, as root")
    return Box(tmp_path)


def test_a_file_of_another_user_becomes_a_copy_of_ours(box: Box) -> None:
    source = box.file()
    assert box.take() in ("m.gguf copied", "m.gguf cloned")
    box.assert_imported()
    assert not box.target.samefile(source)
    found = box.target.stat()
    assert (found.st_uid, stat.S_IMODE(found.st_mode)) == (0, 0o640)
    assert source.read_bytes() == CONTENT
    assert stat.S_IMODE(source.stat().st_mode) == 0o644
    source.write_bytes(b"changed")
    box.assert_imported()


def without_clones(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on ext4, which has no clones."""
    monkeypatch.setattr(import_files, "_clone", lambda source, part: "")


def test_a_file_of_roots_is_linked_and_keeps_its_owner_and_mode(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    without_clones(monkeypatch)
    source = box.file(owner=0)
    assert box.take() == "m.gguf linked"
    box.assert_imported()
    assert box.target.samefile(source)
    assert stat.S_IMODE(source.stat().st_mode) == 0o644


@pytest.mark.parametrize(("owner", "mode"), [(NOBODY, 0o444), (0, 0o664), (0, 0o646), (0, 0o600)])
def test_a_file_that_somebody_else_may_write_or_that_not_all_may_read_is_not_linked(
    owner: int, mode: int, box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_clones(monkeypatch)
    source = box.file(owner=owner, mode=mode)
    assert box.take() == "m.gguf copied"
    assert not box.target.samefile(source)
    box.assert_imported()


def test_a_file_is_moved_where_its_owner_says_so(box: Box) -> None:
    source = box.file()
    inode = source.stat().st_ino
    assert box.take(move=True) == "m.gguf moved"
    box.assert_imported()
    assert not source.exists()
    found = box.target.stat()
    assert (found.st_ino, found.st_uid, stat.S_IMODE(found.st_mode)) == (inode, 0, 0o640)


def test_a_file_with_another_name_is_not_moved_but_copied(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its owner could still write it under that name."""
    without_clones(monkeypatch)
    source = box.file()
    os.link(source, box.models / "other name")
    assert box.take(move=True).startswith("m.gguf moved")
    box.assert_imported()
    assert box.target.stat().st_nlink == 1


@pytest.mark.parametrize("move", [False, True])
def test_a_file_of_the_same_size_with_other_bytes_stays_where_and_as_it_is(move: bool, box: Box) -> None:
    other = os.urandom(len(CONTENT))
    source = box.file(content=other, mode=0o640)
    assert box.take(move=move) == "1 of 1 not found there, and downloaded"
    assert source.read_bytes() == other
    assert (source.stat().st_uid, stat.S_IMODE(source.stat().st_mode)) == (NOBODY, 0o640)
    assert not box.target.exists()
    assert list((box.store / ".partial").glob(f"{SHA256}*")) == []


def test_the_right_file_is_found_among_others_under_any_name(box: Box) -> None:
    box.file(content=os.urandom(len(CONTENT)))
    box.file("a/b/renamed.bin")
    box.file("shorter.gguf", CONTENT[:-1])
    assert box.take().startswith("m.gguf ")
    box.assert_imported()


def hub_cache(box: Box) -> None:
    blob = box.file(f"hub/models--o--r/blobs/{SHA256}")
    snapshot = box.models / "hub/models--o--r/snapshots/c"
    snapshot.mkdir(parents=True)
    (snapshot / "m.gguf").symlink_to(os.path.relpath(blob, snapshot))


def linked_file(box: Box) -> None:
    elsewhere = box.root / "elsewhere.gguf"
    elsewhere.write_bytes(CONTENT)
    (box.models / "m.gguf").symlink_to(elsewhere)


def linked_directory(box: Box) -> None:
    elsewhere = box.root / "disk"
    elsewhere.mkdir()
    (elsewhere / "m.gguf").write_bytes(CONTENT)
    (box.models / "to").symlink_to(elsewhere)
    (elsewhere / "back").symlink_to(box.models)


def linked_root(box: Box) -> None:
    linked_directory(box)
    shutil.rmtree(box.models)
    box.models.symlink_to(box.root / "disk")


@pytest.mark.parametrize("stored", [hub_cache, linked_file, linked_directory, linked_root])
def test_stores_with_links_work(stored: Callable[[Box], None], box: Box) -> None:
    stored(box)
    assert box.take().startswith("m.gguf ")
    box.assert_imported()


def test_a_link_to_nothing_and_a_directory_that_is_missing_are_named(
    box: Box, capsys: pytest.CaptureFixture[str]
) -> None:
    (box.models / "m.gguf").symlink_to("/nowhere")
    missing = str(box.root / "missing")
    assert "not found there" in box.take(directories=(str(box.models), missing))
    printed = capsys.readouterr().out
    assert f"{box.models}/m.gguf leads to /nowhere, which is not there" in printed
    assert f"import_from {missing}: No such file or directory" in printed


def test_files_of_the_store_itself_are_not_taken(box: Box) -> None:
    inside = box.store / "o/r/d/old.gguf"
    inside.parent.mkdir(parents=True)
    inside.write_bytes(CONTENT)
    assert "not found there" in box.take(move=True, directories=(str(box.root),))
    assert inside.exists()


def test_a_copy_leaves_the_reserve_free(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    without_clones(monkeypatch)
    box.file()
    with pytest.raises(
        JobFailedError, match=r"a copy of m\.gguf needs 0\.00 GiB, and .* make room, or declare import_by"
    ):
        box.take(reserve=1 << 62)
    assert not box.target.exists()


def test_a_file_that_is_there_is_left_to_the_download(box: Box) -> None:
    box.file()
    box.target.parent.mkdir(parents=True)
    box.target.write_bytes(CONTENT)
    inode = box.target.stat().st_ino
    box.take()
    assert box.target.stat().st_ino == inode


@pytest.mark.parametrize("level", ["file", "revision", "owner"])
def test_a_link_below_the_store_is_one_message(level: str, box: Box) -> None:
    elsewhere = box.root / "elsewhere"
    elsewhere.mkdir()
    link = {"file": box.target, "revision": box.target.parent, "owner": box.store / "o"}[level]
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(elsewhere)
    message = f"{link} is a link to {elsewhere}: a server's sandbox does not see what is there. Remove the link"
    with pytest.raises(JobFailedError) as error:
        box.take()
    assert message in str(error.value)
    file = FetchFile("o/r", "c", "m.gguf", len(CONTENT), SHA256, str(box.target), str(box.store / ".partial/x"), ())
    job = FetchJob("https://hub.invalid", None, None, None, 1, 1, 1, 1, 1, 1, 1, (file,))
    with pytest.raises(JobFailedError) as error:
        Fetch(job, Progress(box.root / "job")).run()
    assert message in str(error.value)


def test_each_file_is_seen_once(box: Box) -> None:
    path = box.file()
    os.link(path, box.models / "again")
    (box.models / "loop").symlink_to(box.models)
    assert [found.stat().st_ino for found in regular_files(str(box.models))] == [path.stat().st_ino]
