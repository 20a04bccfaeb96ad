"""A box is reserved while plans are made for it, and no longer, however that ends."""

from __future__ import annotations

import fcntl
import subprocess
from pathlib import Path
from typing import Any

import pytest
from llamarig.engine.item import Commands
from llamarig.items.box_reservation import on_reserved_box, run_reserved, while_reserved
from llamarig.render import layout
from pyinfra.api.host import Host
from pyinfra.api.operation import operation
from pyinfra.api.state import State

from tests.engine.fake_run import OperationFailedError, commands_of

STOPPED = "systemctl stop 'llamarig-job-plan_*'"


def works(state: State, host: Host, result: Any) -> bool:
    """A dry run, then success, failure or an error."""
    run_reserved("dry-run")
    if isinstance(result, Exception):
        raise result
    return bool(result)


@operation(is_idempotent=False)
def planned(result: Any) -> Commands:
    yield from on_reserved_box(True, works, result)


def sent(result: Any) -> list[str]:
    try:
        return commands_of((planned, {"result": result}))
    except OperationFailedError as error:
        assert result is not True
        return error.commands


@pytest.mark.parametrize("result", [True, False, ValueError("no plan")])
def test_the_box_is_reserved_before_the_first_dry_run_and_free_after_the_last(result: Any) -> None:
    *_, start, dry_run, end = sent(result)
    assert "llamarig.remote.plan.reserve_box" in start
    assert dry_run == f"touch {layout.JOBS}/plan/dry-run; dry-run"
    assert end == STOPPED


def test_programs_of_an_older_tree_are_named() -> None:
    (check, *_) = sent(True)
    assert "are older than this repository: run deploy.py" in check


@pytest.mark.parametrize("status", [0, 3])
def test_a_command_keeps_the_reservation_until_it_has_ended(status: int, tmp_path: Path) -> None:
    touched, deleted = tmp_path / "token", tmp_path / "deleted"
    line = while_reserved(str(touched), f"test -e {touched} || sleep 1; touch {deleted}; (exit {status})")
    with (tmp_path / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert subprocess.run(["sh", "-c", line], capture_output=True).returncode == status
    assert touched.exists()
    assert deleted.exists()


def test_nothing_is_run_once_the_reservation_has_ended(tmp_path: Path) -> None:
    (tmp_path / "lock").touch()
    line = while_reserved(str(tmp_path / "token"), f"touch {tmp_path}/deleted")
    done = subprocess.run(["sh", "-c", line], capture_output=True, text=True)
    assert done.returncode == 1
    assert "the reservation of the box has ended meanwhile, so nothing more was changed: run this again" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["lock"]
