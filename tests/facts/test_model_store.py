"""Facts about files, by their own commands on this machine."""

from __future__ import annotations

import hashlib
import mmap
import os
import subprocess
import sys
from pathlib import Path

import pytest
from llamarig.facts.disk_use import DirectorySizes
from llamarig.facts.files import FileSizes, Ownership, Sha256Sums
from llamarig.facts.model_headers import ModelHeaders
from llamarig.facts.model_store import ModelStore
from llamarig.facts.references import OpenPaths
from llamarig.facts.releases import Releases
from llamarig.render import layout

from tests.box.fetch_run import REPOSITORY_ROOT
from tests.box.tiny_model import write_shards
from tests.systemd_run_stand_in import search_path


def shell(command: str) -> list[str]:
    return subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=True).stdout.splitlines()


def test_allocated_size_of_a_sparse_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layout, "MODELS", str(tmp_path))
    part = tmp_path / "o/with space/x.gguf"
    part.parent.mkdir(parents=True)
    with part.open("wb") as file:
        file.truncate(100 * 1024**2)
        file.seek(8 * 1024**2)
        file.write(b"x" * 1024**2)
    (part.parent / ".x.gguf.verified.json").write_text('{"sha256": "%s"}' % ("a" * 64))
    store = ModelStore().process(shell(ModelStore().command()))
    found = store.files[str(part)]
    stat = part.stat()
    assert (found.size, found.mtime_ns, found.inode) == (stat.st_size, stat.st_mtime_ns, stat.st_ino)
    assert found.allocated == stat.st_blocks * 512 < 2 * 1024**2
    assert found.record == {"sha256": "a" * 64}
    # Other processes may use this disk too.
    assert store.free is not None
    assert abs(store.free - os.statvfs(tmp_path).f_bavail * os.statvfs(tmp_path).f_frsize) < 1024**3


def test_paths_are_quoted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The model lock refuses such paths; facts do not rely on it."""
    monkeypatch.setattr(layout, "PROGRAMS", str(REPOSITORY_ROOT / "tasks"))
    monkeypatch.setattr(layout, "PYTHON", sys.executable)
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", search_path(tmp_path / "bin"))
    (tmp_path / "x").mkdir()
    evil = f"{tmp_path}/x'; touch '{tmp_path}/PWNED'; echo 'Q4.gguf"
    (tmp_path / "made").mkdir()
    model = write_shards(tmp_path / "made", "m", seed=1, experts=2)[0].rename(tmp_path / "x y's.gguf")
    digest = hashlib.sha256(model.read_bytes()).hexdigest()
    for paths in ([evil, str(model)], [str(model), f"$(touch {tmp_path}/PWNED)"]):
        assert Sha256Sums().process(shell(Sha256Sums().command(paths)))[str(model)] == digest
        assert str(model) in ModelHeaders().process(shell(ModelHeaders().command(paths))).headers
        for fact in (Ownership(), FileSizes()):
            assert str(model) in fact.process(shell(fact.command(paths)))
        shell(Releases().command(paths))
    assert not (tmp_path / "PWNED").exists()


def test_files_of_a_symlinked_store_keep_the_declared_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The paths start with the declared directory instead of the link's target."""
    real, store = tmp_path / "a disk (2+)/models", tmp_path / "models"
    file = store / "o/r/x.gguf"
    real.mkdir(parents=True)
    store.symlink_to(real)
    file.parent.mkdir(parents=True)
    file.write_bytes(b"x" * mmap.PAGESIZE)
    (file.parent / ".x.gguf.verified.json").write_text('{"sha256": "%s"}' % ("a" * 64))
    monkeypatch.setattr(layout, "MODELS", str(store))
    found = ModelStore().process(shell(ModelStore().command()))
    assert found.files[str(file)].record == {"sha256": "a" * 64}
    with file.open("rb"):
        opened = OpenPaths().process(shell(OpenPaths().command([str(store), "/no/such/at all"]))).splitlines()
    with file.open("rb") as handle:
        mapping = mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ)
    with mapping:
        mapped = OpenPaths().process(shell(OpenPaths().command([str(store)]))).splitlines()
    assert opened == mapped == [str(file)]


def test_an_unreadable_file_has_no_hash(tmp_path: Path) -> None:
    """sha256sum reports an error, for example of a bad sector, and continues with the next file."""
    good, bad = tmp_path / "good.gguf", tmp_path / "bad.gguf"
    good.write_bytes(b"x")
    bad.mkdir()
    hashes = Sha256Sums().process(shell(Sha256Sums().command([str(bad), str(good)])))
    assert hashes == {str(good): hashlib.sha256(b"x").hexdigest()}


def test_directories_are_listed_with_size_and_newest_mtime(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "one/file").write_bytes(b"x" * 100_000)
    (tmp_path / "file").write_bytes(b"x")
    sizes = DirectorySizes().process(shell(DirectorySizes().command([str(tmp_path), "/no/such"])))
    assert sizes.keys() == {str(tmp_path / "one")}
    one = sizes[str(tmp_path / "one")]
    assert 100_000 <= one.size < 200_000
    assert one.changed_at == int((tmp_path / "one/file").stat().st_mtime)


def test_open_and_mapped_files_are_found(tmp_path: Path) -> None:
    opened, mapped, closed = (tmp_path / name for name in ("Qwen3 Next n-1.gguf", "mapped\\n.gguf", "closed.gguf"))
    for path in (opened, mapped, closed):
        path.write_bytes(b"x" * mmap.PAGESIZE)
    with opened.open("rb"):
        with mapped.open("rb") as file:
            mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        found = OpenPaths().process(shell(OpenPaths().command([str(tmp_path), "/no/such"]))).splitlines()
        mapping.close()
    assert {path.name for path in (opened, mapped, closed) if str(path) in found} == {opened.name, mapped.name}
