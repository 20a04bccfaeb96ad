"""What a build can be told: the flags its own --help lists, and the refusal where one is missing."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass


class FlagRefusedError(ValueError):
    """The build has no such flag; the message says which declaration asked for it."""


@dataclass(frozen=True)
class BuildFlags:
    """The flags a build's own ``--help`` lists, and how to say a thing in them."""

    flags: Collection[str]

    def say(self, intent: str, flag: str, *value: str) -> list[str]:
        """The flag with its value.

        :param intent: the declaration that asks for it
        :raises FlagRefusedError: when the build has no such flag
        """
        if flag not in self.flags:
            raise FlagRefusedError(
                f"{intent} asks for {flag}, which this build of llama-server does not have: "
                "choose another build, or leave the field out"
            )
        return [flag, *value]

    def say_if_known(self, flag: str, *value: str) -> list[str]:
        """The flag with its value, nothing where the build has no such flag."""
        return [flag, *value] if flag in self.flags else []
