"""The last thing that a command prints: for each host, in a few lines, what came of it.

pyinfra prints a table of operations, and after a failure of every host only "No hosts remaining!".
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from click import ClickException
from pyinfra.api.host import Host
from pyinfra.api.state import BaseStateCallback, State
from pyinfra.context import state

from llamarig.engine.progress import duration
from llamarig.engine.run import HostRun, of_host
from llamarig.engine.screen import announce, announce_heading

AS_DECLARED, CHANGED, WOULD_CHANGE, DONE, FAILED = "as declared", "changed", "would change", "done", "failed"
_COLOURS = {AS_DECLARED: "green", CHANGED: "green", WOULD_CHANGE: "yellow", DONE: "green", FAILED: "red"}


@dataclass(frozen=True)
class HostVerdict:
    """What came of a command on one host. ``kind``: one of the constants above; ``lines``: what it is about."""

    host: str
    kind: str
    headline: str
    lines: tuple[str, ...] = ()


@contextmanager
def closing_block(commands: Sequence[str], *, is_dry: bool) -> Iterator[None]:
    """Print the block when pyinfra has ended, unless it did not get as far as connecting.

    :param commands: of llamarig, as DATA of command_line.py names them; an audit prints a verdict of its own
    """
    began = time.monotonic()
    converges = "deploy.py" in map(_name, commands)
    try:
        yield
    except ClickException as error:
        if isinstance(getattr(error, "exception", None), EOFError):
            raise SystemExit(
                "pyinfra has a question, and there is no terminal to answer it at: add -y to go on; nothing was done"
            ) from None
        # Why each host has failed has been printed; other errors have their message in pyinfra's last line.
        # The class by its name: importing pyinfra_cli patches the standard library for gevent.
        if type(error).__name__ != "WrappedError" or not str(error).startswith(("No hosts remaining", "Over ")):
            raise
        _show(commands, began, converges=converges, is_dry=is_dry)
        raise SystemExit(1) from None
    except SystemExit as end:
        if end.code in (None, 0, 1):
            _show(commands, began, converges=converges, is_dry=is_dry)
        raise


def _show(commands: Sequence[str], began: float, *, converges: bool, is_dry: bool) -> None:
    shown = [name for name in map(_name, commands) if name != "audit.py"]
    if not shown or not getattr(state, "initialised", False):
        return
    # Also where the owner did not go on at pyinfra's question.
    is_dry = is_dry or not state.is_executing
    hosts = [host for host in state.inventory if state.is_host_in_limit(host)]
    verdicts = [host_verdict(state, host, converges=converges, is_dry=is_dry) for host in hosts]
    title = ", ".join(name.removesuffix(".py").capitalize() for name in shown)
    took = duration(time.monotonic() - began)
    announce_heading(f"{title}: {heading(verdicts, converges=converges, is_dry=is_dry)} ({took})")
    for verdict in verdicts:
        announce(f"{verdict.host}: {verdict.headline}", fg=_COLOURS[verdict.kind])
        for line in verdict.lines:
            announce(f"    {line}")


def _name(command: str) -> str:
    return Path(command).name


def heading(verdicts: Sequence[HostVerdict], *, converges: bool, is_dry: bool) -> str:
    """How many hosts are as they should be: ``2 of 3 hosts are as declared``."""
    hosts, kinds = len(verdicts), [verdict.kind for verdict in verdicts]
    good = sum(kind not in (FAILED, WOULD_CHANGE) for kind in kinds)
    if not converges and good == hosts:
        return f"{hosts} {'host' if hosts == 1 else 'hosts'}"
    some = f"{good} of {hosts} {'host' if hosts == 1 else 'hosts'}"
    if not converges:
        return some
    return f"{some} {'is' if 1 in (good, hosts) else 'are'} as declared{', and nothing was changed' if is_dry else ''}"


def host_verdict(this: State, host: Host, *, converges: bool, is_dry: bool) -> HostVerdict:
    """What came of the run on one host.

    :param converges: whether the run was to make the host as declared
    """
    known = of_host(host)
    if host not in this.activated_hosts:
        return HostVerdict(host.name, FAILED, f"could not be reached: {known.failure or 'see above'}")
    if host in this.failed_hosts:
        before = [f"before that: {change}" for change in known.changes]
        return HostVerdict(host.name, FAILED, f"failed: {_failure(this, host, known)}", tuple(before))
    if known.result:
        return HostVerdict(host.name, DONE, known.result[0], tuple(known.result[1:]))
    if not converges:
        return HostVerdict(host.name, DONE, "done")
    if is_dry and known.would_fail:
        return HostVerdict(host.name, FAILED, f"a deploy would be refused: {known.would_fail[0]}")
    if is_dry and known.would_change:
        return HostVerdict(host.name, WOULD_CHANGE, "a deploy would change it:", tuple(known.would_change))
    if not is_dry and known.changes:
        return HostVerdict(host.name, CHANGED, "as declared now:", tuple(known.changes))
    return HostVerdict(host.name, AS_DECLARED, "as declared" if is_dry else "as declared, nothing was changed")


def _failure(this: State, host: Host, known: HostRun) -> str:
    if known.failure:
        return known.failure
    failed = [
        next(iter(this.get_op_meta(operation).names))
        for operation, data in this.ops[host].items()
        if data.operation_meta.is_complete() and data.operation_meta.did_error()
    ]
    return f"in {', '.join(failed)}, see above" if failed else "its facts could not be read, see above"


class ConnectionErrors(BaseStateCallback):
    """Keeps why a host could not be reached."""

    @staticmethod
    def host_connect_error(state: State, host: Host, error: Exception) -> None:
        """Called by pyinfra."""
        of_host(host).failure = str(error)


def left_running(hosts: Iterable[Host]) -> list[str]:
    """What goes on on the boxes when this run ends now, and how to stop it; one line for each host with jobs."""
    lines = []
    for host in hosts:
        jobs = of_host(host).awaited
        if jobs:
            progress = of_host(host).progress
            named = "; ".join(progress.get(name, label) for name, label in jobs.items())
            units = " ".join(f"'llamarig-job-{name}_*'" for name in jobs)
            sudo = "sudo " if host.data.get("_sudo") else ""
            lines.append(
                f"{host.name}: what runs there goes on, and the next deploy finds it: {named}; to stop it, on the box: "
                f"{sudo}systemctl stop {units}"
            )
    return lines
