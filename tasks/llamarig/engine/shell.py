"""Runs a command on a host from a function of an operation, where its result decides what follows."""

from __future__ import annotations

from pyinfra.api.arguments import CONNECTOR_ARGUMENT_KEYS, pop_global_arguments
from pyinfra.api.command import StringCommand
from pyinfra.connectors.util import CommandOutput
from pyinfra.context import host, state


def run_line(line: str) -> tuple[bool, CommandOutput]:
    """Run a command with the operation's global arguments (``_sudo`` ...).

    :return: whether it succeeded, and its output
    """
    arguments, _ = pop_global_arguments(state, host, {})
    rights = {key: value for key, value in arguments.items() if key in CONNECTOR_ARGUMENT_KEYS}
    return host.run_shell_command(StringCommand(line), **rights)
