"""What a deploy does about a download that is under way: waits for it, or refuses, and never stops it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tasks.operations import once
from tasks.operations.lock_file import write_lock
from tasks.operations.long_work import downloads_started
from tasks.planning import layout
from tasks.planning.shards import fetch_job, record_of, shard_differences, target
from tasks.spec.model_lock import ModelLock, lock_key
from tasks.spec.rig import Rig
from tests.operations.fake_run import run_of
from tests.planning.test_shards import FILE, LOCKED, WHOLE
from tests.planning.test_shards import rig as declared

WRONG = f"{'d' * 64}  {target(LOCKED, FILE)}"
SINCE = "Sat 2026-11-21 19:00:00 UTC"


@pytest.fixture
def rig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Rig:
    """Two files to fetch, with a token that is not set here."""
    monkeypatch.setattr(once, "_READ", {})
    monkeypatch.delenv("LLAMARIG_NO_TOKEN", raising=False)
    rig = declared(token_env="LLAMARIG_NO_TOKEN").model_copy(update={"model_lock": str(tmp_path / "lock.json")})
    write_lock(rig.model_lock, ModelLock(models={lock_key(rig.models[0]): LOCKED}))
    return rig


def asked(
    rig: Rig,
    job: dict[str, Any] | None,
    *,
    arrived: bool = False,
    deep: bool = False,
    hashes: str = WRONG,
    linked: str = "",
) -> list[str]:
    """What the box is told while ``job`` is under way on it.

    :param arrived: the first file is whole and recorded
    :param linked: under this name too
    """
    store = [f"free\t{1 << 50}"]
    if arrived:
        for path in filter(None, (target(LOCKED, FILE), linked)):
            store += [f"file\t{FILE.size}\t0\t0.000000005\t7\t{path}"]
            store += [f"record\t{record_of(path)}\t{json.dumps(WHOLE)}"]
    responses = {
        f"find -H {layout.MODELS}": "\n".join(store),
        "ActiveEnterTimestamp": f"fetch\t{SINCE}\t{json.dumps(job)}" if job else "",
        "sha256sum": hashes,
    }
    call = (downloads_started, {"name": "Downloads", "rig": rig, "deep": deep})
    with run_of(call, responses=responses) as (_, commands):
        return [command for command in commands if re.match(r"rm -f|systemd-run|systemctl stop", command)]


def test_the_rest_of_a_running_download_is_waited_for_without_a_token(rig: Rig) -> None:
    job = fetch_job(shard_differences([LOCKED], {}), rig.hub, {})
    assert asked(rig, job) == []
    assert asked(rig, job, arrived=True) == []


@pytest.mark.parametrize(
    ("change", "words"), [({"bytes_per_s": 1000}, "another hub.max_mb_s"), ({"files": []}, "no m-00001-of-00002.gguf")]
)
def test_another_download_is_neither_stopped_nor_taken_for_ours(
    rig: Rig, change: dict[str, Any], words: str, caplog: pytest.LogCaptureFixture
) -> None:
    job = fetch_job(shard_differences([LOCKED], {}), rig.hub, {})
    with pytest.raises(AssertionError, match="failed"):
        asked(rig, {**job, **change})
    (said,) = (record.getMessage() for record in caplog.records if "another download" in record.getMessage())
    assert f"since {SINCE}" in said
    assert words in said


def test_a_file_that_cannot_be_read_is_left_to_its_owner(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(AssertionError, match="failed"):
        asked(rig, None, arrived=True, deep=True, hashes="")
    assert "model file m-00001-of-00002.gguf: cannot be read" in caplog.text
    assert f"(dmesg), then delete {target(LOCKED, FILE)}" in caplog.text


def test_wrong_bytes_are_trusted_under_none_of_their_names(rig: Rig) -> None:
    """Another revision's file, linked to them, would give them back."""
    old = f"{layout.MODELS}/o/r/{'d' * 40}"
    told = asked(
        rig.model_copy(update={"hub": rig.hub.model_copy(update={"token_env": None})}),
        None,
        arrived=True,
        deep=True,
        linked=f"{old}/m.gguf",
    )
    (untrusted,) = (command for command in told if command.startswith("rm -f"))
    assert f"{old}/.m.gguf.verified.json" in untrusted


def test_wrong_bytes_of_a_file_that_arrived_are_not_left_to_a_running_download(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    job = fetch_job(shard_differences([LOCKED], {}), rig.hub, {})
    with pytest.raises(AssertionError, match="failed"):
        asked(rig, job, arrived=True, deep=True)
    assert "(no m-00001-of-00002.gguf)" in caplog.text
