"""Fixtures of the box that tests share: made fresh, converged before each module, restored by tests that change it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import hypothesis
import pytest

from tests import isolation, left_out
from tests.box import local_hub, machine
from tests.box.deployment import Deployment, Outcome, rehearsal_rig
from tests.box.exclusive_use import exclusive_use
from tests.box.hub import Hub
from tests.box.paths import Rehearsal
from tests.box.seed_box import DEPLOY_SECONDS, copy_seed

# How long an example takes says more of the other processes than of the code.
hypothesis.settings.register_profile("llamarig", deadline=None)
hypothesis.settings.load_profile("llamarig")

PORT = 23022
PORTS_OF_A_BOX = 200
"""Between the boxes of two processes of one test run; each box and what stands beside it has some thirty ports."""
SEED_PORT = 50
"""Of the seed box, beyond the port of the first process's box."""


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(isolation)
    config.pluginmanager.register(left_out)


def _process_number(config: pytest.Config) -> int:
    """Of this process among those of the test run; 0 where there is only one."""
    worker: str = getattr(config, "workerinput", {}).get("workerid", "gw0")
    return int(worker.removeprefix("gw"))


@dataclass(frozen=True)
class Boxes:
    """Where this process's box is, and the seed that it is copied from."""

    own: Rehearsal
    seed: Rehearsal


@pytest.fixture(scope="session")
def boxes(users_box: Rehearsal, pytestconfig: pytest.Config) -> Boxes:
    """Boxes of the tests' own; the owner's rehearsal is not touched.

    LLAMARIG_TEST_BOX names others (and LLAMARIG_TEST_PORT their ports), so that two test runs can go side by side.
    """
    name, port = os.environ.get("LLAMARIG_TEST_BOX", "test-box"), int(os.environ.get("LLAMARIG_TEST_PORT", PORT))
    if name == users_box.directory.name:
        pytest.fail(f"LLAMARIG_TEST_BOX={name} would delete the rehearsal box: choose another name", pytrace=False)
    number = _process_number(pytestconfig)
    own = f"{name}-{number}" if number else name
    return Boxes(
        Rehearsal(users_box.cache / own, port + PORTS_OF_A_BOX * number, users_box.cache),
        Rehearsal(users_box.cache / f"{name}-seed", port + SEED_PORT, users_box.cache),
    )


@pytest.fixture(scope="session")
def seeded(boxes: Boxes, pytestconfig: pytest.Config, testrun_uid: str) -> Iterator[Outcome | None]:
    """The outcome of the deploy that this process's box was copied from; None for a box that was kept.

    LLAMARIG_KEEP_TEST_BOX=1 starts from the box the last run left, which is quicker while a test is being written.
    """
    keeps = bool(os.environ.get("LLAMARIG_KEEP_TEST_BOX"))
    with exclusive_use(boxes.own.directory, ", or set LLAMARIG_TEST_BOX and LLAMARIG_TEST_PORT for boxes of your own"):
        if keeps and boxes.own.root.is_dir():
            yield None
            return
        machine.destroy(boxes.own)
        yield copy_seed(boxes.seed, boxes.own, testrun_uid)


@pytest.fixture(scope="session")
def rehearsal(boxes: Boxes, seeded: Outcome | None) -> Iterator[Rehearsal]:
    """This process's box: a copy of one that a single deploy has converged."""
    machine.up(boxes.own)
    try:
        yield boxes.own
    finally:
        machine.down(boxes.own)


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
def own_deployment(
    rehearsal: Rehearsal, seeded: Outcome | None, hub: Hub, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Deployment, Outcome]:
    """The deployment of this process's box, and the run that gave the copy its own ports."""
    deployment = Deployment(rehearsal, tmp_path_factory.mktemp("deployment"), rehearsal_rig(rehearsal))
    if seeded is not None and seeded.code:
        return deployment, seeded
    return deployment, deployment.run(timeout=DEPLOY_SECONDS)


@pytest.fixture(scope="module")
def converged(own_deployment: tuple[Deployment, Outcome]) -> Deployment:
    """A converged box, for fixtures of modules; tests take `deployment`.

    Deployed again for each module: which modules used the box before depends on how long they took.
    """
    deployment, outcome = own_deployment
    if not outcome.code:
        outcome = deployment.run()
    if outcome.code:
        pytest.fail(f"the box did not converge: {outcome}", pytrace=False)
    return deployment


@pytest.fixture
def deployment(converged: Deployment) -> Deployment:
    """A converged box."""
    return converged


@pytest.fixture
def variant(deployment: Deployment, tmp_path: Path) -> Deployment:
    """A deployment of the converged box with a copy of the rig that a test may edit."""
    return deployment.variant(tmp_path / "variant")
