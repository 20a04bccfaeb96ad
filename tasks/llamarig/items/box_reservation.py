"""Work of the control machine on a box that is reserved for it, so that no job changes meanwhile what it has read."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from pathlib import PurePosixPath
from typing import Any

from pyinfra.api.command import FunctionCommand, StringCommand
from pyinfra.api.host import Host
from pyinfra.api.state import State
from pyinfra.connectors.util import CommandOutput

from llamarig.engine.item import Commands
from llamarig.engine.jobs import start_job
from llamarig.engine.run import NoAnswerError
from llamarig.engine.shell import run_line
from llamarig.placement.dry_run import START_S, TIMEOUT_S
from llamarig.remote.shared.admission import LOCK
from llamarig.remote.shared.jobs import ReservationJob
from llamarig.render import layout

_PLAN = f"{layout.JOBS}/plan/dry-run"
_IDLE_S = 2 * (TIMEOUT_S + START_S)
_PROGRAM = f"{layout.PROGRAMS}/llamarig/remote/plan/reserve_box.py"


def deletion() -> str:
    """The file of a reservation for deletions, of this run alone: two of them do not share one."""
    return f"{layout.JOBS}/prune/{secrets.token_hex(4)}"


def on_reserved_box(takeover: bool, work: Callable[..., bool], *arguments: Any, touched: str = _PLAN) -> Commands:
    """Call ``work(state, host, *arguments)`` while the box is reserved.

    The operation fails in words while a job runs that may not run beside it, or with ``takeover`` stops that.

    :param touched: file that keeps the reservation while it is touched, in the directory of its job, whose name decides
        what else may run (remote/shared/admission.py)
    """
    older = "llamarig's programs on the box are older than this repository: run deploy.py"
    yield StringCommand(f'test -e {_PROGRAM} || {{ echo "{older}" >&2; exit 1; }}')
    job = ReservationJob(touched=touched, idle_s=_IDLE_S)
    yield from start_job(_name(touched), "plan.reserve_box", job, takeover=takeover)
    yield FunctionCommand(_then_ended, [touched, work, arguments], {})


def _name(touched: str) -> str:
    return PurePosixPath(touched).parent.name


def _then_ended(state: State, host: Host, touched: str, work: Callable[..., bool], arguments: tuple[Any, ...]) -> bool:
    try:
        return work(state, host, *arguments)
    except NoAnswerError:  # it has been reported
        return False
    finally:
        run_line(
            f"systemctl stop '{layout.job_unit(_name(touched))}*'{'' if touched == _PLAN else f'; rm -f {touched}'}"
        )


def run_reserved(line: str, stdin: str = "") -> CommandOutput:
    """Run a command on the box that is reserved for planning, which stays so for a while after it.

    :param stdin: what the command reads; nothing if empty
    """
    return run_line(f"touch {_PLAN}; {line}", stdin=stdin)[1]


def while_reserved(touched: str, line: str) -> str:
    """Shell command that runs another one only where the box is still reserved, and keeps it so until that has ended.

    A reservation ends by itself where this machine was away for too long.
    """
    ended = "the reservation of the box has ended meanwhile, so nothing more was changed: run this again"
    return (
        f'if flock -s -n {PurePosixPath(touched).parent / LOCK} true; then echo "{ended}" >&2; exit 1; fi; '
        f"while kill -0 $$ && touch {touched}; do sleep 20; done >/dev/null 2>&1 & p=$!; {line}; r=$?; kill $p; exit $r"
    )
