"""API key files: what is declared of them, what is wrong with one, and who may mend it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tasks.planning.difference import Difference
from tasks.spec.rig import Rig

_MODES = ("600", "400")
_EXPECTED = "a file of root's, mode 600 or 400, with a key on at least one line"


@dataclass(frozen=True)
class KeyFile:
    """A key file as the box has it, without anything of what it holds.

    ``problem``: why llama-server cannot use it, or would let everyone in (tasks/files/key_file.py), empty where it can.
    """

    problem: str = ""
    owner: str = ""
    mode: str = ""


def key_paths(rig: Rig) -> list[str]:
    """The key files that the models declare, each once."""
    return sorted({model.serve.api_key_file for model in rig.models if model.serve.api_key_file is not None})


def make_key(path: str) -> str:
    """A command for the box that writes a new key, and nothing where it cannot make one."""
    return f'(umask 077; key=$(openssl rand -hex 32) && echo "$key" >{path})'


def key_file_differences(rig: Rig, found: Mapping[str, KeyFile]) -> dict[str, Difference]:
    """Path -> what is wrong with that declared key file; who owns one and who may read it, a deploy mends itself.

    :param found: path -> what the box has there
    """
    differences = {}
    for path in key_paths(rig):
        file = found.get(path, KeyFile(problem="was not looked at"))
        what = f"api_key_file {path}"
        if file.problem:
            remedy = (
                f"write it on the box, one key a line, owned by root and mode 600, in a directory that is there: "
                f"`{make_key(path)}`"
            )
            differences[path] = Difference(what, _EXPECTED, file.problem, remedy=remedy, by_deploy=False)
        elif file.owner != "root" or file.mode not in _MODES:
            differences[path] = Difference(what, _EXPECTED, f"is {file.owner}'s with mode {file.mode}")
    return differences
