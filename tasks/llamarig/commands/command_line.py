"""Refuse mistakes in the command line and the inventory before connecting to a box.

pyinfra calls a run without hosts a success, and ignores a ``--data`` name that nothing reads.
"""

from __future__ import annotations

import atexit
import logging
import os
import signal
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_type_hints

import click
from pyinfra import logger
from pyinfra.api.arguments import all_global_arguments
from pyinfra.api.connectors import get_all_connectors
from pyinfra.api.host import Host
from pyinfra.api.inventory import Inventory
from pyinfra.api.state import State
from pyinfra.context import state

from llamarig.commands.closing import ConnectionErrors, closing_block, left_running
from llamarig.commands.inventory_file import misread_groups
from llamarig.commands.login_checks import unusable_keys
from llamarig.commands.owners_files import errors_as_messages, python_files, syntax_errors
from llamarig.declare.mistakes import near
from llamarig.engine.connection import has_terminal
from llamarig.engine.live_line import start_drawing
from llamarig.engine.run import run
from llamarig.engine.screen import keep_printable, use_printable_streams

REPOSITORY = Path(__file__).resolve().parents[3]

DATA: Mapping[str, tuple[str, ...]] = {
    "deploy.py": ("deep", "takeover"),
    "tasks/adopt.py": ("pid", "layers", "build"),
    "tasks/audit.py": ("list", "only", "skip", "json", "prometheus", "deep", "disk", "bandwidth"),
    "tasks/bench.py": ("model", "runs", "depth", "generate"),
    "tasks/choose.py": ("repo", "quant", "context", "cache_type", "build", "model_name", "takeover"),
    "tasks/lock.py": ("update",),
    "tasks/plan.py": ("model", "update", "takeover"),
    "tasks/prune.py": ("delete", "keep", "takeover"),
    "tasks/rollback.py": ("model", "takeover"),
    "tasks/status.py": (),
    "tasks/survey.py": (),
    "tasks/switch.py": ("model", "takeover"),
    "tasks/uninstall.py": ("delete", "takeover"),
}
"""Command -> the ``--data`` names that it reads."""

INTERRUPTED = 130
"""Exit code after Ctrl-C, as of a shell; pyinfra's own is 0, which an audit must not end with."""
_ENDS_WITHIN_S = 0.8
"""Of Ctrl-C. Closing a connection may take longer, where a box does not answer."""


AUDIT = "audit.py"
"""File name of a script that is an audit, here or in a repository of the owner's."""


class CommandLineError(SystemExit):
    """A mistake in the command line or the inventory. Ends the run with its message and exit code 1."""


@dataclass(frozen=True)
class CommandLine:
    """The command line as parsed by pyinfra. ``data``: items of ``--data``, NAME=VALUE."""

    inventory: str
    operations: tuple[str, ...]
    data: tuple[str, ...]
    limit: tuple[str, ...]
    exclude: tuple[str, ...]
    group_data: tuple[str, ...]

    @property
    def commands(self) -> list[str]:
        """The commands of llamarig to run, as DATA names them."""
        return [name for name in map(_command, self.operations) if name is not None]

    def group_data_files(self, group: str) -> Iterator[Path]:
        """Where pyinfra looks for a group's data: the current directory, beside the inventory, and ``--group-data``."""
        own = (Path("group_data"), Path(self.inventory).parent / "group_data")
        for place in (*own, *map(Path, self.group_data)):
            yield place if place.suffix == ".py" and place.stem == group else place / f"{group}.py"


def _command(operation: str) -> str | None:
    """The command that a file is: in the clone, or in a repository of the owner's, which pyinfra is run in."""
    path = Path(operation).resolve()
    names = [str(path.relative_to(root)) for root in (Path.cwd(), REPOSITORY) if path.is_relative_to(root)]
    return next((name for name in names if name in DATA), None)


