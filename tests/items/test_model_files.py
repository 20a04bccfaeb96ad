"""Model files: which are fetched, and a download that already runs is waited for or refused, never stopped."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from llamarig.declare.rig import Rig
from llamarig.engine.control_machine import ControlMachine
from llamarig.engine.converge import converge
from llamarig.engine.item import Query, Seen, query
from llamarig.facts.jobs import RunningJobs
from llamarig.facts.model_store import FileHashes, ModelStore
from llamarig.facts.releases import Releases
from llamarig.items.download_job import fetch_job, missing_files
from llamarig.items.model_architectures import wanted_architectures
from llamarig.items.model_files import FetchedModels
from llamarig.items.releases import release_directories
from llamarig.records import store
from llamarig.records.model_lock import LockedModel, ModelLock, lock_key
from llamarig.remote.shared.jobs import FetchJob
from llamarig.render import layout
from llamarig.render.model_paths import record_of, target
from llamarig.render.release import build_job

from tests.engine.fake_run import OperationFailedError, fake_run
from tests.items.converged_box import LOCKED as ALL_LOCKED
from tests.items.converged_box import store_output
from tests.items.download_examples import FILE, LOCKED, WHOLE
from tests.items.download_examples import rig as declared

WRONG = f"{'d' * 64}  {target(LOCKED, FILE)}"
SINCE = "Sat 2026-11-21 19:00:00 UTC"


@pytest.fixture
def rig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Rig:
    """Two files to fetch, with a token that is not set here."""
    monkeypatch.delenv("LLAMARIG_NO_TOKEN", raising=False)
    rig = declared(token_env="LLAMARIG_NO_TOKEN").model_copy(update={"model_lock": str(tmp_path / "lock.json")})
    store.write(rig.model_lock, ModelLock(models={lock_key(rig.models[0]): LOCKED}))
    return rig


def replies(
    job: dict[str, Any] | None, *, arrived: bool = False, hashes: str = WRONG, linked: str = "", free: int = 1 << 50
) -> dict[str, str]:
    """Replies of a box on which the download ``job`` runs.

    :param arrived: the first file is complete and verified
    :param linked: another name of that file
    """
    store = [f"free\t{free}"]
    if arrived:
        for path in filter(None, (target(LOCKED, FILE), linked)):
            store += [f"file\t{FILE.size}\t0\t0.000000005\t7\t{path}"]
            store += [f"record\t{record_of(path)}\t{json.dumps(WHOLE)}"]
    return {
        "@@llamarig": "",
        f"find -H {layout.MODELS}": "\n".join(store),
        "ActiveEnterTimestamp": f"fetch\t{SINCE}\t{json.dumps(job)}" if job else "",
        "sha256sum": hashes,
    }


def shown(rig: Rig, box: dict[str, str], caplog: pytest.LogCaptureFixture) -> str:
    """What ``--dry`` prints."""
    caplog.set_level("INFO", logger="pyinfra")
    with fake_run(replies=box, deploys=[lambda: converge([FetchedModels()], rig)], only_prepare=True):
        return caplog.text


def commands_sent(rig: Rig, box: dict[str, str], *, deep: bool = False) -> list[str]:
    """Commands that delete, stop or start something on this box."""
    with fake_run(replies=box, deploys=[lambda: converge([FetchedModels()], rig)], data={"deep": deep}) as this:
        return [command for command in this.commands if re.match(r"rm -f|systemd-run|systemctl stop", command)]


def test_the_rest_of_a_running_download_is_waited_for_without_a_token(rig: Rig) -> None:
    job = fetch_job(missing_files([LOCKED], {}), rig.hub, {}).to_json()
    assert commands_sent(rig, replies(job)) == []
    assert commands_sent(rig, replies(job, arrived=True)) == []


@pytest.mark.parametrize(
    ("change", "words"), [({"bytes_per_s": 1000}, "another hub.max_mb_s"), ({"files": []}, "no m-00001-of-00002.gguf")]
)
def test_another_download_is_neither_stopped_nor_waited_for(
    rig: Rig, change: dict[str, Any], words: str, caplog: pytest.LogCaptureFixture
) -> None:
    job = fetch_job(missing_files([LOCKED], {}), rig.hub, {}).to_json()
    with pytest.raises(OperationFailedError):
        commands_sent(rig, replies({**job, **change}))
    (message,) = (
        record.getMessage()
        for record in caplog.records
        if record.levelname == "ERROR" and "another download" in record.getMessage()
    )
    assert f"since {SINCE}" in message
    assert words in message


def test_a_file_that_cannot_be_read_is_left_to_its_owner(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(OperationFailedError):
        commands_sent(rig, replies(None, arrived=True, hashes=""), deep=True)
    assert "model file m-00001-of-00002.gguf: cannot be read" in caplog.text
    assert f"dmesg, then delete {target(LOCKED, FILE)}" in caplog.text


def test_wrong_bytes_are_untrusted_under_each_of_their_names(rig: Rig) -> None:
    """A file of another revision may be a hard link to the wrong bytes and must not be used as a source."""
    old = f"{layout.MODELS}/o/r/{'d' * 40}"
    public = rig.model_copy(update={"hub": rig.hub.model_copy(update={"token_env": None})})
    commands = commands_sent(public, replies(None, arrived=True, linked=f"{old}/m.gguf"), deep=True)
    (untrusted,) = (command for command in commands if command.startswith("rm -f"))
    assert f"{old}/.m.gguf.verified.json" in untrusted


def test_a_running_download_does_not_repair_a_file_that_arrived_with_wrong_bytes(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    job = fetch_job(missing_files([LOCKED], {}), rig.hub, {}).to_json()
    with pytest.raises(OperationFailedError):
        commands_sent(rig, replies(job, arrived=True), deep=True)
    assert "(no m-00001-of-00002.gguf)" in caplog.text


def test_a_download_needs_a_token_where_one_is_declared(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(OperationFailedError):
        commands_sent(rig, replies(None))
    assert "export LLAMARIG_NO_TOKEN=" in caplog.text


def test_a_download_without_room_is_refused_before_it_starts(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(OperationFailedError) as failed:
        commands_sent(rig, replies(None, free=1 << 30))
    assert not [command for command in failed.value.commands if "systemd-run" in command]
    assert "disk space for models" in caplog.text
    assert "1.00 GiB are free" in caplog.text


def store_of(box: dict[str, str]) -> Any:
    return ModelStore().process(box[f"find -H {layout.MODELS}"].splitlines())


def differences(rig: Rig, box: dict[str, str], hashes: dict[str, str] | None = None) -> list[Any]:
    item, here = FetchedModels(), ControlMachine(locked=[LOCKED], deep=hashes is not None)
    jobs = RunningJobs().process(box.get("ActiveEnterTimestamp", "").splitlines())
    values: dict[Query[Any], Any] = {query(ModelStore): store_of(box), query(RunningJobs): jobs}
    if hashes is not None:
        values[query(FileHashes, paths=[target(LOCKED, file) for file in LOCKED.files])] = hashes
    assert set(item.queries(rig, here)) == values.keys()
    return item.differences(rig, Seen("box", here, values))


def test_every_byte_is_read_only_where_that_was_requested(rig: Rig) -> None:
    box = {f"find -H {layout.MODELS}": store_output([ALL_LOCKED])}
    assert differences(rig, box) == []
    wrong = {target(LOCKED, file): "d" * 64 for file in LOCKED.files}
    assert [one.found for one in differences(rig, box, wrong)] == [
        f"the bytes on the disk have sha256 {'d' * 12}..."
    ] * 2


def test_an_unlocked_model_is_not_compared(rig: Rig) -> None:
    assert list(FetchedModels().queries(rig, ControlMachine())) == []
    assert FetchedModels().differences(rig, Seen("box", ControlMachine(), {})) == []


def test_an_audit_and_a_dry_run_name_the_missing_room(rig: Rig) -> None:
    """A deploy refuses for that reason, unless a download that already runs brings the files."""
    room, *files = differences(rig, replies(None, free=1 << 30))
    assert not room.by_deploy
    assert room.stops_deploy
    assert "1.00 GiB are free" in room.found
    assert "tasks/prune.py" in room.remedy
    assert [one.remedy for one in files] == ["make room, then run deploy.py"] * 2


def test_missing_room_does_not_stop_a_download_that_already_runs(rig: Rig) -> None:
    job = fetch_job(missing_files([LOCKED], {}), rig.hub, {}).to_json()
    assert commands_sent(rig, replies(job, free=1 << 30)) == []


def test_a_running_download_of_other_files_is_known_before_a_deploy_starts(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    job = {**fetch_job(missing_files([LOCKED], {}), rig.hub, {}).to_json(), "files": []}
    refused, *files = differences(rig, replies(job))
    assert not refused.by_deploy
    assert f"another download is running on the box since {SINCE}" in refused.refusal
    assert [one.remedy for one in files] == ["let the running download end, then run deploy.py"] * 2
    assert "another download is running on the box" in shown(rig, replies(job), caplog)


@pytest.mark.parametrize("free", [1 << 50, 1 << 30])
def test_while_the_declared_files_are_fetched_only_they_are_missing(
    rig: Rig, free: int, caplog: pytest.LogCaptureFixture
) -> None:
    """A deploy would wait for them, without a token and whatever room is left."""
    job = fetch_job(missing_files([LOCKED], {}), rig.hub, {}).to_json()
    assert [one.remedy for one in differences(rig, replies(job, free=free))] == ["run deploy.py"] * 2
    assert "LLAMARIG_NO_TOKEN" not in shown(rig, replies(job, free=free), caplog)


def test_a_dry_run_names_the_missing_token(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    text = shown(rig, replies(None), caplog)
    assert "export LLAMARIG_NO_TOKEN=" in text


def test_no_token_is_read_where_nothing_is_fetched(rig: Rig, tmp_path: Path) -> None:
    """A token command may ask to unlock a password manager."""
    runs = tmp_path / "runs"
    hub = rig.hub.model_copy(update={"token_env": None, "token_command": ("sh", "-c", f"echo x >>{runs}; echo hf_x")})
    prompting = rig.model_copy(update={"hub": hub})
    store.write(rig.model_lock, ModelLock(models={lock_key(rig.models[0]): ALL_LOCKED}))
    whole = {**replies(None), f"find -H {layout.MODELS}": store_output([ALL_LOCKED])}
    assert commands_sent(prompting, whole) == []
    with pytest.raises(OperationFailedError):
        commands_sent(prompting, {**whole, f"find -H {layout.MODELS}": "free\t1"})
    assert not runs.exists(), "there is no room to fetch anything"
    assert commands_sent(prompting, {**whole, f"find -H {layout.MODELS}": f"free\t{1 << 50}"})
    assert runs.read_text() == "x\n", "once for both stages"


# --- the architecture of a model -------------------------------------------------------------------------------------


def seen_with(rig: Rig, locked: LockedModel, models: list[str] | None, *, arrived: bool) -> Seen:
    """The facts of a box with a release that serves these architectures.

    :param models: None for a release that is not there
    """
    (directory,) = release_directories(rig)
    manifest: dict[str, Any] = {"commit": "c" * 40, "flags": [], "files": {}, "models": models}
    output = [f"release\t{directory}", *([f"manifest\t{json.dumps(manifest)}"] if models is not None else [])]
    stored = store_output([ALL_LOCKED]).splitlines() if arrived else [f"free\t{1 << 50}"]
    values: dict[Query[Any], Any] = {
        query(ModelStore): ModelStore().process(stored),
        query(RunningJobs): {},
        query(Releases, directories=[directory]): Releases().process(output),
    }
    return Seen("box", ControlMachine(locked=[locked]), values)


def compared_with(rig: Rig, architecture: str | None, models: list[str] | None, *, arrived: bool) -> list[Any]:
    """The comparison of a model that is locked with this architecture."""
    locked = LOCKED.model_copy(update={"architecture": architecture})
    return FetchedModels().differences(rig, seen_with(rig, locked, models, arrived=arrived))


@pytest.mark.parametrize("arrived", [False, True])
def test_a_model_that_the_release_does_not_know_is_refused(rig: Rig, *, arrived: bool) -> None:
    refused, *files = compared_with(rig, "qwen9", ["llama", "qwen3"], arrived=arrived)
    assert (refused.by_deploy, refused.stops_deploy) == (False, True)
    assert "model 'm' is of the architecture qwen9, which llama.cpp 0c1e57098bba does not know" in refused.refusal
    assert len(files) == (0 if arrived else 2)
    assert {file.remedy for file in files} <= {"declare a llama.cpp that knows the model, then run deploy.py"}


@pytest.mark.parametrize(
    ("architecture", "models"), [("qwen3", ["llama", "qwen3"]), ("qwen9", []), ("qwen9", None), (None, ["llama"])]
)
def test_a_model_is_not_refused_where_nothing_is_known(
    rig: Rig, architecture: str | None, models: list[str] | None
) -> None:
    """A release of an earlier version recorded no architectures, an older lock entry has none."""
    assert compared_with(rig, architecture, models, arrived=True) == []


@pytest.mark.parametrize("models", [None, ["llama", "qwen9"]])
def test_a_download_compares_with_the_source_of_a_build_that_has_just_begun(rig: Rig, models: list[str] | None) -> None:
    """Only where no release tells it yet."""
    known = LOCKED.model_copy(update={"architecture": "qwen9"})
    seen = seen_with(rig, known, models, arrived=False)
    wanted = wanted_architectures(rig, seen, [known])
    assert [(each.model, each.architecture) for each in wanted] == ([("m", "qwen9")] if models is None else [])
    assert [each.work for each in wanted] == [build_job(rig.builds[0], rig.models).work] * len(wanted)
    assert wanted_architectures(rig, seen, []) == ()
    job = fetch_job(missing_files([known], {}), rig.hub, {}, wanted)
    assert FetchJob.from_json(job.to_json()) == job
