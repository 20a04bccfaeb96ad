"""Finds out what kind of file an input is, and the llama-servers in it."""

from __future__ import annotations

import re
from typing import Any

import yaml

from llamarig.adopt.compose_file import compose_launches, is_compose
from llamarig.adopt.launch import Found, Note, joined
from llamarig.adopt.llama_swap import is_llama_swap, llama_swap_launches
from llamarig.adopt.preset_file import is_preset, preset_launches
from llamarig.adopt.shell_script import command_launches, script_launches
from llamarig.adopt.shell_words import Command
from llamarig.adopt.systemd_unit import Read, unit_launches, variables_of_file


def launches_of_text(text: str, name: str, read: Read, drop_ins: tuple[str, ...] = ()) -> Found:
    """The llama-servers of a file.

    :param name: of the file; empty for standard input
    :param read: reads a file beside this one, or one that it names; None where it cannot be read
    :param drop_ins: the texts of a unit's drop-ins, in systemd's order
    """
    if re.search(r"^\s*Exec(Start)?\s*=", text, re.MULTILINE) and "[" in text:
        return unit_launches([text, *drop_ins], name.removesuffix(".service"), read)
    if not name.endswith((".sh", ".bash", ".bat", ".cmd", ".ps1")):
        document = _yaml(text)
        if is_compose(document):
            return compose_launches(document["services"], variables_of_file(read(".env") or ""))
        if is_llama_swap(document):
            return llama_swap_launches(document)
        if is_preset(text):
            return preset_launches(text)
    return script_launches(text, document=lambda inner: launches_of_text(inner, "", read))


def launches_of_words(words: list[str]) -> Found:
    """The llama-server of a command line that is given as its words; its program may be left out."""
    program = [] if words and not words[0].startswith("-") else ["llama-server"]
    return command_launches(Command((*program, *words), 1))


def _yaml(text: str) -> Any:
    """The document; None where it is none, or one of several."""
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return None


def nothing_found(found: Found) -> Found:
    """The same, with a note where the input holds no llama-server and nothing is known of it."""
    if found.launches or found.notes:
        return found
    return joined(
        [
            found,
            Found(
                notes=(
                    Note(
                        "input",
                        "no llama-server in it: give its command line, or the script, unit, compose file, llama-swap "
                        "configuration or preset file that has it",
                    ),
                )
            ),
        ]
    )
