"""Leftovers are all unused files, and never those that are declared or referenced."""

from __future__ import annotations

import pytest
from llamarig import declare as d
from llamarig.checks.leftovers import CannotDeleteError, Leftover, chosen, leftovers
from llamarig.declare.rig import Rig
from llamarig.facts.disk_use import Directory
from llamarig.facts.model_store import StoredFile
from llamarig.facts.units import Unit
from llamarig.render import layout
from llamarig.render.model_paths import GIB, partial, record, target
from llamarig.render.release import release_path

from tests.checks.stored_files import FILE, LOCKED, RIG, stored

HERE = f"{layout.MODELS}/o/r/{LOCKED.commit}"
RELEASE = release_path(RIG.builds[0], RIG.models)
RELEASE_ID = RELEASE.rpartition("/")[2]


def found_on(
    files: dict[str, StoredFile],
    directories: dict[str, Directory],
    users: dict[str, str] | None = None,
    toolkits: dict[str, str] | None = None,
    keep: int = 0,
    rig: Rig = RIG,
    starts: dict[str, str] | None = None,
    units: dict[str, Unit] | None = None,
    installed: tuple[str, ...] = (),
) -> list[Leftover]:
    models = (rig, [LOCKED], files, directories)
    return leftovers(*models, users or {}, starts or {}, toolkits or {}, keep, units or {}, installed)


DECLARED = stored(target(LOCKED, FILE), record(LOCKED, FILE), partial(FILE), f"{layout.MODELS}/.partial/.lock")


def test_declared_files_are_no_leftovers() -> None:
    assert found_on(DECLARED, {RELEASE: Directory(GIB)}) == []


def test_each_leftover_has_a_reason_and_a_size() -> None:
    old_quant = [f"{HERE}/Q6_K/m-Q6_K-0000{number}-of-00002.gguf" for number in (1, 2)]
    files = DECLARED | stored(
        *old_quant,
        f"{HERE}/Q6_K/.m-Q6_K-00001-of-00002.gguf.verified.json",
        f"{layout.MODELS}/o/r/{'d' * 40}/m-UD-Q6_K_XL.gguf",
        f"{layout.MODELS}/o/gone/{'e' * 40}/x.gguf",
        f"{layout.MODELS}/.partial/{'f' * 64}",
        f"{partial(FILE)}.hf_transfer",
    )
    directories = {
        RELEASE: Directory(GIB),
        f"{layout.RELEASES}/old": Directory(2 * GIB),
        f"{layout.WORK}/{RELEASE_ID}": Directory(GIB),
        f"{layout.WORK}/older": Directory(GIB),
        f"{layout.CUDA}/13.1": Directory(2 * GIB),
    }
    found = {leftover.name: leftover for leftover in found_on(files, directories)}
    assert {name: leftover.why for name, leftover in found.items()} == {
        f"models/o/r/{'c' * 40}/Q6_K/m-Q6_K": "superseded by m-UD-Q6_K_XL",
        f"models/o/r/{'d' * 40}/m-UD-Q6_K_XL": f"superseded by revision {'c' * 12}",
        f"models/o/gone/{'e' * 40}/x": "no model of o/gone is declared",
        f"partial/{'f' * 64}": "an aborted download that no declared model needs",
        "releases/old": "no declared build produces this release",
        "work/older": "object files that no declared build uses",
        "cuda/13.1": "no declared build uses this CUDA toolkit",
        f"work/{RELEASE_ID}": "object files of build cpu, which is complete: they only speed up its next build",
    }
    quant = found[f"models/o/r/{'c' * 40}/Q6_K/m-Q6_K"]
    assert quant.size == 3 * GIB
    assert quant.paths == (*old_quant, f"{HERE}/Q6_K/.m-Q6_K-00001-of-00002.gguf.verified.json")
    assert next(iter(found)) == quant.name, "the largest comes first"


def test_a_file_linked_by_another_revision_frees_nothing() -> None:
    old = f"{layout.MODELS}/o/r/{'d' * 40}"
    files = DECLARED | stored(f"{old}/m-UD-Q6_K_XL-00001-of-00002.gguf")
    files[f"{old}/m-UD-Q6_K_XL-00002-of-00002.gguf"] = files[target(LOCKED, FILE)]
    (leftover,) = found_on(files, {})
    assert (leftover.size, len(leftover.paths)) == (GIB, 2)


