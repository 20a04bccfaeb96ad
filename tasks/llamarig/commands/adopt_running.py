"""Print the declarations of the llama-servers that run on a box and that it does not declare."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import replace
from pathlib import PurePosixPath

from pyinfra.api.operation import operation
from pyinfra.context import host, state

from llamarig.adopt.adopted_model import Adopted, Known, adopted_model
from llamarig.adopt.launch import Found, Launch, Note, joined
from llamarig.adopt.report import declaration_text, notes_text
from llamarig.adopt.router import with_models
from llamarig.adopt.shell_script import command_launches
from llamarig.adopt.shell_words import Command
from llamarig.engine.item import Commands
from llamarig.engine.refuse import refuse, while_answered
from llamarig.engine.run import ask, conclude
from llamarig.engine.screen import say
from llamarig.facts.gpus import Gpus
from llamarig.facts.server_processes import ServerStart, ServerStarts


@operation()
@while_answered
def running_servers_adopted(pid: object = None, layers: object = None, build: str = "") -> Commands:
    """Print a declaration for each server.

    :param pid: of the only process to adopt, which may then be llamarig's own; None for all others
    :param layers: number of the model's layers, if the user has given it
    :param build: name of the build that is to serve it
    """
    for name, value in (("pid", pid), ("layers", layers)):
        if value is not None and (not isinstance(value, int) or value < 1):
            yield from refuse(f"--data {name}={value!r} is not a number: write for example --data {name}=48")
            return
    starts = ask(ServerStarts)
    found, own = _launches(starts, pid)
    if not found.launches:
        yield from refuse(_nothing(starts, own, pid))
        return
    if not state.is_executing:
        return
    cards = tuple(gpu.uuid for gpu in ask(Gpus).cards)
    adopted: list[Adopted] = []
    for launch in found.launches:
        known = Known(None, layers if isinstance(layers, int) else None, build, cards)
        adopted.append(adopted_model(launch, known, {one.name for one in adopted}))
    sys.stdout.write(f"# {host.name}\n{declaration_text(adopted)}")
    for line in notes_text(adopted, found.notes, [None] * len(adopted)):
        say(host, line)
    if own:
        say(host, f"llamarig's own, and left out: {', '.join(own)}")
    servers = "one server is" if len(adopted) == 1 else f"{len(adopted)} servers are"
    conclude(state.inventory.get_host(host.name), f"{servers} declared on standard output; nothing was changed")
    host.noop("declarations are printed to standard output")


def _launches(starts: Iterable[ServerStart], pid: object) -> tuple[Found, list[str]]:
    """The launches of the processes, and the units of llamarig's own that are left out."""
    parts, own = [], []
    for start in starts:
        if pid is not None and start.pid != pid:
            continue
        if pid is None and start.unit.startswith("llamarig-"):
            own.append(start.unit)
            continue
        command = Command(start.command, 0, exported=start.environment)
        found = command_launches(command)
        parts.append(replace(found, launches=tuple(_completed(launch, start) for launch in found.launches)))
    return with_models(joined(parts), lambda path: None), own


def _completed(launch: Launch, start: ServerStart) -> Launch:
    """The launch with what is known of its process: CPUs, unit, and the directory that its paths begin at."""
    notes = [*launch.notes]
    if start.container:
        notes.append(Note(start.container, "it runs in a container, whose paths and ports may be others outside of it"))
    unit = start.unit.removesuffix(".service").partition("@")[0]
    return replace(
        launch,
        words=tuple(_absolute(word, start.directory) for word in launch.words),
        where=f"process {start.pid}" + (f" of {start.unit}" if start.unit else ""),
        name=unit if unit and not unit.startswith(("user-", "session-", "docker", "ssh", "llamarig-job")) else "",
        settings={**launch.settings, **({"cpu_affinity": start.cpus} if start.cpus else {})},
        notes=tuple(notes),
    )


def _absolute(word: str, directory: str) -> str:
    """The path of a model, a projector or a draft, from the root directory."""
    is_relative = word.endswith(".gguf") and not word.startswith(("/", "-")) and "://" not in word
    return str(PurePosixPath(directory) / word) if is_relative and directory.startswith("/") else word


def _nothing(starts: tuple[ServerStart, ...], own: list[str], pid: object) -> str:
    if pid is not None:
        numbers = ", ".join(str(start.pid) for start in starts)
        return f"process {pid} is no llama-server{f'; these may be one: {numbers}' if numbers else ''}"
    if own:
        return f"no other llama-server runs than llamarig's own ({', '.join(own)}); --data pid=PID adopts one of them"
    return "no llama-server runs: start it, or give its script, unit or command line to `llamarig adopt`"
