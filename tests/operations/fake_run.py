"""Operations run by pyinfra itself through its own connector without a box, `@fake`, which answers as it is told."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from pyinfra.api.config import Config
from pyinfra.api.connect import connect_all, disconnect_all
from pyinfra.api.deploy import add_deploy
from pyinfra.api.exceptions import PyinfraError
from pyinfra.api.inventory import Inventory
from pyinfra.api.operation import add_op
from pyinfra.api.operations import run_ops
from pyinfra.api.state import State, StateStage
from pyinfra.context import ctx_config, ctx_inventory, ctx_state

Call = tuple[Callable[..., Any], dict[str, Any]]


@contextmanager
def run_of(
    *operations: Call,
    responses: Mapping[Any, Any] | None = None,
    deploys: Sequence[Callable[[], Any]] = (),
    rig: dict[str, Any] | None = None,
) -> Iterator[tuple[State, list[str]]]:
    """A run of these operations, prepare and execute; what the box was told, in order.

    :param responses: part of a command, or a pattern -> what it prints
    :param deploys: run after the operations, on a host that declares ``rig``
    :raises AssertionError: when an operation fails, with every command of the run as its ``args[1]``
    """
    data = {"fake_delay": 0, "fake_delay_jitter": 0, "fake_responses": dict(responses or {}), "rig": rig}
    inventory = Inventory(([("@fake", data)], {}))  # type: ignore[no-untyped-call]
    config = Config()  # type: ignore[no-untyped-call]
    state = State(check_for_changes=True)
    with ctx_state.use(state), ctx_inventory.use(inventory), ctx_config.use(config):
        state.init(inventory, config)
        state.set_stage(StateStage.Connect)
        connect_all(state)
        try:
            state.set_stage(StateStage.Prepare)
            for function, arguments in operations:
                add_op(state, function, **arguments)
            for deploy in deploys:
                add_deploy(state, deploy)
            state.set_stage(StateStage.Execute)
            (host,) = list(inventory)
            commands = host.connector.executed_commands  # type: ignore[attr-defined]  # only @fake has it
            try:
                run_ops(state)
            except PyinfraError as error:
                raise AssertionError(f"an operation failed: {error}", commands) from None
            yield state, commands
        finally:
            disconnect_all(state)


def told(*operations: Call, responses: Mapping[Any, Any] | None = None) -> list[str]:
    """What the box was told in the run, in order."""
    with run_of(*operations, responses=responses) as (_, commands):
        return commands