class _BeforeConnecting(logging.Filter):
    """Checks inventory, ``--limit`` and ``--data`` as pyinfra understood them, before it connects to the first host.

    pyinfra has no hook there, but it logs "Connecting to hosts...", the first record after its state is initialised.
    Reading the inventory ourselves would run inventory and group_data twice, with every password prompt in them.
    """

    def __init__(self, line: CommandLine, record_refusal: Callable[[State, str], None] | None) -> None:
        super().__init__()
        self.line = line
        self.record_refusal = record_refusal

    def filter(self, record: logging.LogRecord) -> bool:
        """Let every record pass.

        :raises CommandLineError: if the inventory has been read, and it or the command line has a mistake
        """
        if not getattr(state, "initialised", False):
            return True
        logger.removeFilter(self)
        if mistakes := _mistakes(self.line):
            if self.record_refusal is not None:
                self.record_refusal(state, "; ".join(mistakes))
            raise CommandLineError("\n".join(mistakes))
        state.add_callback_handler(ConnectionErrors())  # type: ignore[no-untyped-call]  # pyinfra gives it no types
        start_drawing(run().live_line, state)
        return True


def check_command_line() -> None:
    """Refuse mistakes now, or as soon as pyinfra has read the inventory; never after connecting.

    A run without hosts is always refused. Names and groups are checked only for commands of llamarig.
    `debug-inventory`, with which an owner looks for such mistakes, is never refused.

    :raises CommandLineError: for mistakes that can be seen without the inventory
    """
    context = click.get_current_context(silent=True)
    if context is None or context.params["operations"][0] == "debug-inventory":
        return
    use_printable_streams()
    keep_printable(Path.cwd() / "pyinfra-debug.log")
    signal.signal(signal.SIGINT, _interrupted)
    line = CommandLine(**{name: context.params[name] for name in CommandLine.__dataclass_fields__})
    record_refusal = None
    if any(Path(operation).name == AUDIT for operation in line.operations):
        # Imported by an audit only: with it come all checks and items, more than half of the start of pyinfra itself.
        from llamarig.commands import audit_run

        record_refusal = audit_run.record_refusal
        audit_run.verdict_at_exit()
    mistakes = [
        *(f"--data {item} has no value: write --data {item}=VALUE" for item in line.data if "=" not in item),
        *syntax_errors(python_files(line.inventory, line.operations, line.group_data)),
        *_unanswered_question(line, context.params),
    ] or _lost_groups(line)
    if mistakes:
        raise CommandLineError("\n".join(mistakes))
    context.with_resource(closing_block(line.commands, is_dry=bool(context.params.get("dry"))))
    context.with_resource(errors_as_messages())
    if context.params.get("dry"):
        state.check_for_changes = True  # also with -y, with which pyinfra would compare nothing
    logger.addFilter(_BeforeConnecting(line, record_refusal))


def _unanswered_question(line: CommandLine, options: Mapping[str, Any]) -> list[str]:
    """Without ``-y``, pyinfra asks before it changes anything, and ends with a traceback where nobody can answer."""
    asks = bool(line.commands) and not any(options.get(name) for name in ("yes", "dry", "json_output"))
    if not asks or has_terminal():
        return []
    return [
        "pyinfra asks before it goes on, and there is no terminal to answer at, so nothing was done: add -y, or --dry "
        "to see what would change"
    ]


def _interrupted(signum: int, frame: object) -> None:
    """Say what goes on on the boxes, and end: at once if connections do not close in time, or at a second Ctrl-C."""
    for number in (signal.SIGINT, signal.SIGALRM):
        signal.signal(number, _end_now)
    signal.setitimer(signal.ITIMER_REAL, _ENDS_WITHIN_S)
    atexit.register(signal.setitimer, signal.ITIMER_REAL, 0)  # an interpreter that ends has no handlers any more
    hosts = list(state.inventory) if getattr(state, "initialised", False) else []
    jobs = left_running(hosts)
    click.echo("\n".join(["Interrupted.", *jobs] if jobs else ["Interrupted. No job of this run goes on."]), err=True)
    raise SystemExit(INTERRUPTED)


def _end_now(signum: int, frame: object) -> None:
    directory = run().directory
    if directory is not None:
        directory.cleanup()
    os._exit(INTERRUPTED)


def _lost_groups(line: CommandLine) -> list[str]:
    """Groups of the inventory file whose hosts pyinfra would silently drop, or read as single letters."""
    if not line.commands:
        return []
    return [
        f"{line.inventory}:{mistake}"
        for mistake in misread_groups(Path(line.inventory))
        if mistake.is_split or any(file.is_file() for file in line.group_data_files(mistake.group))
    ]


