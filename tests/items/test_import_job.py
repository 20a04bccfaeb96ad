"""Which of the missing model files are looked for on the box first, and which are fetched after that."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from llamarig.declare.rig import Rig
from llamarig.facts.model_store import StoredFile
from llamarig.items.download_job import missing_files
from llamarig.items.import_job import import_job, not_imported
from llamarig.records import store
from llamarig.records.model_lock import ModelLock, lock_key
from llamarig.render import layout
from llamarig.render.model_paths import GIB, partial, target

from tests.items.download_examples import ELSEWHERE, FILE, LOCKED, OTHER, WHOLE, rig
from tests.items.test_model_files import replies, shown


def importing(*fields: dict[str, Any]) -> Rig:
    """A box whose models have these fields, all of the same files."""
    declared = rig()
    model = declared.models[0]
    models = tuple(model.model_copy(update={"name": f"m{number}", **changed}) for number, changed in enumerate(fields))
    return declared.model_copy(update={"models": models})


def test_only_files_of_models_that_name_directories_are_looked_for() -> None:
    missing = missing_files([LOCKED], {})
    assert import_job(rig(), missing, [LOCKED], {}).files == ()
    job = import_job(importing({"import_from": ("/models", "/srv/x")}), missing, [LOCKED], {})
    assert (job.store, job.group, job.reserve) == (layout.MODELS, layout.USER, 5 * GIB)
    first, second = job.files
    assert (first.target, first.partial) == (target(LOCKED, FILE), partial(FILE))
    assert (first.size, first.sha256, first.directories, first.move) == (
        *(FILE.size, FILE.sha256, ("/models", "/srv/x"), False),
    )
    assert second.target == target(LOCKED, OTHER)


def test_files_of_several_models_are_looked_for_in_all_their_directories() -> None:
    declared = importing({"import_from": ("/a",)}, {"import_from": ("/b", "/a"), "import_by": "move"})
    job = import_job(declared, missing_files([LOCKED, LOCKED], {}), [LOCKED, LOCKED], {})
    assert [(file.directories, file.move) for file in job.files] == [(("/a", "/b"), True)] * 2


def test_bytes_that_the_store_has_are_linked_and_not_looked_for() -> None:
    stored = {ELSEWHERE: StoredFile(FILE.size, 5, 7, WHOLE)}
    job = import_job(importing({"import_from": ("/a",)}), missing_files([LOCKED], stored), [LOCKED], stored)
    assert [file.target for file in job.files] == [target(LOCKED, OTHER)]


def test_what_was_not_found_is_fetched() -> None:
    missing = missing_files([LOCKED], {})
    job = import_job(importing({"import_from": ("/a",)}), missing, [LOCKED], {})
    arrived = {target(LOCKED, FILE): StoredFile(FILE.size, 5, 7, WHOLE)}
    assert [file for _, file, _ in not_imported(missing, job, arrived)] == [OTHER]
    # A file without a record was not imported.
    assert len(not_imported(missing, job, {target(LOCKED, FILE): StoredFile(FILE.size, 5, 7)})) == 2


@pytest.mark.parametrize(("directories", "refused"), [((), True), (("/models",), False)])
def test_files_that_may_lie_on_the_box_need_no_room_before_they_were_looked_for(
    directories: tuple[str, ...], refused: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    declared = importing({"import_from": directories}).model_copy(update={"model_lock": str(tmp_path / "lock.json")})
    store.write(declared.model_lock, ModelLock(models={lock_key(declared.models[0]): LOCKED}))
    text = shown(declared, replies(None, free=GIB), caplog)
    assert ("disk space for models" in text) is refused
