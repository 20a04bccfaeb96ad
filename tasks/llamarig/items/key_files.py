"""The API key files of a box's models, compared before anything is fetched or built."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from pyinfra.api.command import QuoteString, StringCommand

from llamarig.declare.rig import Rig
from llamarig.engine.control_machine import ControlMachine
from llamarig.engine.item import Commands, Difference, Item, Query, Seen, Severity, query
from llamarig.facts.key_files import KeyFile, KeyFiles

_MODES = ("600", "400")
_EXPECTED = "a file owned by root, mode 600 or 400, with at least one key"


class UsableKeyFiles(Item):
    """Every declared api_key_file has a usable key, is owned by root and has mode 600 or 400."""

    name = "API key files"
    check = "llama.key-files"
    severity = Severity.ERROR

    def queries(self, rig: Rig, here: ControlMachine) -> Iterable[Query[Any]]:
        """Nothing where no key file is declared."""
        if paths := key_paths(rig):
            yield query(KeyFiles, paths=paths)

    def differences(self, rig: Rig, seen: Seen) -> list[Difference]:
        """A deploy fixes owner and mode of a file; only the owner can write a key."""
        paths = key_paths(rig)
        if not paths:
            return []
        found = seen.get(KeyFiles, paths=paths)
        return list(key_file_differences(rig, found).values())

    def fix(self, rig: Rig, seen: Seen, differences: list[Difference]) -> Commands:
        """Set owner and mode. The key is never read."""
        found = seen.get(KeyFiles, paths=key_paths(rig))
        for path in key_file_differences(rig, found):
            yield StringCommand("chown", "root:root", QuoteString(path))
            yield StringCommand("chmod", "600", QuoteString(path))


def key_paths(rig: Rig) -> list[str]:
    """Paths of the declared key files, each once."""
    return sorted({model.serve.api_key_file for model in rig.models if model.serve.api_key_file is not None})


def make_key(path: str) -> str:
    """A command for the box that writes a new key, and nothing if it cannot generate one."""
    return f'(umask 077; key=$(openssl rand -hex 32) && echo "$key" >{path}.new && mv {path}.new {path})'


def key_file_differences(rig: Rig, found: Mapping[str, KeyFile]) -> dict[str, Difference]:
    """Path -> what is wrong with that declared key file.

    :param found: path -> the key file on the box
    """
    differences = {}
    for path in key_paths(rig):
        file = found.get(path, KeyFile(problem="could not be read"))
        what = f"api_key_file {path}"
        if file.problem:
            remedy = (
                f"write it on the box, one key a line, owned by root and mode 600, in a directory that exists: "
                f"`{make_key(path)}`"
            )
            message = f"{what} {file.problem}: {remedy}; nothing was changed"
            differences[path] = Difference(
                what, _EXPECTED, file.problem, remedy=remedy, by_deploy=False, message=message
            )
        elif file.owner != "root" or file.mode not in _MODES:
            differences[path] = Difference(what, _EXPECTED, f"owned by {file.owner}, mode {file.mode}")
    return differences
