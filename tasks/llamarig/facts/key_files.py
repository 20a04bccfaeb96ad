"""API key files: whether llama-server can use them, their owner and mode. Never their content."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pyinfra.api.facts import FactBase

from llamarig.facts.output import parse_blocks, whole_number
from llamarig.remote.serve.key_file import BOM, CR, EMPTY, LARGEST, MISSING, NO_KEY, NOT_A_FILE, TOO_LARGE

# USABLE of remote/serve/key_file.py as a regular expression of grep.
USABLE_LINE = "^[^[:cntrl:]# ]([^[:cntrl:]]*[^[:cntrl:] ])?$"


@dataclass(frozen=True)
class KeyFile:
    """A key file. ``problem``: why llama-server cannot use it, or would admit everyone; empty where it can."""

    problem: str = ""
    owner: str = ""
    mode: str = ""


class KeyFiles(FactBase[dict[str, KeyFile]]):
    """Path -> KeyFile, for every given path. In shell, because the box may have neither Python nor llamarig.remote yet.

    Keys are only piped into programs that count: they are in no argument, no variable and no line of the output::

        key=/etc/llamarig/keys/api
        stat=root 600 65 regular file
        bom=0
        cr=0
        usable=1
        key=/etc/llamarig/keys/none
    """

    default = dict

    def command(self, paths: Sequence[str]) -> str:
        return "; ".join([*(_command_for(shlex.quote(path)) for path in paths), "true"])

    def process(self, output: list[str]) -> dict[str, KeyFile]:
        return {path: _key_file(values) for path, values in parse_blocks(output, "key").items()}


def _command_for(path: str) -> str:
    return (
        f"echo key={path}; "
        # coreutils before 9.6 translates the kind of a file.
        f"test -e {path} && echo \"stat=$(LC_ALL=C stat -L -c '%U %a %s %F' {path})\"; "
        f"test -f {path} && {{ "
        f"echo \"bom=$(head -c 3 {path} | od -An -tx1 | tr -d ' ' | grep -c '^efbbbf$')\"; "
        f"echo \"cr=$(head -c {LARGEST} {path} | tr -dc '\\r' | wc -c)\"; "
        f"echo \"usable=$(head -c {LARGEST} {path} | LC_ALL=C grep -acE '{USABLE_LINE}')\"; }}"
    )


def _key_file(values: Mapping[str, str]) -> KeyFile:
    owner, mode, size, kind = [*values.get("stat", "").split(" ", 3), "", "", "", ""][:4]
    return KeyFile(_problem(values, whole_number(size), kind), owner, mode)


def _problem(values: Mapping[str, str], size: int | None, kind: str) -> str:
    if size is None:
        return MISSING
    if not kind.startswith("regular"):
        return NOT_A_FILE
    if size == 0:
        return EMPTY
    if size > LARGEST:
        return TOO_LARGE
    if whole_number(values.get("bom", "")):
        return BOM
    if whole_number(values.get("cr", "")):
        return CR
    return "" if whole_number(values.get("usable", "")) else NO_KEY
