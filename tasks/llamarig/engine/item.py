"""An item: one thing that a deploy converges, an audit compares and a dry run shows."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Generator, Iterable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, ClassVar, Generic, TypeVar

from pyinfra.api.command import PyinfraCommand
from pyinfra.api.facts import FactBase

from llamarig.declare.rig import Rig
from llamarig.engine.control_machine import ControlMachine

T = TypeVar("T")

Commands = Generator[PyinfraCommand, None, None]
"""The commands of an operation. While pyinfra prepares, it takes the first one to learn whether there is a change."""


class Severity(IntEnum):
    """Worst first. ``ERROR`` and ``WARNING`` fail an audit; ``UNKNOWN`` does where the owner declared the thing.

    ERROR: a model cannot be served, or is served unsafely. WARNING: slower than possible, or not as declared.
    UNKNOWN: the value could not be read. NOTE: information; nothing to fix.
    """

    ERROR = 0
    WARNING = 1
    UNKNOWN = 2
    NOTE = 3


@dataclass(frozen=True)
class Difference:
    """One thing that differs from the declaration.

    ``what``, ``found`` and ``expected`` are phrases that read well as ``{what}: {found}, expected {expected}``.
    """

    what: str
    expected: str
    found: str
    remedy: str = "run deploy.py"
    by_deploy: bool = True
    """False for what no program may change: BIOS settings, other people's files."""
    stops_deploy: bool = True
    """Whether a deploy that may not fix this itself stops here."""
    restarts: tuple[str, ...] = ()
    """Names of the models that are restarted to fix it."""
    is_only_text: bool = False
    """Only comments and helper paths of a unit differ: its file is replaced while the server keeps running."""
    is_unknown: bool = False
    """The value could not be read; ``found`` gives the reason."""
    message: str = ""
    """The sentence with which a deploy refuses, remedy included; empty if it is made of the fields above."""
    will: str = ""
    """What a deploy does about it, as a sentence for the owner; empty if it is made of the fields above."""
    did: str = ""
    """The same in the past tense."""
    texts: tuple[str, str] | None = None
    """Of a text file: its content as it is and as it will be, for --diff."""

    @classmethod
    def refusal_of(cls, what: str, expected: str, message: str) -> Difference:
        """A difference that stops a deploy; ``message`` is a sentence that names the remedy."""
        remedy = "fix that, then run deploy.py"
        return cls(what, expected, message, remedy=remedy, by_deploy=False, message=message)

    def __str__(self) -> str:
        return f"{self.finding}; {self.remedy}"

    @property
    def refusal(self) -> str:
        """The message with which a deploy stops because of this."""
        return self.message or str(self)

    @property
    def plan(self) -> str:
        """What a deploy would do about it."""
        return self.will or f"{self.what}: {self.found} -> {self.expected}"

    @property
    def past(self) -> str:
        """What a deploy has done about it."""
        return self.did or f"{self.what}: {self.expected}"

    @property
    def finding(self) -> str:
        """One line without the remedy: what a deploy prints before it fixes this."""
        return f"{self.what}: {self.found}, expected {self.expected}"


@dataclass(frozen=True)
class Query(Generic[T]):
    """A fact and its arguments; hashable, so that it can be the key of a value."""

    fact: type[FactBase[T]]
    arguments: Mapping[str, Any] = field(default_factory=dict)

    def __hash__(self) -> int:
        return hash(self.key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Query) and self.key == other.key

    @property
    def key(self) -> tuple[type, str]:
        """Equal for two queries that run the same command."""
        return self.fact, repr(sorted(self.arguments.items()))


def query(fact: type[FactBase[T]], **arguments: Any) -> Query[T]:
    """A fact with its arguments."""
    return Query(fact, arguments)


@dataclass(frozen=True)
class Seen:
    """The input of a comparison: the host's name, the values of its facts, and the records of the control machine."""

    host: str
    here: ControlMachine
    values: Mapping[Query[Any], Any]

    def get(self, fact: type[FactBase[T]], **arguments: Any) -> T:
        """A fact's value.

        :raises KeyError: when the item's ``queries`` does not name it
        """
        value: T = self.values[Query(fact, arguments)]
        return value


@dataclass(frozen=True)
class MoreInputs:
    """What a comparison needs beside its facts. It is read only where the facts show the need."""

    builders: frozenset[str] = frozenset()
    """Hosts that build what this one lacks. Reading one takes a command on it."""
    hub_token: bool = False
    """Whether files are to be fetched from the Hub. Reading the token may ask to unlock a password manager."""


class Item(ABC):
    """One thing that a deploy converges. Every host goes through the same list of items, in the same order.

    pyinfra identifies an operation by its place in the deploy, so an item that does not apply to a host queries
    nothing there and has no differences.
    """

    name: ClassVar[str]
    needs: ClassVar[tuple[type[Item], ...]] = ()
    """Items that come first. While one of them differs, this one cannot be compared."""
    check: ClassVar[str] = "deploy.operation"
    """Id of the audit check that reports its differences."""
    severity: ClassVar[Severity] = Severity.WARNING
    covered_by: ClassVar[tuple[str, ...]] = ()
    """Ids of checks that report the same cause: if one of them has a finding, an audit leaves this item out."""
    names_each_change: ClassVar[bool] = False
    """Whether each of its changes is named at the end of a run, however many there are."""
    begins_work: ClassVar[bool] = False
    """Whether its fixes only begin jobs, whose end a later item awaits."""
    awaits_work: ClassVar[bool] = False
    """Whether it awaits the jobs that items before it have begun."""
    audited: ClassVar[bool] = True
    """False for an item whose differences another item reports."""

    def queries(self, rig: Rig, here: ControlMachine) -> Iterable[Query[Any]]:
        """Every fact that ``differences`` reads."""
        return ()

    def more_inputs(self, rig: Rig, seen: Seen) -> MoreInputs:
        """What ``differences`` reads of ``seen.here`` beside the records, by what the queries answered. Pure, too."""
        return MoreInputs()

    @abstractmethod
    def differences(self, rig: Rig, seen: Seen) -> list[Difference]:
        """Compare the box with its declaration. Pure: the result depends on the arguments alone."""

    def fix(self, rig: Rig, seen: Seen, differences: list[Difference]) -> Commands:
        """Commands that remove exactly these differences."""
        yield from ()

    def foresee(self, rig: Rig, seen: Seen) -> Iterable[str]:
        """Sentences of what a deploy would do here, as far as can be told while a need of this item differs."""
        return ()

    def done(self, rig: Rig, differences: list[Difference]) -> Iterable[str]:
        """What ``fix`` has done about these differences, one sentence each."""
        return [difference.past for difference in differences]

    def notes(self, rig: Rig, seen: Seen) -> Iterable[str]:
        """Warnings that every deploy prints and does nothing about."""
        return ()

    def expects(self) -> str:
        """What an audit expects, for its list of checks: the first line of the class's docstring."""
        return (type(self).__doc__ or "").strip().partition("\n")[0].rstrip(".")
