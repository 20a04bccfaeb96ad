"""Declarations that cannot work on the box are refused as soon as that is known; probable mistakes are notes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from llamarig import declare as d
from llamarig.declare.rig import Rig
from llamarig.engine.control_machine import ControlMachine
from llamarig.engine.converge import converge
from llamarig.engine.item import Difference, Query, Seen, query
from llamarig.facts.capacity import Capacity
from llamarig.facts.gpus import Gpus
from llamarig.facts.model_headers import ModelHeaders
from llamarig.facts.model_store import ModelStore
from llamarig.facts.releases import Releases
from llamarig.items.all_items import ITEMS
from llamarig.items.declarations import (
    WorkableDeclarations,
    WorkableDeclarationsFetched,
    WorkableDeclarationsLocked,
)
from llamarig.items.model_files import FetchedModels
from llamarig.items.model_lock import LockedModels
from llamarig.items.releases import WholeReleases, release_directories
from llamarig.render.model_paths import target

from tests.commands.audited import audited
from tests.engine.fake_run import fake_run
from tests.items.converged_box import (
    LOCKED,
    Box,
    control_machine,
    converged_box,
    cpu_rig,
    store_output,
    write_lock_file,
)
from tests.placement.cuda_rig import rig as cuda_rig


def box(**serve: Any) -> Box:
    declared = cpu_rig()
    (model,) = declared.models
    changed = model.model_copy(update={"serve": d.serve(port=8080, context=4096, coexists=True, **serve)})
    rig = declared.model_copy(update={"models": (changed,)})
    return Box(Rig.model_validate(rig.to_json()), control_machine(rig), converged_box(declared).outputs)


def test_a_declaration_that_works_has_no_difference() -> None:
    item = WorkableDeclarations()
    assert box().differences(item) == []


def test_a_probable_mistake_is_a_note_and_no_difference() -> None:
    item, mistaken = WorkableDeclarationsFetched(), box(environment={"CTX_SIZE": "4096"})
    assert mistaken.differences(item) == []
    (note,) = item.notes(mistaken.rig, mistaken.seen(item))
    assert note.startswith("model 'm': ")
    assert "declare serve.context instead" in note


def test_a_build_with_a_known_fault_is_a_note() -> None:
    item, pinned = WorkableDeclarationsFetched(), box()
    directories = release_directories(pinned.rig)
    releases = query(Releases, directories=directories)
    manifest = json.dumps({"commit": "7bed317", "build_number": 7380, "flags": [], "files": {}})
    pinned.outputs[releases] = f"release\t{directories[0]}\nmanifest\t{manifest}\n"
    (note,) = item.notes(pinned.rig, pinned.seen(item))
    assert note.startswith("model 'm': known-bad-build: llama.cpp b7380")
    accepted = box(accept={"known-bad-build": "the prompts are short"})
    accepted.outputs[releases] = pinned.outputs[releases]
    assert list(item.notes(accepted.rig, accepted.seen(item))) == []


@pytest.mark.parametrize("backend", ["cuda", "vulkan"])
def test_a_gpu_of_wsl2_is_refused_first_and_once(backend: str) -> None:
    item = WorkableDeclarations()
    assert ITEMS.index(next(one for one in ITEMS if type(one) is WorkableDeclarations)) < 3
    of = cuda_rig({"placement": {"kind": "all-on-gpu"}}, backend=backend)
    file = Path(__file__).parents[1] / "facts/data/documented/Gpus.wsl2.txt"
    here = control_machine(of, locked=None)
    values: dict[Query[Any], Any] = {each: each.fact().default() for each in item.queries(of, here)}
    values[query(Gpus)] = Gpus().process(file.read_text().splitlines())
    (refused,) = item.differences(of, Seen("box", here, values))
    assert "this box is WSL2, whose GPU llamarig does not serve" in refused.refusal
    assert "or declare a build with backend cpu" in refused.refusal


def test_before_the_models_are_locked_no_model_file_is_read() -> None:
    unlocked = box()
    here = control_machine(unlocked.rig, locked=None)
    for item in (WorkableDeclarations(), WorkableDeclarationsFetched()):
        assert [one.fact for one in item.queries(unlocked.rig, here)] == [Capacity]
        assert unlocked.differences(item, locked=None) == []
        assert list(item.notes(unlocked.rig, unlocked.seen(item, locked=None))) == []


# --- known before anything is downloaded or built ---------------------------------------------------------------------

MEMORY = "MemTotal:       8000000 kB\ncpus 0-15"


def locked_in_ram(tmp_path: Path) -> Rig:
    """A model of 14 GiB whose weights are to stay in RAM."""
    lock, plans = str(tmp_path / "lock.json"), str(tmp_path / "plans.json")
    serve = d.serve(port=8080, context=4096, load_mode="mlock", placement=d.cpu_only())
    model = d.model(name="m", repo="o/r", quant="Q6", build="cpu", serve=serve)
    builds = [d.build(name="cpu", backend="cpu")]
    return Rig.model_validate(d.rig(builds=builds, models=[model], model_lock=lock, plan_file=plans))


def test_an_audit_refuses_it_while_files_and_release_are_missing(tmp_path: Path) -> None:
    rig = locked_in_ram(tmp_path)
    write_lock_file(rig)
    found = audited(rig, {query(Capacity): MEMORY, query(ModelStore): f"free\t{1 << 50}"}, "llama").failing
    (refused,) = [one for one in found if one.check == "llama.declarations"]
    assert not refused.by_deploy
    assert "keeps 14.0 GiB of weights in RAM" in refused.found
    assert {"llama.release", "llama.model-files"} <= {one.check for one in found}


def test_a_dry_run_refuses_it_on_a_fresh_box(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="pyinfra")
    rig = locked_in_ram(tmp_path)
    write_lock_file(rig)
    kinds = (WholeReleases, FetchedModels, WorkableDeclarations)
    items = [item for item in ITEMS if isinstance(item, kinds)]
    replies = {"@@llamarig": "", "MemTotal": MEMORY}
    with fake_run(replies=replies, deploys=[lambda: converge(items, rig)], only_prepare=True) as this:
        names = ["Declarations", "Releases", "Declarations and model lock", "Model files"]
        assert this.changes == [*names, "Declarations and model files"]
    assert "keeps 14.0 GiB of weights in RAM" in caplog.text


def test_it_is_known_once_the_first_deploy_has_locked_the_models_and_before_it_fetches_them(tmp_path: Path) -> None:
    """Sizes are in the lock. ``tests/box/test_memory_limit.py`` makes such a deploy."""
    names = [type(item) for item in ITEMS]
    item = WorkableDeclarationsLocked()
    assert names.index(LockedModels) < names.index(type(item)) < names.index(FetchedModels)
    of = locked_in_ram(tmp_path)
    there = Box(of, control_machine(of), {query(Capacity): MEMORY})
    assert there.differences(item, locked=None) == []
    (refused,) = there.differences(item)
    assert "keeps 14.0 GiB of weights in RAM" in refused.refusal


def test_a_missing_gpu_is_known_before_the_models_are_locked() -> None:
    rig = cuda_rig({"gpus": [f"GPU-{'a' * 8}-0000-0000-0000-000000000000"]})
    here = ControlMachine()
    there = Box(
        rig, here, {query(Capacity): f"{MEMORY}\ndriver\nGPU UUID: \t GPU-{'b' * 8}-0000-0000-0000-000000000000"}
    )
    (refused,) = there.differences(WorkableDeclarations())
    assert not refused.by_deploy
    assert "gpus names GPU-aaaaaaaa" in refused.refusal


def with_header(stored: str) -> list[Difference]:
    """Differences of a model whose first file has a header of one layer, and splits 49 of them.

    :param stored: the model store
    """
    rig = cuda_rig({})
    shards = [target(LOCKED, shard) for shard in LOCKED.shards]
    tensors = [["blk.0.ffn_up_exps.weight", [2, 3], "F32", 24]]
    lines = [
        json.dumps({"path": path, "tensors": tensors, "metadata": {}, "length": 1, "sha256": "0" * 64})
        for path in shards
    ]
    outputs: dict[Query[Any], str] = {
        query(ModelStore): stored,
        query(ModelHeaders, paths=sorted(shards)): "\n".join(lines),
    }
    return Box(rig, control_machine(rig), outputs).differences(WorkableDeclarations())


def test_rules_that_need_a_header_are_applied_where_the_files_are_as_locked() -> None:
    (refused,) = with_header(store_output([LOCKED]))
    assert "split (32, 17) adds up to 49" in refused.refusal
    assert with_header("free\t1") == []
    replaced = store_output([LOCKED]).replace("0.000000005", "0.000000006")
    assert with_header(replaced) == [], "another file under that name, which a deploy replaces"
