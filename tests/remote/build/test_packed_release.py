"""Packing and receiving a release: a damaged one is never installed."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from llamarig.remote.build.pack_release import pack
from llamarig.remote.build.receive_release import receive
from llamarig.remote.download.verified_files import sha256_of
from llamarig.remote.shared.job_status import JobFailedError, Progress
from llamarig.remote.shared.jobs import PackJob, ReceiveJob

# A program with libraries that accepts --version: all that receiving needs of llama-server.
PROGRAM = Path("/bin/true")


class Sent:
    """A release on the box that built it, its archive, and its place on the box that receives it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.release = directory / "builder" / "commit-key"
        binaries = self.release / "bin"
        binaries.mkdir(parents=True)
        shutil.copy(PROGRAM.resolve(), binaries / "llama-server")
        (binaries / "libggml.so.0").write_bytes(b"library" * 1000)
        (binaries / "libggml.so").symlink_to("libggml.so.0")
        self.record()
        self.target = directory / "receiver" / "commit-key"
        self.target.parent.mkdir()
        self.archive = directory / "archives" / "release.tar.gz"
        self.progress = Progress(directory)

    def record(self) -> None:
        """A manifest of the files as they are."""
        files = {
            path.name: {"size": path.stat().st_size, "sha256": sha256_of(path)}
            for path in (self.release / "bin").iterdir()
            if not path.is_symlink()
        }
        (self.release / "manifest.json").write_text(json.dumps({"files": files}))

    def pack(self) -> str:
        pack(PackJob(str(self.release), str(self.archive)), self.progress)
        return sha256_of(self.archive)

    def receive(self, sha256: str) -> str:
        job = ReceiveJob(archive=str(self.archive), sha256=sha256, release=str(self.target), builder="big")
        return receive(job, self.progress)

    def refused(self, sha256: str) -> str:
        with pytest.raises(JobFailedError) as failure:
            self.receive(sha256)
        assert not self.target.exists()
        assert list(self.target.parent.iterdir()) == []
        return f"{failure.value} {failure.value.lines}"


@pytest.fixture
def sent(tmp_path: Path) -> Sent:
    return Sent(tmp_path)


def content(directory: Path) -> dict[str, object]:
    return {
        str(path.relative_to(directory)): path.readlink()
        if path.is_symlink()
        else (path.read_bytes(), path.stat().st_mode)
        for path in directory.rglob("*")
        if not path.is_dir() or path.is_symlink()
    }


def test_the_release_arrives_unchanged_and_its_archive_is_removed(sent: Sent) -> None:
    assert "received commit-key from big" in sent.receive(sent.pack())
    assert content(sent.target) == content(sent.release)
    assert not sent.archive.parent.exists()


def test_packing_twice_makes_the_same_archive(sent: Sent) -> None:
    first = sent.pack()
    for path in sent.release.rglob("*"):
        if not path.is_symlink():
            path.touch()
    sent.archive.unlink()
    assert sent.pack() == first


def test_a_damaged_release_of_that_name_is_replaced(sent: Sent) -> None:
    sha256 = sent.pack()
    (sent.target / "bin").mkdir(parents=True)
    (sent.target / "bin" / "old").touch()
    (sent.target.parent / "commit-key.part").mkdir()
    sent.receive(sha256)
    assert content(sent.target) == content(sent.release)
    assert [path.name for path in sent.target.parent.iterdir()] == ["commit-key"]


def test_a_release_that_another_run_has_just_received_is_left_alone(sent: Sent) -> None:
    """A server may run from it."""
    sent.receive(sent.pack())
    before = sent.target.stat().st_ino
    assert sent.receive(sent.pack()) == "commit-key is there already"
    assert sent.target.stat().st_ino == before
    assert not sent.archive.exists()


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:-1],
        lambda data: data[: len(data) // 2],
        lambda data: data[:500] + bytes([data[500] ^ 1]) + data[501:],
        lambda data: b"",
    ],
    ids=["a byte short", "half", "a flipped bit", "empty"],
)
def test_a_damaged_archive_is_refused(sent: Sent, damage: Callable[[bytes], bytes]) -> None:
    sha256 = sent.pack()
    sent.archive.write_bytes(damage(sent.archive.read_bytes()))
    message = sent.refused(sha256)
    assert sha256 in message
    assert "run deploy.py again" in message


@pytest.mark.parametrize("name", ["libggml.so.0", "llama-server"])
def test_a_release_damaged_where_it_was_built_is_not_packed(sent: Sent, name: str) -> None:
    path = sent.release / "bin" / name
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(JobFailedError, match=f"damaged \\({name}\\): delete it, then deploy again"):
        sent.pack()
    assert not sent.archive.exists()


def test_an_archive_that_differs_from_its_manifest_is_refused(sent: Sent) -> None:
    """An undamaged archive, whose files differ from its manifest."""
    sent.pack()
    manifest = json.loads((sent.release / "manifest.json").read_text())
    manifest["files"]["libggml.so.0"]["sha256"] = hashlib.sha256(b"other").hexdigest()
    sent.archive.unlink()
    _pack_unchecked(sent, json.dumps(manifest))
    assert "libggml.so.0 are not as recorded" in sent.refused(sha256_of(sent.archive))


def _pack_unchecked(sent: Sent, manifest: str) -> None:
    sent.pack()
    folder = sent.directory / "unpacked"
    shutil.unpack_archive(sent.archive, folder, "gztar")  # Debian 12's Python 3.11.2 takes no filter yet
    (folder / "manifest.json").write_text(manifest)
    made = shutil.make_archive(str(sent.directory / "made"), "gztar", folder)
    Path(made).replace(sent.archive)


def test_a_release_that_needs_a_missing_library_is_refused(sent: Sent) -> None:
    """The name of the C library in the program, changed to one that does not exist."""
    path = sent.release / "bin" / "llama-server"
    data = path.read_bytes()
    assert b"libc.so.6\0" in data
    path.write_bytes(data.replace(b"libc.so.6\0", b"libX.so.6\0"))
    sent.record()
    message = sent.refused(sent.pack())
    assert "cannot run what big built" in message
    assert "libX.so.6 => not found" in message


def test_a_release_whose_program_does_not_run_is_refused(sent: Sent) -> None:
    shutil.copy(Path("/bin/false").resolve(), sent.release / "bin" / "llama-server")
    sent.record()
    assert "ends with 1 here: build it here" in sent.refused(sent.pack())
