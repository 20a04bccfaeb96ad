"""tasks/lock.py against the stand-in Hub: which lock entries it moves, and which it only reports."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from llamarig import declare as d
from llamarig.commands.hub_updates import compared
from llamarig.declare.rig import Rig
from llamarig.engine.hub_resolver import resolve
from llamarig.records import store
from llamarig.records.model_lock import LockedModel, ModelLock, lock_key, read_model_lock

from tests.box.fetch_run import random_file
from tests.box.hub import Hub
from tests.engine.fake_run import fake_run

REPO = "acme/m-GGUF"
PATHS = ("m-Q4.gguf", "mmproj-F16.gguf")


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Hub]:
    files = {path: random_file(tmp_path / "files" / path, 1000 + seed, seed) for seed, path in enumerate(PATHS)}
    with Hub(tmp_path) as served:
        served.add_repo(REPO, files)
        yield served


def rig_of(served: Hub, lock: Path, **fields: object) -> Rig:
    serve = d.serve(port=8080, context=4096)
    declared: dict[str, Any] = {"name": "m", "repo": REPO, "build": "cpu", "serve": serve, **fields}
    model = d.model(**declared)
    builds = [d.build(name="cpu", backend="cpu")]
    return Rig.model_validate(
        d.rig(builds=builds, models=[model], hub=d.hub(endpoint=served.endpoint), model_lock=str(lock))
    )


def entry(rig: Rig) -> LockedModel:
    return read_model_lock(rig.model_lock).models[lock_key(rig.models[0])]


def test_a_projector_among_the_files_is_another_model(served: Hub, tmp_path: Path) -> None:
    as_file = rig_of(served, tmp_path / "lock.json", files=PATHS).models[0]
    as_projector = rig_of(served, tmp_path / "lock.json", files=PATHS[:1], mmproj=PATHS[1]).models[0]
    as_draft = as_projector.model_copy(update={"mmproj": None, "draft": PATHS[1]})
    spaced = as_file.model_copy(update={"files": (" ".join(f"file={path}" for path in PATHS)[len("file=") :],)})
    quant = as_file.model_copy(update={"files": (), "quant": PATHS[0]})
    one = as_file.model_copy(update={"files": PATHS[:1]})
    assert len({lock_key(model) for model in (as_file, as_projector, as_draft, spaced, quant, one)}) == 6


@pytest.mark.parametrize("revision", ["main", "its commit"])
def test_an_entry_with_other_files_than_declared_is_corrected_at_the_same_commit(
    served: Hub, tmp_path: Path, revision: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Such entries were written by hand, or by versions that locked a projector together with its model."""
    caplog.set_level("INFO", logger="pyinfra")
    commit = served.store.repository(REPO, anonymous=True).revision("main").commit
    revision = commit if revision == "its commit" else revision
    rig = rig_of(served, tmp_path / "lock.json", files=PATHS[:1], mmproj=PATHS[1], revision=revision)
    right = resolve(rig.models[0], served.endpoint, None)
    wrong = right.model_copy(update={"shards": tuple(right.files), "mmproj": None})
    store.write(rig.model_lock, ModelLock(models={lock_key(rig.models[0]): wrong}))
    with fake_run((compared, {"name": "Lock", "rig": rig})):
        pass
    assert entry(rig) == wrong, "reported only"
    assert "but the lock has other files than are declared" in caplog.text
    assert f"locked as a file of the model, declared as mmproj: {PATHS[1]}" in caplog.text
    with fake_run((compared, {"name": "Lock", "rig": rig, "update": ("m",)})):
        pass
    assert entry(rig) == right
    before = Path(rig.model_lock).stat().st_mtime_ns
    with fake_run((compared, {"name": "Lock", "rig": rig, "update": ("m",)})):
        pass
    assert Path(rig.model_lock).stat().st_mtime_ns == before, "written though nothing differs"
