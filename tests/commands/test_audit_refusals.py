"""If a deploy would refuse, an audit reports the reason and its remedy instead of `run deploy.py`."""

from __future__ import annotations

from pathlib import Path

import pytest
from llamarig import declare as d
from llamarig.declare.rig import Rig
from llamarig.engine.item import query
from llamarig.facts.compilers import CompilersFound
from llamarig.facts.model_store import ModelStore

from tests.commands.audited import audited
from tests.items.converged_box import converged_box, cpu_rig, write_lock_file

SID = (Path(__file__).parents[1] / "facts/data/compilers/sid.txt").read_text()


def test_model_files_for_which_there_is_no_room(tmp_path: Path) -> None:
    rig = cpu_rig(model_lock=str(tmp_path / "lock.json"), plan_file=str(tmp_path / "plans.json"))
    write_lock_file(rig)
    outputs = {**converged_box(rig).outputs, query(ModelStore): f"free\t{1 << 30}"}
    found = audited(rig, outputs, "llama", "deploy").failing
    assert {one.check for one in found} == {"llama.model-files"}
    (room,) = [one for one in found if not one.by_deploy]
    assert "1.00 GiB are free" in room.found
    assert "tasks/prune.py" in room.remedy
    assert {one.remedy for one in found if one.by_deploy} == {"make room, then run deploy.py"}


def test_a_refused_item_hides_what_follows_and_nothing_else(tmp_path: Path) -> None:
    """Other items are compared although there is too little disk space."""
    rig = cpu_rig(model_lock=str(tmp_path / "lock.json"), plan_file=str(tmp_path / "plans.json"))
    write_lock_file(rig)
    outputs = {query(ModelStore): f"free\t{1 << 30}"}
    checks = {one.check for one in audited(rig, outputs, "llama", "deploy").failing}
    assert checks == {"llama.model-files", "llama.release", "deploy.operation"}


def test_a_toolkit_that_does_not_compile_is_reported_once_with_its_remedy(tmp_path: Path) -> None:
    serve = d.serve(port=8080, context=4096)
    rig = Rig.model_validate(
        d.rig(
            builds=[d.build(name="cuda", architectures=("89-real",), cuda_toolkit="13.0")],
            models=[d.model(name="m", repo="o/r", quant="Q4_K_M", build="cuda", serve=serve)],
            model_lock=str(tmp_path / "lock.json"),
        )
    )
    found = audited(rig, {query(CompilersFound, paths=[]): SID}, "llama.release", "llama.toolkits").failing
    (finding,) = found  # the release that is missing for that reason is not another one
    assert finding.check == "llama.toolkits"
    assert "CUDA 13.0" in finding.found
    assert not finding.by_deploy
    assert 'declare cuda_toolkit="13.4"' in finding.remedy


def test_files_to_fetch_and_no_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LLAMARIG_NO_TOKEN", raising=False)
    paths = {"model_lock": str(tmp_path / "lock.json"), "plan_file": str(tmp_path / "plans.json")}
    rig = cpu_rig(hub=d.hub(token_env="LLAMARIG_NO_TOKEN"), **paths)
    unlocked = audited(rig, converged_box(rig).outputs, "llama").failing
    assert {one.about for one in unlocked} == {"Hub token", rig.model_lock}
    write_lock_file(rig)
    outputs = converged_box(rig).outputs
    assert audited(rig, outputs, "llama").failing == [], "no token is needed where nothing is fetched"
    found = audited(rig, {**outputs, query(ModelStore): f"free\t{1 << 50}"}, "llama").failing
    (token,) = [one for one in found if not one.by_deploy]
    assert "export LLAMARIG_NO_TOKEN=" in token.found
    assert {one.remedy for one in found if one.by_deploy} == {"provide the Hub token, then run deploy.py"}
