"""The store of all records: power cuts, concurrent writers, and full disks lose no data."""

from __future__ import annotations

import fcntl
import os
import resource
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import llamarig
import pytest
from llamarig.records import store
from llamarig.records.model_lock import ModelLock, lock_model
from llamarig.records.store import RecordError
from llamarig.remote.shared import durable

from tests.records.sample_records import locked_model

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(llamarig.__file__).parents[1])}
ADD_MODELS = """
import sys
from llamarig.records.model_lock import LockedModel, lock_model, read_model_lock
path, name = sys.argv[1:]
entry = next(iter(read_model_lock(path).models.values()))
for number in range(200):
    lock_model(path, f"{name}{number}", entry)
"""
GREENLETS = """
from gevent import monkey
monkey.patch_all()
import sys, time, gevent
from llamarig.records import store
from llamarig.records.model_lock import ModelLock

path = sys.argv[1]
entry = next(iter(store.read(path, ModelLock).models.values()))

def change(name):
    def added(lock):
        time.sleep(0.05)  # another greenlet runs now, and must not get the lock
        return ModelLock(models={**lock.models, name: entry})
    store.update(path, ModelLock, added)

gevent.joinall([gevent.spawn(change, f"m{number}") for number in range(8)], raise_error=True)
"""


@pytest.fixture
def lock_file(tmp_path: Path) -> Path:
    path = tmp_path / "models.lock.json"
    lock_model(str(path), "m", locked_model())
    return path


