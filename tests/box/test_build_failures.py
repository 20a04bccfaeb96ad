"""Builds of another commit from a git repository on the box: a good commit is a second release, others are refused."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.box.deployment import Deployment
from tests.box.refusals import SERVED, invocation_id, keeps_serving, refusal

pytestmark = pytest.mark.box

REPOSITORY = "/srv/llama.cpp.git"
URL = f"file://{REPOSITORY}"
BROKEN = "ggml/src/ggml-threading.cpp"


@dataclass(frozen=True)
class Commits:
    """``good`` is the released source, ``broken`` does not compile."""

    good: str
    broken: str


@pytest.fixture(scope="module")
def commits(converged: Deployment) -> Iterator[Commits]:
    """Make a git repository on the box from the source that is there, with one more commit that does not compile."""
    deployment = converged
    source = deployment.rig["builds"][0]["source"]["commit"]
    git = f"git -C {REPOSITORY} -c user.name=llamarig -c user.email=llamarig@example.org"
    log = deployment.shell(
        # More than one where another test has built this commit with another compiler; a marker says that it is whole.
        f"rm -rf {REPOSITORY} && marker=$(ls -t /var/lib/llamarig/work/{source}-*/source.commit | head -n 1) "
        f'&& cp -a "${{marker%.commit}}" {REPOSITORY} '
        # The archive was packed from a submodule and contains its .git file.
        f"&& rm -f {REPOSITORY}/.git "
        "&& export GIT_AUTHOR_DATE='2026-01-01T00:00:00Z' GIT_COMMITTER_DATE='2026-01-01T00:00:00Z' "
        f"&& git -C {REPOSITORY} init --quiet && {git} add --all --force && {git} commit --quiet --message good "
        # Allow partial clones, as GitHub does: the builder counts commits without fetching their files.
        f"&& {git} config uploadpack.allowFilter true "
        f"&& echo 'int broken() {{ return nonsense; }}' >>{REPOSITORY}/{BROKEN} "
        f"&& {git} commit --quiet --all --message broken && {git} log --format=%H",
        timeout=120,
    )
    broken, good = log.split()
    yield Commits(good, broken)
    # Delete the releases, so that the next run on a kept box builds them again.
    deployment.shell(
        f"rm -rf {REPOSITORY}; for commit in {good} {broken} {'0123456789' * 4}; do "
        "rm -rf /opt/llamarig/llama.cpp/$commit-* /var/lib/llamarig/work/$commit-*; done"
    )


@pytest.fixture
def other_build(deployment: Deployment, tmp_path: Path) -> Iterator[Deployment]:
    """A variant for builds from the repository on the box that fail."""
    with keeps_serving(deployment, tmp_path / "variant") as variant:
        yield variant


def build_from(variant: Deployment, commit: str) -> None:
    variant.rig["builds"][0]["source"] = {"kind": "git", "url": URL, "commit": commit}


def releases(deployment: Deployment, commit: str = "") -> list[str]:
    return deployment.shell(f"ls -d /opt/llamarig/llama.cpp/{commit}* 2>/dev/null || true").split()


def build_times(deployment: Deployment) -> str:
    """The time at which each build on the box last wrote its status."""
    return deployment.shell("stat -c '%n %Y' /var/lib/llamarig/jobs/build-*/status.json")


def test_a_commit_that_does_not_exist_is_refused(other_build: Deployment, commits: Commits) -> None:
    nowhere = "0123456789" * 4
    build_from(other_build, nowhere)
    outcome = other_build.run()
    refusal(outcome, "build cpu", nowhere, URL, "check that it exists")
    assert releases(other_build, nowhere) == []


def test_a_repository_that_does_not_exist_is_refused(other_build: Deployment, commits: Commits) -> None:
    build_from(other_build, commits.good)
    other_build.rig["builds"][0]["source"]["url"] = "file:///srv/nowhere.git"
    refusal(other_build.run(), "build cpu", commits.good, "file:///srv/nowhere.git", "check that it exists")
    assert releases(other_build, commits.good) == []


def test_a_compiler_error_is_reported_with_its_file_and_the_journal(other_build: Deployment, commits: Commits) -> None:
    build_from(other_build, commits.broken)
    outcome = other_build.run()
    message = refusal(outcome, "build cpu", commits.broken[:12], "did not compile", "declare another commit")
    refusal(outcome, f"{BROKEN}:", "error: ", "nonsense")
    # The journal that the message names has the complete compiler output.
    unit = message.split("journalctl -u ")[1].split("`")[0]
    assert "was not declared in this scope" in other_build.shell(f"journalctl --no-pager -u {unit}")
    assert releases(other_build, commits.broken) == []


def test_a_good_commit_is_a_second_release_and_returning_to_the_first_builds_nothing(
    deployment: Deployment, commits: Commits, tmp_path: Path
) -> None:
    first = releases(deployment, deployment.rig["builds"][0]["source"]["commit"])
    with keeps_serving(deployment, tmp_path / "variant", repaired=(SERVED,)) as variant:
        before = invocation_id(variant)
        build_from(variant, commits.good)
        outcome = variant.run()
        assert outcome.code == 0, str(outcome)
        assert SERVED in outcome.changed
        with urllib.request.urlopen(f"{variant.address}/props", timeout=10) as response:
            # The build number is the number of commits, here one.
            assert json.load(response)["build_info"] == f"b1-{commits.good}"
        assert invocation_id(variant) != before
        assert len(releases(variant, commits.good)) == 1
        assert releases(variant, deployment.rig["builds"][0]["source"]["commit"]) == first
        assert variant.run().changed == []
        before_return = build_times(variant)
    assert build_times(deployment) == before_return, "returning to the first release compiled something"
