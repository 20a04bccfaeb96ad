"""What a prune offers: everything nothing uses, and never what is declared or a unit refers to."""

from __future__ import annotations

import pytest

from tasks.planning import layout
from tasks.planning.leftovers import CannotDeleteError, chosen, leftovers
from tasks.planning.release import release_path
from tasks.planning.shards import GIB, StoredFile, partial, record, target
from tasks.spec import declare as d
from tasks.spec.model_lock import LockedFile, LockedModel
from tasks.spec.rig import Rig

RIG = Rig.model_validate(
    d.rig(
        builds=[d.build(name="cpu", backend="cpu")],
        models=[d.model(name="m", repo="o/r", quant="UD-Q6_K_XL", build="cpu", serve=d.serve(port=8080, context=4096))],
    )
)
FILE = LockedFile(path="UD-Q6_K_XL/m-UD-Q6_K_XL-00001-of-00001.gguf", size=GIB, sha256="a" * 64)
LOCKED = LockedModel(repo="o/r", commit="c" * 40, shards=(FILE,))
HERE = f"{layout.MODELS}/o/r/{LOCKED.commit}"
RELEASE = release_path(RIG.builds[0], RIG.models)
RELEASE_ID = RELEASE.rpartition("/")[2]


def stored(*paths: str) -> dict[str, StoredFile]:
    return {path: StoredFile(GIB, 1, 1, allocated=GIB) for path in paths}


DECLARED = stored(target(LOCKED, FILE), record(LOCKED, FILE), partial(FILE), f"{layout.MODELS}/.partial/.lock")


def test_what_is_declared_is_no_leftover() -> None:
    assert leftovers(RIG, [LOCKED], DECLARED, {RELEASE: GIB}, {}) == []


def test_each_leftover_has_its_reason_and_its_room() -> None:
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
        RELEASE: GIB,
        f"{layout.RELEASES}/old": 2 * GIB,
        f"{layout.WORK}/{RELEASE_ID}": GIB,
        f"{layout.WORK}/older": GIB,
    }
    found = {leftover.name: leftover for leftover in leftovers(RIG, [LOCKED], files, directories, {})}
    assert {name: leftover.why for name, leftover in found.items()} == {
        f"models/o/r/{'c' * 40}/Q6_K/m-Q6_K": "superseded by m-UD-Q6_K_XL",
        f"models/o/r/{'d' * 40}/m-UD-Q6_K_XL": f"superseded by revision {'c' * 12}",
        f"models/o/gone/{'e' * 40}/x": "no model of o/gone is declared",
        f"partial/{'f' * 64}": "a broken-off download of no declared model",
        "releases/old": "no declared build makes this release",
        "work/older": "object files of no declared build",
        f"work/{RELEASE_ID}": "object files of build cpu, which is whole: they only make its next build quicker",
    }
    quant = found[f"models/o/r/{'c' * 40}/Q6_K/m-Q6_K"]
    assert quant.size == 3 * GIB
    assert quant.paths == (*old_quant, f"{HERE}/Q6_K/.m-Q6_K-00001-of-00002.gguf.verified.json")
    assert next(iter(found)) == quant.name, "the largest comes first"


def test_an_unfinished_build_keeps_its_work() -> None:
    assert leftovers(RIG, [LOCKED], {}, {f"{layout.WORK}/{RELEASE_ID}": GIB}, {}) == []


def test_what_somebody_refers_to_stays() -> None:
    """A unit names the first shard of a set; the others are read because of it."""
    first, second = (f"{layout.MODELS}/o/x/{'e' * 40}/x-0000{number}-of-00002.gguf" for number in (1, 2))
    users = {
        "llamarig-x.service": f"ExecStart={layout.RELEASES}/old/bin/llama-server --model {first}",
        "a running process": f"{layout.WORK}/older/build/x.o",
    }
    directories = {f"{layout.RELEASES}/old": GIB, f"{layout.WORK}/older": GIB, f"{layout.RELEASES}/ol": GIB}
    found = leftovers(RIG, [LOCKED], stored(first, second), directories, users)
    held = {leftover.name: leftover.held_by for leftover in found}
    assert held == {
        f"models/o/x/{'e' * 40}/x": "llamarig-x.service",
        "releases/old": "llamarig-x.service",
        "work/older": "a running process",
        "releases/ol": "",
    }
    with pytest.raises(CannotDeleteError, match=r"releases/old stays: llamarig-x\.service refers to it"):
        chosen(["releases/ol", "releases/old"], found)


def test_what_a_running_job_is_at_work_on_stays() -> None:
    """Its text names what the files will be; on the disk they still have other endings."""
    users = {
        "the running job fetch": f'{{"files": [{{"partial": "{layout.MODELS}/.partial/{"f" * 64}"}}]}}',
        "the running job build-1": f'{{"release": "{layout.RELEASES}/new", "work": "{layout.WORK}/new"}}',
    }
    partials = [f"{layout.MODELS}/.partial/{name}" for name in ("f" * 64, f"{'f' * 64}.hf_transfer", "e" * 64)]
    directories = {f"{layout.RELEASES}/new.part": GIB, f"{layout.WORK}/new": GIB, f"{layout.RELEASES}/newer": GIB}
    held = {
        leftover.name: leftover.held_by for leftover in leftovers(RIG, [LOCKED], stored(*partials), directories, users)
    }
    assert held == {
        f"partial/{'f' * 64}": "the running job fetch",
        f"partial/{'f' * 64}.hf_transfer": "the running job fetch",
        f"partial/{'e' * 64}": "",
        "releases/new.part": "the running job build-1",
        "work/new": "the running job build-1",
        "releases/newer": "",
    }


def test_only_what_is_offered_can_be_chosen() -> None:
    found = leftovers(RIG, [LOCKED], {}, {f"{layout.RELEASES}/old": GIB}, {})
    assert [leftover.paths for leftover in chosen(["releases/old"], found)] == [(f"{layout.RELEASES}/old",)]
    assert chosen([], found) == []
    for name in ("releases", "releases/", "releases/*", "", "/", RELEASE, f"releases/{RELEASE_ID}"):
        with pytest.raises(CannotDeleteError, match="nothing was deleted"):
            chosen([name], found)