def _mistakes(line: CommandLine) -> list[str]:
    """All mistakes, one line each."""
    hosts = [host for host in state.inventory if state.is_host_in_limit(host)]
    if not hosts:
        return [_no_host(line, list(state.inventory))]
    if not line.commands:
        return []
    return [
        *_unknown_names(line, state.inventory),
        *_hosts_of_two_rigs(line, hosts),
        *unusable_keys(hosts, state.cwd or "."),
    ]


def _no_host(line: CommandLine, all_hosts: Sequence[Host]) -> str:
    inventory = Path(line.inventory)
    if all_hosts:
        options = " ".join(
            [*(f"--limit {pattern}" for pattern in line.limit), *(f"--exclude {pattern}" for pattern in line.exclude)]
        )
        names = [host.name for host in all_hosts]
        groups = sorted({group for host in all_hosts for group in host.groups})
        hint = near(line.limit[0], [*names, *groups]) if line.limit and not line.exclude else ""
        return (
            f"{line.inventory}: {options} leaves no host, so nothing was done{hint}: name one of its hosts "
            f"({', '.join(names)}) or groups ({', '.join(groups)})"
        )
    if inventory.exists():
        found = "; ".join(f"line {mistake}" for mistake in misread_groups(inventory))
        remedy = found or 'list a host in one of its groups, for example rtx4070 = ["box.lan"]'
        return f"{line.inventory}: no group of it lists a host, so nothing was done: {remedy}"
    if inventory.suffix == ".py" or "/" in line.inventory:
        files = [str(path) for place in (inventory.parent, Path("inventory")) for path in place.glob("*.py")]
        hint = near(line.inventory, files)
        return f"{line.inventory}: there is no such inventory file, so nothing was done{hint}: name an existing one"
    return (
        f"{line.inventory} is neither an inventory file, nor a host name that can be resolved, nor a Python module "
        "with hosts, so nothing was done: name an inventory file, for example inventory/home.py"
    )


def _unknown_names(line: CommandLine, inventory: Inventory) -> list[str]:
    commands = line.commands
    if len(commands) < len(line.operations):
        return []  # which names another script reads is not known
    read = list(dict.fromkeys(name for command in commands for name in DATA[command]))
    excepted = {*_names_of_pyinfra(), *_declared_names(inventory)}
    mistakes = []
    for name in dict.fromkeys(item.partition("=")[0] for item in line.data):
        if name in read or name in excepted:
            continue
        others = [command for command, names in DATA.items() if name in names]
        if others:
            hint = f": {' and '.join(others)} {'does' if len(others) == 1 else 'do'}"
        else:
            hint = near(name, read) or near(name, sorted(excepted))
        own = f"one of {', '.join(read)}" if read else "nothing of its own"
        mistakes.append(
            f"{' '.join(commands)} takes no --data {name}, so nothing was done{hint}; write {own}, a name that "
            "group_data or the inventory declares, or one of pyinfra's own"
        )
    return mistakes


def _names_of_pyinfra() -> set[str]:
    """Data that pyinfra's connectors read (``ssh_user``), and arguments of every operation (``_sudo``).

    ``name``, the only argument without an underscore, is left out: it would rename all operations.
    """
    connectors = get_all_connectors().values()  # type: ignore[no-untyped-call]  # pyinfra gives it no types
    read = {name for connector in connectors for name in get_type_hints(connector.data_cls)}
    return read | {name for name, _ in all_global_arguments() if name.startswith("_")}


def _declared_names(inventory: Inventory) -> set[str]:
    every: Iterable[Mapping[str, Any]] = (
        inventory.data,
        *inventory.group_data.values(),
        *inventory.host_data.values(),
    )
    return {name for data in every for name in data}


def _hosts_of_two_rigs(line: CommandLine, hosts: Sequence[Host]) -> list[str]:
    """Hosts in several groups with a rig, where the order of groups would decide. A rig in host data has precedence."""
    mistakes = []
    for host in hosts:
        data = host.inventory.group_data
        groups = [group for group in dict.fromkeys(host.groups) if "rig" in data.get(group, {})]
        if len(groups) > 1 and "rig" not in host.host_data:
            mistakes.append(
                f"{line.inventory}: {host.name} is in {len(groups)} groups that each declare a rig, "
                f"{' and '.join(groups)}: list it under one of them, or under a group of its own with a rig of its own"
            )
    return mistakes
