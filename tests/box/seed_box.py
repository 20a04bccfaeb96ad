"""The seed: a fresh box that is deployed once in a test run. Each process of the run works on a copy of it."""

from __future__ import annotations

import fcntl
import json
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from tests.box import local_hub, machine
from tests.box.bootstrap import bootstrap
from tests.box.deployment import Deployment, Outcome, rehearsal_rig
from tests.box.hub import Hub
from tests.box.paths import Rehearsal

DEPLOY_SECONDS = 1500.0
"""A limit for hanging deploys; with an empty compiler cache two cores take 6 minutes."""


def copy_seed(seed: Rehearsal, box: Rehearsal, run: str) -> Outcome:
    """Make the file system of `box` a copy of the seed's; returns the outcome of the seed's first deploy.

    The first process of a run to come here makes the seed; the others wait for it.

    :param run: the id of the test run; a seed of another run is deleted
    """
    with _lock(seed):
        outcome = _outcome_of(seed, run)
        if outcome is None:
            machine.destroy(seed)
            outcome = _deploy(seed)
            seed.directory.mkdir(exist_ok=True)
            _record(seed).write_text(json.dumps({"run": run, "outcome": asdict(outcome)}))
        if outcome.code == 0:
            bootstrap(box, seed=seed.root)
            shutil.copytree(seed.hub_directory, box.hub_directory, dirs_exist_ok=True)
            shutil.copy(seed.model_lock, box.model_lock)
            for unit in (box.root / "etc/systemd/system/multi-user.target.wants").glob("llamarig-*.service"):
                unit.unlink()  # it has the seed's port, which the copies would contend for when they boot
    return outcome


def _deploy(seed: Rehearsal) -> Outcome:
    """Deploy a fresh box. A failure is an outcome too, or every process of the run would try again."""
    try:
        machine.up(seed)
        local_hub.make_model(seed)
        files = seed.directory / "first-run"
        files.mkdir()
        with Hub(seed.hub_directory, seed.hub_port, seed.hub_port + 1) as hub:
            hub.add_root()
            return Deployment(seed, files, rehearsal_rig(seed)).run(timeout=DEPLOY_SECONDS)
    except subprocess.TimeoutExpired as error:
        return Outcome(
            1, f"the deploy did not end within {DEPLOY_SECONDS:.0f} s:\n{_text(error.output)}{_text(error.stderr)}"
        )
    except machine.BoxError as error:
        return Outcome(1, str(error))
    finally:
        machine.down(seed)


def _text(output: bytes | str | None) -> str:
    return output.decode(errors="replace") if isinstance(output, bytes) else output or ""


def _outcome_of(seed: Rehearsal, run: str) -> Outcome | None:
    """The first deploy of this run's seed; None where the seed is missing, unfinished or another run's."""
    try:
        record = json.loads(_record(seed).read_text())
    except (OSError, ValueError):
        return None
    return Outcome(**record["outcome"]) if record["run"] == run else None


def _record(seed: Rehearsal) -> Path:
    return seed.directory / "first-run.json"


@contextmanager
def _lock(seed: Rehearsal) -> Iterator[None]:
    seed.directory.parent.mkdir(parents=True, exist_ok=True)
    with seed.directory.with_name(f"{seed.directory.name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
