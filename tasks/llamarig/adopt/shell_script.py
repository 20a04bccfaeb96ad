"""The llama-servers that a shell script, or a pasted command line, starts."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from llamarig.adopt.launch import Found, Launch, Note, joined
from llamarig.adopt.shell_words import Command, shell_commands
from llamarig.adopt.wrappers import launch_of


def script_launches(
    script: str, variables: Mapping[str, str] | None = None, document: Callable[[str], Found] | None = None
) -> Found:
    """Every llama-server of a script, also in its branches.

    :param variables: that are set when it begins
    :param document: reads the text of a here-document, which may be a unit that the script writes
    """
    parts = []
    for command in shell_commands(script, variables):
        if command.document and document is not None:
            parts.append(document(command.document))
        parts.append(command_launches(command))
    found = joined(parts)
    return found if found.launches else Found(notes=found.notes)


def command_launches(command: Command) -> Found:
    """The llama-server that one command starts; more than one only through `sh -c`."""
    found = launch_of(command, lambda text: [*shell_commands(text, {**command.exported, **command.assignments})])
    return Found(
        tuple(one for one in found if isinstance(one, Launch)), tuple(one for one in found if isinstance(one, Note))
    )
