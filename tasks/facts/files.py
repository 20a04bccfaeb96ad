"""Many files and directories in one command: what they hold, and whose they are."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from pyinfra.api.facts import FactBase
from typing_extensions import override

from tasks.facts.numbers import whole


class Sha256Sums(FactBase[dict[str, str]]):
    """Path -> sha256, for those of the (small) files that are there."""

    @staticmethod
    @override
    def default() -> dict[str, str]:
        return {}

    @override
    def command(self, paths: Sequence[str]) -> str:
        return f"sha256sum {shlex.join(paths)} 2>/dev/null; true"

    @override
    def process(self, output: list[str]) -> dict[str, str]:
        pairs = (line.partition("  ") for line in output)
        return {path: digest for digest, _, path in pairs if len(digest) == 64 and path}


class Ownership(FactBase[dict[str, str]]):
    """Path -> ``user group mode kind``, for those of the paths that are there."""

    @staticmethod
    @override
    def default() -> dict[str, str]:
        return {}

    @override
    def command(self, paths: Sequence[str]) -> str:
        # coreutils before 9.6 tells the kind of a file in the box's own language.
        return f"LC_ALL=C stat -L -c '%n\t%U %G %a %F' {shlex.join(paths)} 2>/dev/null; true"

    @override
    def process(self, output: list[str]) -> dict[str, str]:
        pairs = (line.partition("\t") for line in output)
        return {path: owner for path, tab, owner in pairs if tab}


class LastLines(FactBase[list[str]]):
    """The end of a text file, without empty lines; nothing where there is none."""

    @staticmethod
    @override
    def default() -> list[str]:
        return []

    @override
    def command(self, path: str, count: int) -> str:
        return f"tail -n {count} {shlex.quote(path)} 2>/dev/null; true"

    @override
    def process(self, output: list[str]) -> list[str]:
        return [line.rstrip() for line in output if line.strip()]


class UserExists(FactBase[bool]):
    """Whether the box knows a user; asking for one is a tenth of listing them all."""

    @staticmethod
    @override
    def default() -> bool:
        return False

    @override
    def command(self, user: str) -> str:
        return f"getent passwd {shlex.quote(user)} || true"

    @override
    def process(self, output: list[str]) -> bool:
        return any(":" in line for line in output)


class FileSizes(FactBase[dict[str, int]]):
    """Path -> bytes, for those of the files that are there; a sparse file's holes count."""

    @staticmethod
    @override
    def default() -> dict[str, int]:
        return {}

    @override
    def command(self, paths: Sequence[str]) -> str:
        return f"stat -L -c '%s %n' {shlex.join(paths)} 2>/dev/null; true"

    @override
    def process(self, output: list[str]) -> dict[str, int]:
        pairs = (line.partition(" ") for line in output)
        sizes = ((path, whole(size)) for size, space, path in pairs if space)
        return {path: size for path, size in sizes if size is not None}
