"""Releases: complete when every file of the manifest has the recorded size, else built by one job each."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest
from llamarig import declare as d
from llamarig.declare.rig import Rig
from llamarig.engine.converge import converge
from llamarig.engine.jobs import job_text
from llamarig.facts.releases import Release
from llamarig.items.releases import WholeReleases, build_job_name, release_differences
from llamarig.render.release import build_job

from tests.engine.fake_run import converged_commands, fake_run
from tests.items.converged_box import converged_box, cpu_rig

COMPLETE = {"files": {"llama-server": {"size": 10}, "libggml.so": {"size": 5}}}
PATH = "/opt/x/0c1e57098bba43ac29e6e3b677cdceebdd22334f-a6a0c45d"


@pytest.mark.parametrize(
    ("manifest", "files", "found"),
    [
        (None, {}, "not built yet"),
        (COMPLETE, {"llama-server": 10}, "libggml.so missing or of another size"),
        (COMPLETE, {"llama-server": 9, "libggml.so": 5}, "llama-server missing or of another size"),
        (COMPLETE, {}, "libggml.so, llama-server missing or of another size"),
    ],
)
def test_an_incomplete_release_is_built_again(
    manifest: dict[str, Any] | None, files: dict[str, int], found: str
) -> None:
    (difference,) = release_differences(PATH, Release(manifest, files))
    assert difference.found == found
    assert difference.by_deploy


def test_a_complete_release_is_not_built_again() -> None:
    assert release_differences(PATH, Release(COMPLETE, {"llama-server": 10, "libggml.so": 5, "more": 1})) == []


def test_a_box_with_its_release_is_as_declared() -> None:
    box = converged_box(cpu_rig())
    assert box.differences(WholeReleases()) == []


def two_builds() -> Rig:
    serve = d.serve(port=8080, context=4096)
    builds = [d.build(name=name, backend="cpu", cmake={"GGML_NATIVE": native}) for name, native in NATIVE.items()]
    models = [d.model(name=name, repo="o/r", quant="Q6", build=name, serve=serve) for name in NATIVE]
    return Rig.model_validate(d.rig(builds=builds, models=models))


NATIVE = {"a": "ON", "b": "OFF"}


def started(rig: Rig, jobs: str = "") -> list[str]:
    """Commands that start a job."""
    commands = converged_commands([WholeReleases()], rig, {"@@llamarig": "", "echo job=": jobs})
    return [command for command in commands if "systemd-run" in command]


def test_each_missing_release_is_built_by_a_job_of_its_own() -> None:
    rig = two_builds()
    names = [build_job_name(build, rig) for build in rig.builds]
    assert len(set(names)) == 2
    commands = started(rig)
    assert [name for name in names if any(name in command for command in commands)] == names
    assert all("llamarig.remote.build.build_release" in command for command in commands)


def test_a_build_that_already_runs_is_not_started_again(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="pyinfra")
    rig = two_builds()
    first, second = rig.builds
    sha256 = hashlib.sha256(job_text(build_job(first, rig.models)).encode()).hexdigest()
    (command,) = started(rig, f"job={build_job_name(first, rig)}\nactive=active\nsha256={sha256}")
    assert build_job_name(second, rig) in command
    assert f"{build_job_name(first, rig)} is already running on the box" in caplog.text


def test_another_build_of_that_name_is_replaced() -> None:
    rig = two_builds()
    assert len(started(rig, f"job={build_job_name(rig.builds[0], rig)}\nactive=active\nsha256={'0' * 64}")) == 2


def test_a_release_that_another_box_builds_is_not_built_here() -> None:
    serve = d.serve(port=8080, context=4096)
    build = d.build(name="cpu", backend="cpu", built_by="@fake/other")
    rig = Rig.model_validate(
        d.rig(builds=[build], models=[d.model(name="m", repo="o/r", quant="Q6", build="cpu", serve=serve)])
    )
    boxes = {"@fake/other": {"@@llamarig": ""}, "@fake/this": {"@@llamarig": ""}}
    with fake_run(hosts=boxes, deploys=[lambda: converge([WholeReleases()], rig)]) as this:
        assert this.failed == set()
        builds = {name: "systemd-run" in "".join(this.commands_on(name)) for name in boxes}
        assert builds == {"@fake/other": True, "@fake/this": False}
