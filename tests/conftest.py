"""The box the tests share: fresh, converged once, and put back by every test that disturbs it."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests import isolation
from tests.box import local_hub, machine
from tests.box.deployment import Deployment, Outcome, rehearsal_rig
from tests.box.hub import Hub
from tests.box.paths import Rehearsal

PORT = 23022


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(isolation)


@pytest.fixture(scope="session")
def rehearsal(users_box: Rehearsal) -> Iterator[Rehearsal]:
    """A fresh box of the tests' own; the owner's rehearsal is not touched.

    LLAMARIG_TEST_BOX names another one (and LLAMARIG_TEST_PORT its port), so that two test runs can go side by side;
    LLAMARIG_KEEP_TEST_BOX=1 starts from the box the last run left, which is quicker while a test is being written.
    """
    if os.geteuid() != 0:
        # In CI a box that cannot be is a failure: what it shows is the product.
        if os.environ.get("CI"):
            pytest.fail("the box needs root, and in CI it may not be left out")
        pytest.skip("the box needs root: run `sudo python3 -m tests check`")
    port = int(os.environ.get("LLAMARIG_TEST_PORT", PORT))
    box = Rehearsal(users_box.cache / os.environ.get("LLAMARIG_TEST_BOX", "test-box"), port, users_box.cache)
    with _of_this_run_alone(box):
        if not os.environ.get("LLAMARIG_KEEP_TEST_BOX"):
            machine.destroy(box)
        machine.up(box)
        try:
            yield box
        finally:
            machine.down(box)


@contextmanager
def _of_this_run_alone(box: Rehearsal) -> Iterator[None]:
    """Two test runs on one box would delete it under each other's feet."""
    box.directory.parent.mkdir(parents=True, exist_ok=True)
    with box.directory.with_suffix(".tests-lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pytest.exit(
                f"Another test run is using {box.directory}. Wait for its end, or set LLAMARIG_TEST_BOX and "
                "LLAMARIG_TEST_PORT for a box of your own.",
                returncode=1,
            )
        yield


@pytest.fixture(scope="session")
def hub(rehearsal: Rehearsal) -> Iterator[Hub]:
    """The stand-in Hub with the tiny model, its faults and its log at hand."""
    local_hub.make_model(rehearsal)
    with Hub(rehearsal.hub_directory, rehearsal.hub_port, rehearsal.hub_port + 1) as hub:
        hub.add_root()
        yield hub


@pytest.fixture(autouse=True)
def no_faults_left(request: pytest.FixtureRequest) -> Iterator[None]:
    """Whatever a test made the Hub do wrong ends with the test."""
    yield
    if "hub" in request.fixturenames:
        request.getfixturevalue("hub").faults.clear()


@pytest.fixture(scope="session")
def first_run(rehearsal: Rehearsal, hub: Hub, tmp_path_factory: pytest.TempPathFactory) -> tuple[Deployment, Outcome]:
    """The deployment, and what its first run on the fresh box did."""
    deployment = Deployment(rehearsal, tmp_path_factory.mktemp("deployment"), rehearsal_rig(rehearsal))
    return deployment, deployment.run(timeout=1500)


@pytest.fixture
def deployment(first_run: tuple[Deployment, Outcome]) -> Deployment:
    """A converged box."""
    deployment, outcome = first_run
    if outcome.code:
        pytest.fail(f"the fresh box did not converge: {outcome}", pytrace=False)
    return deployment


@pytest.fixture
def variant(deployment: Deployment, tmp_path: Path) -> Deployment:
    """The converged box with a rig of its own to edit; afterwards the box is as declared again."""
    return deployment.variant(tmp_path / "variant")