def test_an_unfinished_build_keeps_its_work() -> None:
    assert found_on({}, {f"{layout.WORK}/{RELEASE_ID}": Directory(GIB)}) == []


def test_referenced_files_are_kept() -> None:
    """A unit names the first shard of a set, which it reads as a whole."""
    first, second = (f"{layout.MODELS}/o/x/{'e' * 40}/x-0000{number}-of-00002.gguf" for number in (1, 2))
    users = {
        "llamarig-x.service": f"ExecStart={layout.RELEASES}/old/bin/llama-server --model {first}",
        "a running process": f"{layout.WORK}/older/build/x.o",
    }
    paths = (f"{layout.RELEASES}/old", f"{layout.WORK}/older", f"{layout.RELEASES}/ol")
    found = found_on(stored(first, second), {path: Directory(GIB) for path in paths}, users)
    assert {leftover.name: leftover.kept_because for leftover in found} == {
        f"models/o/x/{'e' * 40}/x": "llamarig-x.service refers to it",
        "releases/old": "llamarig-x.service refers to it",
        "work/older": "a running process refers to it",
        "releases/ol": "",
    }
    with pytest.raises(CannotDeleteError, match=r"releases/old cannot be deleted: llamarig-x\.service refers to it"):
        chosen(["releases/ol", "releases/old"], found)


def test_files_of_a_running_job_are_kept() -> None:
    """The job names the final paths; on disk the files still have other suffixes."""
    users = {
        "the running job fetch": f'{{"files": [{{"partial": "{layout.MODELS}/.partial/{"f" * 64}"}}]}}',
        "the running job build-1": f'{{"release": "{layout.RELEASES}/new", "work": "{layout.WORK}/new"}}',
    }
    partials = [f"{layout.MODELS}/.partial/{name}" for name in ("f" * 64, f"{'f' * 64}.hf_transfer", "e" * 64)]
    paths = (f"{layout.RELEASES}/new.part", f"{layout.WORK}/new", f"{layout.RELEASES}/newer")
    directories = {path: Directory(GIB) for path in paths}
    held = {leftover.name: leftover.kept_because for leftover in found_on(stored(*partials), directories, users)}
    assert held == {
        f"partial/{'f' * 64}": "the running job fetch refers to it",
        f"partial/{'f' * 64}.hf_transfer": "the running job fetch refers to it",
        f"partial/{'e' * 64}": "",
        "releases/new.part": "the running job build-1 refers to it",
        "work/new": "the running job build-1 refers to it",
        "releases/newer": "",
    }


def test_only_listed_leftovers_can_be_chosen() -> None:
    found = found_on({}, {f"{layout.RELEASES}/old": Directory(GIB)})
    assert [leftover.paths for leftover in chosen(["releases/old"], found)] == [(f"{layout.RELEASES}/old",)]
    assert chosen([], found) == []
    for name in ("releases", "releases/", "releases/*", "", "/", RELEASE, f"releases/{RELEASE_ID}"):
        with pytest.raises(CannotDeleteError, match="nothing was deleted"):
            chosen([name], found)


def test_the_newest_releases_are_kept() -> None:
    ages = {"a": 30, "b": 10, "c": 40, "d": 20, "e.part": 50}
    directories = {f"{layout.RELEASES}/{name}": Directory(GIB, changed_at) for name, changed_at in ages.items()}
    users = {"llamarig-x.service": f"ExecStart={layout.RELEASES}/b/bin/llama-server"}
    found = {
        leftover.name: leftover.kept_because
        for leftover in found_on({}, {**directories, RELEASE: Directory(GIB)}, users, keep=2)
    }
    kept = "one of the last 2, as many as host.keep_releases keeps"
    assert found == {
        "releases/c": kept,
        "releases/a": kept,
        "releases/d": "",
        "releases/b": "llamarig-x.service refers to it",  # beyond the last two, but in use
        "releases/e.part": "",
    }
    with pytest.raises(CannotDeleteError, match="releases/c cannot be deleted: one of the last 2"):
        chosen(["releases/c"], found_on({}, directories, users, keep=2))


