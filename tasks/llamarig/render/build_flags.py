"""The flags that a build of llama-server has, and the refusal where one is missing."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass


class FlagRefusedError(ValueError):
    """The build has no such flag; the message names the field that needs it."""


@dataclass(frozen=True)
class BuildFlags:
    """The flags that the ``--help`` of a build lists."""

    flags: Collection[str]

    def option(self, field: str, flag: str, *value: str) -> list[str]:
        """The flag with its value, as arguments.

        :param field: the declared field that is rendered
        :raises FlagRefusedError: when the build has no such flag
        """
        if flag not in self.flags:
            raise FlagRefusedError(
                f"{field} needs {flag}, which this build of llama-server does not have: "
                "choose another build, or leave the field out"
            )
        return [flag, *value]

    def option_if_known(self, flag: str, *value: str) -> list[str]:
        """The flag with its value; nothing where the build has no such flag."""
        return [flag, *value] if flag in self.flags else []
