"""API key files: whether llama-server can use them, whose they are and who may read them; nothing of what they hold."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence

from pyinfra.api.facts import FactBase
from typing_extensions import override

from tasks.facts.numbers import whole
from tasks.facts.sections import blocks
from tasks.files.key_file import BOM, CR, EMPTY, LARGEST, MISSING, NO_KEY, NOT_A_FILE, TOO_LARGE
from tasks.planning.key_files import KeyFile

# tasks/files/key_file.py's USABLE, in grep's words.
_USABLE = "^[^[:cntrl:]# ]([^[:cntrl:]]*[^[:cntrl:] ])?$"


class KeyFiles(FactBase[dict[str, KeyFile]]):
    """Path -> KeyFile, for every path asked for. In shell: it is asked before the box has a Python or our programs.

    Keys go from file to counter through pipes; they are in no argument, no variable and no line of the answer::

        key=/etc/llamarig/keys/api
        stat=root 600 65 regular file
        bom=0
        cr=0
        usable=1
    """

    @staticmethod
    @override
    def default() -> dict[str, KeyFile]:
        return {}

    @override
    def command(self, paths: Sequence[str]) -> str:
        return "; ".join([*(_one(shlex.quote(path)) for path in paths), "true"])

    @override
    def process(self, output: list[str]) -> dict[str, KeyFile]:
        return {path: _key_file(values) for path, values in blocks(output, "key").items()}


def _one(path: str) -> str:
    return (
        f"echo key={path}; "
        # coreutils before 9.6 tells the kind of a file in the box's own language.
        f"test -e {path} && echo \"stat=$(LC_ALL=C stat -L -c '%U %a %s %F' {path})\"; "
        f"test -f {path} && {{ "
        f"echo \"bom=$(head -c 3 {path} | od -An -tx1 | tr -d ' ' | grep -c '^efbbbf$')\"; "
        f"echo \"cr=$(head -c {LARGEST} {path} | tr -dc '\\r' | wc -c)\"; "
        f"echo \"usable=$(head -c {LARGEST} {path} | LC_ALL=C grep -acE '{_USABLE}')\"; }}"
    )


def _key_file(values: Mapping[str, str]) -> KeyFile:
    owner, mode, size, kind = [*values.get("stat", "").split(" ", 3), "", "", "", ""][:4]
    return KeyFile(_problem(values, whole(size), kind), owner, mode)


def _problem(values: Mapping[str, str], size: int | None, kind: str) -> str:
    if size is None:
        return MISSING
    if not kind.startswith("regular"):
        return NOT_A_FILE
    if size == 0:
        return EMPTY
    if size > LARGEST:
        return TOO_LARGE
    if whole(values.get("bom", "")):
        return BOM
    if whole(values.get("cr", "")):
        return CR
    return "" if whole(values.get("usable", "")) else NO_KEY