def in_child(act: Callable[[], None]) -> int:
    """Run a function in a forked process; its exit status, or minus the signal that ended it."""
    child = os.fork()
    if not child:
        try:
            act()
            os._exit(0)
        except BaseException as error:
            os.write(2, f"{error!r}\n".encode())
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def files(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_power_cut_before_the_rename_keeps_the_old_content(lock_file: Path, call: str) -> None:
    before = lock_file.read_bytes()

    def power_cut(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def write() -> None:
        setattr(os, call, power_cut)
        lock_model(str(lock_file), "n", locked_model("d"))

    assert in_child(write) == -signal.SIGKILL
    assert lock_file.read_bytes() == before
    assert len(files(lock_file.parent)) == 3, "the file, the lock file, and the temporary file"
    lock_model(str(lock_file), "n", locked_model("d"))
    assert set(store.read(str(lock_file), ModelLock).models) == {"m", "n"}
    assert files(lock_file.parent) == [lock_file.name], "what the killed process left is removed"


def test_content_is_on_disk_before_the_rename_and_the_rename_before_it_returns(
    lock_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    fsync, replace = os.fsync, os.replace

    def logged_fsync(descriptor: int) -> None:
        calls.append("directory synced" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file synced")
        fsync(descriptor)

    def logged_replace(source: str, target: str) -> None:
        calls.append("renamed")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", logged_fsync)
    monkeypatch.setattr(os, "replace", logged_replace)
    lock_model(str(lock_file), "n", locked_model("d"))
    assert calls == ["file synced", "renamed", "directory synced"]


def test_two_processes_updating_at_once_lose_nothing(lock_file: Path) -> None:
    processes = [
        subprocess.Popen([sys.executable, "-c", ADD_MODELS, str(lock_file), name], env=ENVIRONMENT)
        for name in ("a", "b")
    ]
    assert [process.wait(120) for process in processes] == [0, 0]
    assert len(store.read(str(lock_file), ModelLock).models) == 401
    assert files(lock_file.parent) == [lock_file.name]


def test_greenlets_of_one_process_lose_nothing_and_do_not_block_each_other(lock_file: Path) -> None:
    """As under pyinfra's command line, which replaces `time.sleep` by gevent's."""
    subprocess.run([sys.executable, "-c", GREENLETS, str(lock_file)], env=ENVIRONMENT, check=True, timeout=60)
    assert set(store.read(str(lock_file), ModelLock).models) == {"m", *(f"m{number}" for number in range(8))}


def test_a_lock_that_is_never_released_is_one_message(lock_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(durable, "LOCK_WAIT_S", 0.1)

    def nested(lock: ModelLock) -> ModelLock:
        store.write(str(lock_file), ModelLock())
        return lock

    with pytest.raises(RecordError, match=r"another run of llamarig has held .*\.models\.lock\.json\.lock"):
        store.update(str(lock_file), ModelLock, nested)
    assert "m" in store.read(str(lock_file), ModelLock).models


def test_a_lock_on_a_removed_lock_file_does_not_count(lock_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The previous holder removes the lock file between another writer's opening and locking it."""
    lock, flock, calls = lock_file.with_name(f".{lock_file.name}.lock"), fcntl.flock, list[int]()

    def removed_meanwhile(descriptor: int, operation: int) -> None:
        flock(descriptor, operation)
        if not calls:
            lock.unlink()
        calls.append(descriptor)

    def change(record: ModelLock) -> ModelLock:
        with lock.open() as other, pytest.raises(BlockingIOError):
            flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return record

    monkeypatch.setattr(fcntl, "flock", removed_meanwhile)
    store.update(str(lock_file), ModelLock, change)
    assert len(calls) == 2


def test_an_unchanged_record_is_not_written(lock_file: Path) -> None:
    before = lock_file.stat()
    store.update(str(lock_file), ModelLock, lambda lock: lock)
    assert os.path.samestat(lock_file.stat(), before)
    absent = lock_file.with_name("absent.json")
    store.update(str(absent), ModelLock, lambda lock: lock)
    assert files(lock_file.parent) == [lock_file.name]


def test_a_change_that_fails_leaves_the_file_and_no_lock(lock_file: Path) -> None:
    before = lock_file.read_bytes()

    def fails(lock: ModelLock) -> ModelLock:
        raise ConnectionError("of the caller's own")

    with pytest.raises(ConnectionError, match="of the caller's own"):
        store.update(str(lock_file), ModelLock, fails)
    assert lock_file.read_bytes() == before
    assert files(lock_file.parent) == [lock_file.name]


def test_modes_and_symbolic_links_are_kept(lock_file: Path) -> None:
    lock_file.chmod(0o640)
    link = lock_file.parent / "inventory" / "link.json"
    link.parent.mkdir()
    link.symlink_to(lock_file)
    lock_model(str(link), "n", locked_model("d"))
    assert link.is_symlink()
    assert set(store.read(str(lock_file), ModelLock).models) == {"m", "n"}
    assert stat.S_IMODE(lock_file.stat().st_mode) == 0o640


def test_a_new_file_has_the_users_own_mode(tmp_path: Path) -> None:
    old = os.umask(0o027)
    try:
        store.write_text(str(tmp_path / "audit.prom"), "")
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "audit.prom").stat().st_mode) == 0o640


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"{", "invalid JSON: EOF while parsing an object at line 1"),
        (b"", "invalid JSON"),
        (b"<<<<<<< HEAD\n{}", "invalid JSON"),
        (b"[" * 100_000, "invalid JSON"),
        (b"\xff\xfe{}", "byte 0 is not UTF-8"),
        (b'{"models": {"m": "\xe9"}}', "byte 18 is not UTF-8"),
        (b"[]", "the JSON is not an object"),
        (b'{"boxes": {}}', "boxes: Extra inputs are not permitted"),
        (b'{"models": {"m": {}}}', "models.m.repo: Field required, and 2 more"),
        (b'{"models": {}, "schema_version": "2"}', "schema_version is '2'"),
        (b'{"models": {}, "schema_version": true}', "schema_version is True"),
        (b'{"models": {}, "schema_version": 0}', "schema_version is 0"),
    ],
)
def test_an_invalid_record_file_is_one_message_and_is_not_changed(lock_file: Path, content: bytes, reason: str) -> None:
    lock_file.write_bytes(content)
    for act in (lambda: store.read(str(lock_file), ModelLock), lambda: lock_model(str(lock_file), "n", locked_model())):
        with pytest.raises(RecordError) as caught:
            act()
        message = str(caught.value)
        assert message.startswith(f"{lock_file} is not a valid model lock (")
        assert reason in message
        assert message.endswith("): restore it from git")
        assert "\n" not in message
    assert lock_file.read_bytes() == content
    assert files(lock_file.parent) == [lock_file.name]


def test_a_record_of_a_newer_version_is_neither_read_nor_overwritten(lock_file: Path) -> None:
    content = b'{"models": {"m": "in another form"}, "schema_version": 2}'
    lock_file.write_bytes(content)
    with pytest.raises(RecordError) as caught:
        lock_model(str(lock_file), "n", locked_model())
    assert str(caught.value) == (
        f"{lock_file} was written by a newer llamarig (model lock, schema_version 2; this one reads up to 1): upgrade "
        "llamarig on this machine, or restore it from git"
    )
    assert lock_file.read_bytes() == content


@pytest.mark.parametrize("kind", ["directory", "pipe", "link to itself", "below a file"])
def test_a_path_that_is_not_a_file_is_one_message(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "models.lock.json"
    match kind:
        case "directory":
            path.mkdir()
        case "pipe":
            os.mkfifo(path)
        case "link to itself":
            path.symlink_to(path)
        case "below a file":
            path.write_text("")
            path /= "models.lock.json"
    with pytest.raises(RecordError, match=r"models\.lock\.json cannot be read \("):
        store.read(str(path), ModelLock)
    for act in (
        lambda: lock_model(str(path), "m", locked_model()),
        lambda: store.write(str(path), ModelLock()),
        lambda: store.write_text(str(path), "text"),
    ):
        with pytest.raises(RecordError, match=r"models\.lock\.json cannot be written \("):
            act()


def test_a_read_only_directory_is_one_message() -> None:
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        lock_model(str(directory / "models.lock.json"), "m", locked_model())
        directory.chmod(0o555)

        def write() -> None:
            if not os.getuid():
                os.setuid(65534)  # root may write anywhere
            with pytest.raises(RecordError) as caught:
                lock_model(str(directory / "models.lock.json"), "n", locked_model())
            assert str(caught.value) == (
                f"{directory}/models.lock.json cannot be written (Permission denied): make its directory writable for "
                "you, or name another file"
            )
            assert set(store.read(str(directory / "models.lock.json"), ModelLock).models) == {"m"}

        assert in_child(write) == 0
        directory.chmod(0o755)


def test_a_full_disk_is_one_message_and_keeps_the_old_content(lock_file: Path) -> None:
    before = lock_file.read_bytes()

    def write() -> None:
        limit = len(before) + 10  # bytes of a file: the write fails in its middle
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        with pytest.raises(RecordError, match=r"models\.lock\.json cannot be written \(File too large\): raise"):
            lock_model(str(lock_file), "n", locked_model("d"))

    assert in_child(write) == 0
    assert lock_file.read_bytes() == before
    assert files(lock_file.parent) == [lock_file.name]


def test_a_text_file_is_replaced_whole_and_needs_its_directory(tmp_path: Path) -> None:
    path = tmp_path / "audit.prom"
    store.write_text(str(path), "old\n")
    store.write_text(str(path), "é\n")
    assert path.read_bytes() == "é\n".encode()
    with pytest.raises(RecordError, match=r"\(No such file or directory\): create its directory, or name a file in"):
        store.write_text(str(tmp_path / "none/audit.prom"), "")
