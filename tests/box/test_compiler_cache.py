"""The copy of the compiler's cache that a virtual machine's build works on."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.box.compiler_cache import borrowed


def test_what_a_build_adds_to_its_copy_is_kept_also_where_it_fails(tmp_path: Path) -> None:
    cache, directory = tmp_path / "cache", tmp_path / "own"
    (cache / "0/a").mkdir(parents=True)
    (cache / "0/a/object").write_text("old")
    (cache / "gone").symlink_to("nowhere")
    with pytest.raises(ValueError, match="does not compile"):
        _fail_to_build(cache, directory)
    found = {str(path.relative_to(cache)): path.read_text() for path in cache.rglob("*") if path.is_file()}
    assert found == {"0/a/object": "old", "0/a/other": "other", "1/new": "new"}
    assert not directory.exists()


def _fail_to_build(cache: Path, directory: Path) -> None:
    with borrowed(cache, directory) as own:
        assert (own / "0/a/object").read_text() == "old"
        (own / "1").mkdir()
        (own / "1/new").write_text("new")
        # Another box's compiler, meanwhile.
        (cache / "0/a/object").unlink()
        (cache / "0/a/other").write_text("other")
        raise ValueError("does not compile")


def test_the_first_build_finds_an_empty_cache(tmp_path: Path) -> None:
    with borrowed(tmp_path / "cache", tmp_path / "own") as own:
        assert list(own.iterdir()) == []
    assert (tmp_path / "cache").is_dir()
