"""Digests, owners, sizes and last lines of files; several files in one command."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from pyinfra.api.facts import FactBase

from llamarig.facts.output import whole_number


class Sha256Sums(FactBase[dict[str, str]]):
    """Path -> sha256, for those of the files that exist and can be read. Reads every byte.

    Output::

        05fd10b0a229cbc3613b71498c47f1bffc8b6220e3aca4b41474bae18711720a  /etc/systemd/system/llamarig-tiny.service
    """

    default = dict

    def command(self, paths: Sequence[str]) -> str:
        # Lines that end in NUL have their names unescaped.
        return f"sha256sum --zero -- {shlex.join(paths)} 2>/dev/null | tr '\\0' '\\n'; true"

    def process(self, output: list[str]) -> dict[str, str]:
        pairs = (line.partition("  ") for line in output)
        return {path: digest for digest, _, path in pairs if len(digest) == 64 and path}


class Ownership(FactBase[dict[str, str]]):
    """Path -> ``user group mode kind``, for those of the paths that exist.

    Output::

        /var/lib/llamarig/models	root root 755 directory
    """

    default = dict

    def command(self, paths: Sequence[str]) -> str:
        # coreutils before 9.6 translates the kind of a file.
        return f"LC_ALL=C stat -L -c '%n\t%U %G %a %F' {shlex.join(paths)} 2>/dev/null; true"

    def process(self, output: list[str]) -> dict[str, str]:
        pairs = (line.partition("\t") for line in output)
        return {path: owner for path, tab, owner in pairs if tab}


class LastLines(FactBase[list[str]]):
    """The last lines of a text file, without blank ones; none where there is no file.

    Output::

        2026-11-21 18:35:00 status installed systemd:amd64 257.13-1~deb13u1
        2026-11-21 18:35:00 status installed libc-bin:amd64 2.41-12+deb13u4
    """

    default = list

    def command(self, path: str, count: int) -> str:
        return f"tail -n {count} {shlex.quote(path)} 2>/dev/null; true"

    def process(self, output: list[str]) -> list[str]:
        return [line.rstrip() for line in output if line.strip()]


class UserExists(FactBase[bool]):
    """Whether a user exists. Takes a tenth of the time of pyinfra's own fact, which lists all users.

    Output::

        llamarig:x:995:995::/var/lib/llamarig:/usr/sbin/nologin
    """

    default = bool

    def command(self, user: str) -> str:
        return f"getent passwd {shlex.quote(user)} || true"

    def process(self, output: list[str]) -> bool:
        return any(":" in line for line in output)


class FileSizes(FactBase[dict[str, int]]):
    """Path -> size in bytes (apparent: holes of sparse files count), for those of the files that exist.

    Output::

        4645728 /var/lib/llamarig/models/.../F16/Tiny-Qwen3-Next-F16-00001-of-00003.gguf
    """

    default = dict

    def command(self, paths: Sequence[str]) -> str:
        return f"stat -L -c '%s %n' {shlex.join(paths)} 2>/dev/null; true"

    def process(self, output: list[str]) -> dict[str, int]:
        pairs = (line.partition(" ") for line in output)
        sizes = ((path, whole_number(size)) for size, space, path in pairs if space)
        return {path: size for path, size in sizes if size is not None}
