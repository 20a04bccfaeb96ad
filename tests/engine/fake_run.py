"""Run operations with pyinfra's own connector `@fake`: no box, only canned replies."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from llamarig.declare.rig import Rig
from llamarig.engine.converge import converge
from llamarig.engine.item import Item
from pyinfra.api.config import Config
from pyinfra.api.connect import connect_all, disconnect_all
from pyinfra.api.deploy import add_deploy
from pyinfra.api.exceptions import PyinfraError
from pyinfra.api.host import Host
from pyinfra.api.inventory import Inventory
from pyinfra.api.operation import add_op
from pyinfra.api.operations import run_ops
from pyinfra.api.state import State, StateStage
from pyinfra.context import ctx_config, ctx_inventory, ctx_state

HOST = "@fake"

Call = tuple[Callable[..., Any], dict[str, Any]]
"""An operation and its arguments."""

Replies = Mapping[Any, Any]
"""Part of a command, or a pattern -> what it prints."""


@dataclass(frozen=True)
class FakeRun:
    """A run that has ended, or has only been prepared."""

    state: State

    def host(self, name: str = HOST) -> Host:
        """A host of the run."""
        return self.state.inventory.get_host(name)

    def commands_on(self, name: str) -> list[str]:
        """Every command sent to this host, in order; of a fact that was asked alone its own, without the deadline."""
        commands: list[str] = self.host(name).connector.executed_commands  # type: ignore[attr-defined]  # only @fake
        return [_own(command) for command in commands]

    @property
    def commands(self) -> list[str]:
        """The same for a run of one host."""
        (host,) = list(self.state.inventory)
        return self.commands_on(host.name)

    @property
    def failed(self) -> set[str]:
        """Hosts on which an operation failed."""
        return {host.name for host in self.state.failed_hosts}

    @property
    def changes(self) -> list[str]:
        """Operations that pyinfra counts as changing the host, as it shows them before it asks its user."""
        (host,) = list(self.state.inventory)
        return [
            next(iter(self.state.op_meta[op].names))
            for op in self.state.get_op_order()  # type: ignore[no-untyped-call]
            if self.state.ops[host][op].operation_meta._maybe_is_change
        ]


def _own(command: str) -> str:
    if "@@question" not in command:
        return command
    return command.partition("<<'@@end'\n")[2].partition("\n@@end\n")[0]


class OperationFailedError(AssertionError):
    """An operation failed on every host of the run."""

    def __init__(self, error: PyinfraError, run: FakeRun) -> None:
        super().__init__(f"an operation failed: {error}")
        self.run = run

    @property
    def commands(self) -> list[str]:
        """Every command of the run until then, in order."""
        return self.run.commands


@contextmanager
def fake_run(
    *operations: Call,
    replies: Replies | None = None,
    hosts: Mapping[str, Replies] | None = None,
    deploys: Sequence[Callable[[], Any]] = (),
    data: Mapping[str, Any] | None = None,
    only_prepare: bool = False,
) -> Iterator[FakeRun]:
    """A run of these operations, prepared and executed, with pyinfra's contexts still in place.

    :param replies: of the one host ``@fake``
    :param hosts: several hosts, each name beginning with ``@fake/``, and their replies
    :param deploys: functions that add operations, called on each host after ``operations``
    :param data: host data
    :param only_prepare: stop where ``--dry`` stops
    :raises OperationFailedError: when an operation fails on every host
    """
    instantly = {"fake_delay": 0, "fake_delay_jitter": 0}
    named = hosts or {HOST: replies or {}}
    declared = [(name, {**instantly, **(data or {}), "fake_responses": dict(each)}) for name, each in named.items()]
    inventory = Inventory((declared, {}))  # type: ignore[no-untyped-call]
    config = Config()  # type: ignore[no-untyped-call]
    state = State(check_for_changes=True)
    with ctx_state.use(state), ctx_inventory.use(inventory), ctx_config.use(config):
        state.init(inventory, config)
        state.set_stage(StateStage.Connect)
        connect_all(state)
        this = FakeRun(state)
        try:
            state.set_stage(StateStage.Prepare)
            for function, arguments in operations:
                add_op(state, function, **arguments)
            for deploy in deploys:
                add_deploy(state, deploy)
            if not only_prepare:
                state.set_stage(StateStage.Execute)
                try:
                    run_ops(state)
                except PyinfraError as error:
                    raise OperationFailedError(error, this) from None
            yield this
        finally:
            disconnect_all(state)


def commands_of(*operations: Call, replies: Replies | None = None) -> list[str]:
    """Every command of a run of these operations, facts included, in order."""
    with fake_run(*operations, replies=replies) as this:
        return this.commands


def converged_commands(
    items: Sequence[Item], rig: Rig, replies: Replies | None = None, data: Mapping[str, Any] | None = None
) -> list[str]:
    """Every command of a deploy of these items, facts included, in order.

    :raises OperationFailedError: when an item refuses, or its fix fails
    """
    with fake_run(replies=replies, deploys=[lambda: converge(items, rig)], data=data) as this:
        return this.commands