def test_the_newest_release_is_the_last_that_was_put_in_place() -> None:
    """A box whose clock was wrong, or was set back; and a release that was put in place again."""
    ages = {"first": 99, "second": 5, "third": 1, "of an earlier version": 50, "next.part": 100}
    directories = {f"{layout.RELEASES}/{name}": Directory(GIB, changed_at) for name, changed_at in ages.items()}
    for installed, kept in (
        (("first", "second", "third"), {"third", "second"}),
        (("first", "second", "third", "first"), {"first", "third"}),
        (("third",), {"third", "first"}),
        (("gone", "third", ""), {"third", "first"}),
    ):
        found = found_on({}, directories, keep=2, installed=installed)
        assert {leftover.name.removeprefix("releases/") for leftover in found if leftover.kept_because} == kept


def test_a_start_record_keeps_its_release_and_no_model_file() -> None:
    """After two failed upgrades, the release that a rollback returns to is the oldest."""
    path = f"{HERE}/Q6_K/m-Q6_K.gguf"
    ages = {"proved": 10, "failed": 20, "failed-too": 30}
    directories = {f"{layout.RELEASES}/{name}": Directory(GIB, changed_at) for name, changed_at in ages.items()}
    record = f'"text": "ExecStart={layout.RELEASES}/proved/bin/llama-server -m {path}\\n"'
    starts = {"start record llamarig-m.service.previous.json": record}
    found = {leftover.name: leftover.kept_because for leftover in found_on(stored(path), directories, starts=starts)}
    assert found == {
        "releases/proved": "start record llamarig-m.service.previous.json refers to it",
        "releases/failed": "",
        "releases/failed-too": "",
        f"models/o/r/{LOCKED.commit}/Q6_K/m-Q6_K": "",
    }


def test_a_toolkit_is_kept_while_a_release_loads_its_libraries() -> None:
    builds = [d.build(name="cuda", architectures=("89-real",), cuda_toolkit="13.0")]
    serve = d.serve(port=8080, context=4096)
    models = [d.model(name="m", repo="o/r", quant="UD-Q6_K_XL", build="cuda", serve=serve)]
    rig = Rig.model_validate(d.rig(builds=builds, models=models))
    directories = {f"{layout.CUDA}/{version}": Directory(GIB) for version in ("13.0", "13.1", "13.2", "13")}
    toolkits = {f"{layout.RELEASES}/old": f"{layout.CUDA}/13.1/root", f"{layout.RELEASES}/cpu": ""}
    found = {leftover.name: leftover.kept_because for leftover in found_on({}, directories, toolkits=toolkits, rig=rig)}
    assert found == {"cuda/13.1": "releases/old refers to it", "cuda/13.2": "", "cuda/13": ""}


def test_a_unit_of_no_declared_model_can_be_deleted_once_it_is_stopped() -> None:
    units = {
        layout.unit_name(RIG.models[0].name): Unit(text="[Unit]", active="active"),
        "llamarig-old.service": Unit(text="[Unit]"),
        "llamarig-runs.service": Unit(text="[Unit]", active="active"),
        "llamarig-boots.service": Unit(text="[Unit]", enabled="enabled"),
    }
    found = {one.name: one for one in found_on(DECLARED, {RELEASE: Directory(GIB)}, units=units)}
    assert sorted(found) == [
        "units/llamarig-boots.service",
        "units/llamarig-old.service",
        "units/llamarig-runs.service",
    ]
    old = found["units/llamarig-old.service"]
    assert old.paths[0] == "/etc/systemd/system/llamarig-old.service"
    assert f"{layout.PROOFS}/llamarig-old.service.json" in old.paths
    assert old.kept_because == ""
    assert found["units/llamarig-runs.service"].kept_because.startswith("it runs: run deploy.py first, which stops it")
    assert found["units/llamarig-boots.service"].kept_because.startswith("it is started at boot: run deploy.py first")
