"""The model lock's file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from llamarig.records import store
from llamarig.records.model_lock import ModelLock, lock_model, move_locked_model, read_model_lock
from llamarig.records.store import RecordError

from tests.records.sample_records import locked_model


def test_a_lock_is_read_back(tmp_path: Path) -> None:
    path = str(tmp_path / "inventory/models.lock.json")
    assert read_model_lock(path) == ModelLock()
    assert lock_model(path, "m", locked_model()) == locked_model()
    assert read_model_lock(path) == ModelLock(models={"m": locked_model()})


def test_a_lock_without_a_schema_version_differs_only_in_it_when_written(tmp_path: Path) -> None:
    path = tmp_path / "models.lock.json"
    lock = ModelLock(models={"m": locked_model(), "n": locked_model("d")})
    old = json.dumps(lock.model_dump(mode="json", exclude_none=True), indent=1, sort_keys=True) + "\n"
    path.write_text(old)
    assert read_model_lock(str(path)) == lock
    store.write(str(path), lock)
    assert path.read_text() == old.replace("\n}\n", ',\n "schema_version": 1\n}\n')


def test_the_first_of_two_entries_stays_until_it_is_updated(tmp_path: Path) -> None:
    """Two boxes may declare the same model: both must serve the same files."""
    path = str(tmp_path / "models.lock.json")
    first, second = locked_model("c"), locked_model("d")
    lock_model(path, "m", first)
    assert lock_model(path, "m", second) == first
    assert read_model_lock(path).models == {"m": first}
    move_locked_model(path, "m", second)
    assert read_model_lock(path).models == {"m": second}


@pytest.mark.parametrize("path", ["x'; touch /tmp/PWNED; echo 'Q4.gguf", "../../../x-Q4.gguf", "$(reboot)-Q4.gguf"])
def test_a_path_that_is_no_file_of_a_repository_is_refused(tmp_path: Path, path: str) -> None:
    """A lock may come from elsewhere; its paths become paths and commands on the box."""
    lock = str(tmp_path / "models.lock.json")
    lock_model(lock, "m", locked_model(path=path))
    with pytest.raises(
        RecordError, match=r"is not a valid model lock \(models\.m\.shards\[0\]\.path: .*is not the path of a file in"
    ):
        read_model_lock(lock)


def test_an_invalid_digest_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "models.lock.json"
    lock_model(str(path), "m", locked_model())
    path.write_text(path.read_text().replace('"sha256": "', '"sha256": "x'))
    with pytest.raises(RecordError, match=r"\(models\.m\.shards\[0\]\.sha256: .*\): restore it from git"):
        read_model_lock(str(path))
