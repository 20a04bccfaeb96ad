"""Runs a command on a host from a function of an operation, where its result decides what follows."""

from __future__ import annotations

from pyinfra.api.arguments import CONNECTOR_ARGUMENT_KEYS, pop_global_arguments
from pyinfra.api.command import StringCommand
from pyinfra.api.host import Host
from pyinfra.connectors.util import CommandOutput
from pyinfra.context import host, state


def run_line(line: str, *, box: Host | None = None, stdin: str = "") -> tuple[bool, CommandOutput]:
    """Run a command with the operation's global arguments (``_sudo`` ...).

    :param box: another host of the run than the current one
    :param stdin: what the command reads; nothing if empty
    :return: whether it succeeded, and its output
    """
    on = state.inventory.get_host(host.name) if box is None else box
    arguments, _ = pop_global_arguments(state, on, {})
    rights = {key: value for key, value in arguments.items() if key in CONNECTOR_ARGUMENT_KEYS}
    if stdin:
        rights["_stdin"] = stdin
    return on.run_shell_command(StringCommand(line), **rights)
