"""A release is packed, sent and received; whatever happened to it on the way, nothing damaged gets its name."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tasks.files.job_status import JobFailedError, Progress
from tasks.files.pack_release import pack
from tasks.files.receive_release import receive
from tasks.files.verified_files import digest

# A program with libraries that says its version: all of llama-server that receiving asks for.
PROGRAM = Path("/bin/true")


class Sent:
    """A release on the box that built it, packed, and where it is to go."""

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
            path.name: {"size": path.stat().st_size, "sha256": digest(path)}
            for path in (self.release / "bin").iterdir()
            if not path.is_symlink()
        }
        (self.release / "manifest.json").write_text(json.dumps({"files": files}))

    def pack(self) -> str:
        pack({"release": str(self.release), "archive": str(self.archive)}, self.progress)
        return digest(self.archive)

    def receive(self, sha256: str) -> str:
        job = {"archive": str(self.archive), "release": str(self.target), "sha256": sha256, "builder": "big"}
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


def test_it_arrives_as_it_was_and_its_archive_goes(sent: Sent) -> None:
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
def test_an_archive_damaged_on_the_way(sent: Sent, damage: Callable[[bytes], bytes]) -> None:
    sha256 = sent.pack()
    sent.archive.write_bytes(damage(sent.archive.read_bytes()))
    said = sent.refused(sha256)
    assert sha256 in said
    assert "run deploy.py again" in said


@pytest.mark.parametrize("name", ["libggml.so.0", "llama-server"])
def test_a_release_damaged_where_it_was_built_is_not_packed(sent: Sent, name: str) -> None:
    path = sent.release / "bin" / name
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(JobFailedError, match=f"damaged \\({name}\\): delete it, then deploy again"):
        sent.pack()
    assert not sent.archive.exists()


def test_an_archive_of_something_else(sent: Sent) -> None:
    """Whole on the way, and still not what its manifest says."""
    sent.pack()
    manifest = json.loads((sent.release / "manifest.json").read_text())
    manifest["files"]["libggml.so.0"]["sha256"] = hashlib.sha256(b"other").hexdigest()
    sent.archive.unlink()
    _pack_unchecked(sent, json.dumps(manifest))
    assert "libggml.so.0 are not as recorded" in sent.refused(digest(sent.archive))


def _pack_unchecked(sent: Sent, manifest: str) -> None:
    sent.pack()
    folder = sent.directory / "unpacked"
    shutil.unpack_archive(sent.archive, folder, "gztar")  # Debian 12's Python 3.11.2 takes no filter yet
    (folder / "manifest.json").write_text(manifest)
    made = shutil.make_archive(str(sent.directory / "made"), "gztar", folder)
    Path(made).replace(sent.archive)


def test_a_library_the_box_does_not_have(sent: Sent) -> None:
    """The program's own wish for its C library, changed to one that exists nowhere."""
    path = sent.release / "bin" / "llama-server"
    data = path.read_bytes()
    assert b"libc.so.6\0" in data
    path.write_bytes(data.replace(b"libc.so.6\0", b"libX.so.6\0"))
    sent.record()
    said = sent.refused(sent.pack())
    assert "cannot run what big built" in said
    assert "libX.so.6 => not found" in said


def test_a_program_that_does_not_run(sent: Sent) -> None:
    shutil.copy(Path("/bin/false").resolve(), sent.release / "bin" / "llama-server")
    sent.record()
    assert "ends with 1 here: build it here" in sent.refused(sent.pack())
