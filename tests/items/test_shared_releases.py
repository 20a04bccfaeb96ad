"""A release that one box builds for another: requested before anything is built, and refused where it cannot run.

What is handed out and received is tested on boxes (tests/box/test_shared_builds.py).
"""

from __future__ import annotations

import json
from typing import Any

import pytest
from llamarig import declare as d
from llamarig.declare.rig import Rig
from llamarig.engine.control_machine import Builder
from llamarig.engine.converge import compare, converge
from llamarig.engine.item import Commands, Difference, Query, Seen, query
from llamarig.engine.run import run
from llamarig.facts.platform import HostPlatform, Platform
from llamarig.facts.releases import Release, Releases
from llamarig.items.releases import WholeReleases, release_directories
from llamarig.items.shared_releases import PackedReleases, ReceivedReleases, RequestedReleases
from pyinfra.api.operation import operation
from pyinfra.context import host, state

from tests.engine.fake_run import fake_run
from tests.items.converged_box import control_machine

BIG, SMALL = "@fake/big", "@fake/small"
ITEMS = (RequestedReleases(), PackedReleases(), ReceivedReleases())


def rig(built_by: str | None = BIG, **cmake: str) -> Rig:
    build = d.build(name="cpu", backend="cpu", built_by=built_by, cmake=cmake)
    model = d.model(name="m", repo="o/r", quant="Q6", build="cpu", serve=d.serve(port=8080, context=4096))
    return Rig.model_validate(d.rig(builds=[build], models=[model]))


def seen(of: Rig, host: str, release: Release | None = None, **here: Any) -> Seen:
    directories = release_directories(of)
    found = dict.fromkeys(directories, release) if release else {}
    machine = control_machine(of, **{"builders": {BIG: Builder()}, **here})
    values: dict[Query[Any], Any] = {query(Releases, directories=directories): found, query(HostPlatform): Platform()}
    return Seen(host, machine, values)


COMPLETE = Release({"commit": "0c1e570", "flags": [], "files": {}, "needs": {"machine": "x86_64"}})


def test_a_box_that_lacks_the_release_requests_it() -> None:
    assert len(RequestedReleases().differences(rig(), seen(rig(), SMALL))) == 1
    assert RequestedReleases().differences(rig(), seen(rig(), SMALL, COMPLETE)) == []
    assert RequestedReleases().differences(rig(), seen(rig(), BIG)) == [], "it builds"


def test_only_a_requested_release_is_handed_out() -> None:
    item, (path,) = PackedReleases(), release_directories(rig())
    assert item.differences(rig(), seen(rig(), BIG, COMPLETE)) == []
    assert len(item.differences(rig(), seen(rig(), BIG, COMPLETE, wanted_releases={path: {SMALL}}))) == 1
    assert item.differences(rig(), seen(rig(), SMALL, COMPLETE, wanted_releases={path: {SMALL}})) == []


def test_boxes_that_share_nothing_read_nothing() -> None:
    for item in ITEMS:
        assert list(item.queries(rig(None), control_machine(rig(None)))) == []
        assert item.differences(rig(None), Seen(SMALL, control_machine(rig(None)), {})) == []


def platform(sets: str, machine: str = "x86_64") -> str:
    return f"== machine\n{machine}\n== glibc\nglibc 2.41\n== system\nDebian\n== sets\nflags : {sets}"


def boxes(of: Rig, *, small: str, manifest: dict[str, Any] | None = None) -> dict[str, dict[str, str]]:
    (path,) = release_directories(of)
    whole = {"commit": "0c1e570", "flags": [], "files": {}, **(manifest or {})}
    text = platform("sse4_2 avx avx2 fma f16c bmi2")
    return {
        BIG: {"@@llamarig": "", "uname -m": text, "manifest.json": f"release\t{path}\nmanifest\t{json.dumps(whole)}"},
        SMALL: {"@@llamarig": "", "uname -m": small, "manifest.json": f"release\t{path}"},
    }


def test_a_processor_that_could_not_run_it_is_refused_before_the_build(caplog: pytest.LogCaptureFixture) -> None:
    of = rig()
    with fake_run(hosts=boxes(of, small=platform("sse4_2")), deploys=[lambda: converge(ITEMS[:1], of)]) as this:
        assert this.failed == {SMALL}
        assert run().wanted_releases == {}
    assert f"build 'cpu' from {BIG} cannot run here" in caplog.text


