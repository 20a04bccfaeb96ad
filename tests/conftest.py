"""Fixtures of the box that all tests share: made fresh, converged once, restored by every test that changes it."""

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
    """A fresh box for the tests, separate from the user's rehearsal box.

    LLAMARIG_TEST_BOX and LLAMARIG_TEST_PORT choose another name and port, so that two test runs can run side by side.
    LLAMARIG_KEEP_TEST_BOX=1 reuses the box of the last run, which is quicker while a test is being written.
    """
    if os.geteuid() != 0:
        # CI must not skip these tests: only they run a whole deploy.
        if os.environ.get("CI"):
            pytest.fail("the box needs root, and in CI it may not be left out")
        pytest.skip("the box needs root: run `sudo python3 -m tests check`")
    port = int(os.environ.get("LLAMARIG_TEST_PORT", PORT))
    box = Rehearsal(users_box.cache / os.environ.get("LLAMARIG_TEST_BOX", "test-box"), port, users_box.cache)
    with _exclusive_use(box):
        if not os.environ.get("LLAMARIG_KEEP_TEST_BOX"):
            machine.destroy(box)
        machine.up(box)
        try:
            yield box
        finally:
            machine.down(box)


@contextmanager
def _exclusive_use(box: Rehearsal) -> Iterator[None]:
    """Lock the box for this test run: a second run would delete it while the first uses it."""
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
    """The stand-in Hub, serving the tiny model."""
    local_hub.make_model(rehearsal)
    with Hub(rehearsal.hub_directory, rehearsal.hub_port, rehearsal.hub_port + 1) as hub:
        hub.add_root()
        yield hub


@pytest.fixture(autouse=True)
def clear_hub_faults(request: pytest.FixtureRequest) -> Iterator[None]:
    """Switch off the faults that a test switched on in the stand-in Hub."""
    yield
    if "hub" in request.fixturenames:
        request.getfixturevalue("hub").faults.clear()


@pytest.fixture(scope="session")
def first_run(rehearsal: Rehearsal, hub: Hub, tmp_path_factory: pytest.TempPathFactory) -> tuple[Deployment, Outcome]:
    """The deployment, and the outcome of its first run on the fresh box."""
    deployment = Deployment(rehearsal, tmp_path_factory.mktemp("deployment"), rehearsal_rig(rehearsal))
    return deployment, deployment.run(timeout=1500)


@pytest.fixture
def deployment(first_run: tuple[Deployment, Outcome]) -> Deployment:
    """The deployment of the converged box."""
    deployment, outcome = first_run
    if outcome.code:
        pytest.fail(f"the fresh box did not converge: {outcome}", pytrace=False)
    return deployment


@pytest.fixture
def variant(deployment: Deployment, tmp_path: Path) -> Deployment:
    """A deployment of the converged box with a copy of the rig that a test may edit."""
    return deployment.variant(tmp_path / "variant")
