"""The preset file of llama-server's router mode, where the owner declares one."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
from llamarig.declare.rig import Rig
from llamarig.engine.item import Query, query
from llamarig.facts.files import Sha256Sums
from llamarig.items.presets import ModelPresets, preset_path

from tests.engine.fake_run import fake_run
from tests.engine.uploads import is_upload, uploaded
from tests.items.converged_box import Box, converged_box, cpu_rig, write_lock_file

PATH = preset_path("cpu")
SUMS: Query[Any] = query(Sha256Sums, paths=[PATH])


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    rig = cpu_rig(presets="cpu", model_lock=str(tmp_path / "lock.json"), plan_file=str(tmp_path / "plans.json"))
    write_lock_file(rig)
    return rig


@pytest.fixture
def box(rig: Rig) -> Box:
    return converged_box(rig)


def test_without_a_declaration_nothing_is_read() -> None:
    box = converged_box(cpu_rig())
    assert list(ModelPresets().queries(box.rig, box.here)) == []
    assert box.differences(ModelPresets()) == []


@pytest.mark.parametrize("sha256", [None, "0" * 64])
def test_a_missing_or_edited_file_is_written(box: Box, sha256: str | None) -> None:
    box.outputs[SUMS] = f"{sha256}  {PATH}" if sha256 else ""
    (difference,) = box.differences(ModelPresets())
    assert difference.what == PATH
    assert difference.by_deploy


def test_the_file_that_is_written_is_as_declared(box: Box) -> None:
    texts: list[str] = []

    def fixes() -> None:
        commands = ModelPresets().fix(box.rig, box.seen(ModelPresets()), [])
        texts.extend(uploaded(one).decode() for one in commands if is_upload(one))

    with fake_run(deploys=[fixes], only_prepare=True):
        (text,) = texts
    assert "[m]" in text
    box.outputs[SUMS] = f"{hashlib.sha256(text.encode()).hexdigest()}  {PATH}"
    assert box.differences(ModelPresets()) == []