def test_the_builder_knows_who_needs_the_release() -> None:
    of = rig()
    like_big = platform("sse4_2 avx avx2 fma f16c bmi2")
    with fake_run(hosts=boxes(of, small=like_big), deploys=[lambda: converge(ITEMS[:1], of)]) as this:
        assert this.failed == set()
        (path,) = release_directories(of)
        assert run().wanted_releases == {path: {SMALL}}


def test_a_release_of_an_older_llamarig_is_not_handed_out(caplog: pytest.LogCaptureFixture) -> None:
    """It does not record what it needs of another box; and the box that waits for it is refused, too."""
    of = rig()
    like_big = platform("sse4_2 avx avx2 fma f16c bmi2")
    with (
        pytest.raises(AssertionError),
        fake_run(hosts=boxes(of, small=like_big), deploys=[lambda: converge(ITEMS, of)]),
    ):
        pass
    assert "was built by an older llamarig and does not record what it requires of other boxes" in caplog.text
    assert f"build 'cpu' comes from {BIG}, which failed in this run" in caplog.text


def test_a_builder_that_was_not_reached_is_refused(caplog: pytest.LogCaptureFixture) -> None:
    of = rig()

    def without_the_builder() -> None:
        state.activated_hosts.discard(state.inventory.get_host(BIG))
        if host.name == SMALL:
            converge(ITEMS[:1], of)

    with fake_run(hosts=boxes(of, small=platform("avx2")), deploys=[without_the_builder]) as this:
        assert this.failed == {SMALL}
        assert "uname -m" not in "".join(this.commands_on(BIG)), "the builder was queried"
    assert "which is not part of this run or was not reached" in caplog.text


def test_a_release_without_requirements_is_known_before_it_is_packed() -> None:
    item, (path,) = PackedReleases(), release_directories(rig())
    legacy = Release({"commit": "0c1e570", "flags": [], "files": {}})
    (refused,) = item.differences(rig(), seen(rig(), BIG, legacy, wanted_releases={path: {SMALL}}))
    assert not refused.by_deploy
    assert "does not record what it requires of other boxes" in refused.refusal


# --- audit ------------------------------------------------------------------------------------------------------------


def audited(of: Rig, small: str, *, is_reached: bool = True, is_whole: bool = False) -> tuple[list[Difference], str]:
    """What an audit of the small box reports of its releases, and every command that the big one was sent."""
    found: list[Difference] = []

    @operation()
    def compares() -> Commands:
        if not is_reached:
            state.activated_hosts.discard(state.inventory.get_host(BIG))
        if host.name == SMALL and state.is_executing:
            found.extend(compare([WholeReleases()], of)["Releases"])
        yield from ()

    hosts = boxes(of, small=small)
    if is_whole:
        hosts[SMALL]["manifest.json"] = hosts[BIG]["manifest.json"]
    with fake_run((compares, {}), hosts=hosts) as this:
        return found, "".join(this.commands_on(BIG))


LIKE_BIG = platform("sse4_2 avx avx2 fma f16c bmi2")


def test_an_audit_says_that_the_builder_is_not_in_this_run() -> None:
    (difference,), _ = audited(rig(), LIKE_BIG, is_reached=False)
    assert not difference.by_deploy
    assert difference.refusal.startswith(f"build 'cpu' comes from {BIG}, which is not part of this run")


def test_an_audit_says_that_the_binaries_would_not_run_here() -> None:
    (difference,), _ = audited(rig(), platform("sse4_2"))
    assert not difference.by_deploy
    assert difference.refusal.startswith(f"build 'cpu' from {BIG} cannot run here: it would use ")


def test_an_audit_leaves_a_release_that_can_be_received_to_a_deploy() -> None:
    (difference,), _ = audited(rig(), LIKE_BIG)
    assert difference.by_deploy


def test_another_box_is_asked_only_where_a_release_is_missing() -> None:
    assert "uname -m" in audited(rig(), LIKE_BIG)[1]
    assert audited(rig(), platform("sse4_2"), is_whole=True) == ([], "")
