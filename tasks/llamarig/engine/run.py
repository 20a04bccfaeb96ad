"""The state of one run, of all hosts and of each one. It is kept on pyinfra's own objects and ends with them."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from pyinfra import logger
from pyinfra.api.exceptions import PyinfraError
from pyinfra.api.facts import FactBase
from pyinfra.api.host import Host
from pyinfra.context import host, state

from llamarig.engine.control_machine import SentFile
from llamarig.engine.hub_token import HubTokens
from llamarig.engine.item import Query
from llamarig.engine.live_line import LiveLine
from llamarig.engine.package_files import programs, requirements
from llamarig.engine.screen import say
from llamarig.facts.fact_batch import Answer, FactBatch, Question, limit_s
from llamarig.facts.gpus import GpuState
from llamarig.facts.model_store import FileHashes, ModelStore, file_versions
from llamarig.facts.platform import Platform

T = TypeVar("T")


@dataclass
class Run:
    """The state that all hosts of a run share."""

    only_looks: bool = False
    """Whether this run changes nothing, so that facts read while pyinfra prepares stay valid to the end."""
    programs: dict[str, SentFile] = field(default_factory=programs)
    requirements: dict[str, str] = field(default_factory=requirements)
    hub_tokens: HubTokens = field(default_factory=HubTokens)
    directory: tempfile.TemporaryDirectory[str] | None = None
    wanted_releases: dict[str, set[str]] = field(default_factory=dict)
    """Release directory -> hosts that need it from the box that builds it."""
    archives: dict[str, Any] = field(default_factory=dict)
    """Release directory -> the packed release on the control machine."""
    dry_run_boxes: dict[str, Any] = field(default_factory=dict)
    """Host -> what it has for dry runs (items/dry_run_box.py), of a command that makes those of one box on another."""
    hub_repositories: Any = None
    """The repositories that were read (engine/hub_quants.py), once a command has asked for one."""
    live_line: LiveLine = field(default_factory=LiveLine)
    survey: Any = None
    """What tasks/survey.py has read of all hosts, and written."""

    @property
    def scratch(self) -> Path:
        """A directory on the control machine that is removed with this run."""
        if self.directory is None:
            self.directory = tempfile.TemporaryDirectory(prefix="llamarig-")
        return Path(self.directory.name)


@dataclass
class HostRun:
    """The state of one host in a run."""

    facts: dict[Query[Any], tuple[object, Any]] = field(default_factory=dict)
    """Query -> its value, and before it what that value is valid for: a ``moment``, or the versions of the files."""
    all_read: set[bool] = field(default_factory=set)
    """Whether pyinfra was executing, of each stage in which the facts of all items were read together."""
    here: tuple[object, Any] | None = None
    """The key and the value of the control machine's records (engine/comparison_inputs.py)."""
    differing: set[str] = field(default_factory=set)
    """Names of items that differed while pyinfra prepared."""
    cards: GpuState | None = None
    """The host's cards, which do not change during a run. Boxes that share a build need those of each other."""
    late: set[Query[Any]] = field(default_factory=set)
    """Facts whose commands did not end."""
    platform: Platform | None = None
    """The host's platform, once a box that receives a release from it has needed it."""
    failure: str = ""
    """The first message with which this host failed, or could not be reached."""
    would_change: list[str] = field(default_factory=list)
    """What a deploy would change on the host, as found while pyinfra prepared, one sentence each."""
    would_fail: list[str] = field(default_factory=list)
    """Why a deploy would be refused."""
    changes: list[str] = field(default_factory=list)
    """What this run has changed on the host, one sentence each."""
    begun: list[str] = field(default_factory=list)
    """What it will have changed once the jobs that it has begun have succeeded."""
    result: list[str] = field(default_factory=list)
    """What a command has found out: one line that sums it up, then further ones."""
    awaited: dict[str, str] = field(default_factory=dict)
    """Jobs that this run waits for: name -> what it is in words."""
    progress: dict[str, str] = field(default_factory=dict)
    """Of those jobs that run: name -> its step, how much of it is done, and the time left."""
    ended: dict[str, str] = field(default_factory=dict)
    """Jobs that this run has waited for: name -> its last message."""

    @property
    def unanswered(self) -> str:
        """Why this host can be neither compared nor changed, and what to do; empty where all facts were read."""
        if not self.late:
            return ""
        return _hangs(query.fact for query in self.late)


def _hangs(facts: Iterable[type[FactBase[Any]]]) -> str:
    facts = list(facts)
    names = sorted({re.sub(r"(?<!^)(?=[A-Z])", " ", fact.__name__).lower() for fact in facts})
    limit = max(map(limit_s, facts))
    return (
        f"reading its {', '.join(names)} did not end within {limit} s: a disk, a network mount or a driver may hang;"
        " see `ps -eo pid,stat,wchan:32,args` on the box, then run this again"
    )


def conclude(this: Host, headline: str, *lines: str) -> None:
    """Keep what a command has found out about a host, for the closing block: one line that sums it up, and more."""
    of_host(this).result = [headline, *lines]


class NoAnswerError(PyinfraError):
    """A question to the current host did not end. It has been reported; nothing may be decided on this host."""


def run() -> Run:
    """The state of the current run."""
    found: Run | None = getattr(state, "llamarig", None)
    if found is None:
        found = Run()
        state.llamarig = found  # type: ignore[attr-defined]  # a field of our own on pyinfra's object
    return found


def of_host(of: Host | None = None) -> HostRun:
    """The state of a host in this run; of the current host if none is given."""
    this = state.inventory.get_host(host.name) if of is None else of
    found: HostRun | None = getattr(this, "llamarig", None)
    if found is None:
        found = HostRun()
        this.llamarig = found  # type: ignore[attr-defined]  # a field of our own on pyinfra's object
    return found


def moment() -> object:
    """Cache key of everything read from this host; changes when this run has changed the host.

    pyinfra 3.10 does not cache facts, although its documentation says so. Without a cache, a deploy that changes
    nothing would read releases, model store and units several times each.
    """
    this = state.inventory.get_host(host.name)
    changes = sum(
        data.operation_meta.is_complete() and data.operation_meta.did_change() for data in state.ops[this].values()
    )
    return changes, state.is_executing and not run().only_looks


def read_fact(fact: type[FactBase[T]], *, fresh: bool = False, **arguments: Any) -> T:
    """A fact, from the cache unless an operation has changed this host since.

    The hashes of model files, which take minutes, stay valid until one of those files changes.

    :param fresh: read it again, for an operation that has itself changed the host
    """
    requested, cached = Query(fact, arguments), of_host().facts
    now = _valid_for(requested)
    if not fresh and requested in cached and cached[requested][0] == now:
        value: T = cached[requested][1]
        return value
    value = ask(fact, **arguments)
    cached[requested] = (now, value)
    return value


def ask(fact: type[FactBase[T]], **arguments: Any) -> T:
    """A fact of the current host, not cached.

    :raises NoAnswerError: if its command does not end, which has then been reported. While pyinfra prepares, nothing is
        changed by a wrong answer: then it is the fact's default, and `HostRun.unanswered` says so
    """
    answer = _answer(host, fact, arguments)
    requested, late = Query(fact, arguments), of_host().late
    if not answer.late:
        late.discard(requested)
        return _value(answer, host, fact, arguments)
    if requested not in late:
        late.add(requested)
        _report_unanswered()
    if state.is_executing:
        raise NoAnswerError(of_host().unanswered)
    return fact.default()


def read_in_time(box: Host, fact: type[FactBase[T]]) -> T:
    """A fact of any host of the run, not cached.

    :raises PyinfraError: if its command does not end; the message names the host
    """
    answer = _answer(box, fact, {})
    if answer.late:
        raise PyinfraError(f"{box.name}: {_hangs([fact])}")
    return _value(answer, box, fact, {})


def _answer(box: Host, fact: type[FactBase[T]], arguments: Mapping[str, Any]) -> Answer:
    answer: Answer = box.get_fact(Question, fact=fact, arguments=arguments)
    return answer


def _value(answer: Answer, box: Host, fact: type[FactBase[T]], arguments: Mapping[str, Any]) -> T:
    if answer.lines is None:
        return _pyinfra_reports(box, fact, arguments)
    return fact().process(answer.lines) if answer.lines else fact.default()


def _pyinfra_reports(box: Host, fact: type[FactBase[T]], arguments: Mapping[str, Any]) -> T:
    """Ask with pyinfra alone, which ends the host where the command fails, and shows how."""
    value: T = box.get_fact(fact, **arguments)
    return value


def _report_unanswered() -> None:
    say(state.inventory.get_host(host.name), of_host().unanswered, fg="red", log_func=logger.error)


def read_all(queries: Iterable[Query[Any]]) -> None:
    """Read those of these facts that are not cached, in one command.

    Left out are hashes of model files, which are read alone once the files are known to have changed, and a fact whose
    command fails: the item that needs it reads it alone, and pyinfra reports the failure. One whose command does not
    end is not read again: that is reported here, and in `HostRun.unanswered` until a later stage has read it.
    """
    cached, now = of_host().facts, moment()
    requested = [query for query in dict.fromkeys(queries) if query.fact is not FileHashes]
    missing = [query for query in requested if query not in cached or cached[query][0] != now]
    if len(missing) < 2:
        return
    output = host.get_fact(FactBatch, requests=[(query.fact, query.arguments) for query in missing])
    late, before = of_host().late, set(of_host().late)
    for number, query in enumerate(missing):
        fact = query.fact()
        late.discard(query)
        if number in output.lines:
            lines = output.lines[number]
            cached[query] = (now, fact.process(lines) if lines else fact.default())
        elif number in output.late:
            late.add(query)
            cached[query] = (now, fact.default())
    if late - before:
        _report_unanswered()


def _valid_for(requested: Query[Any]) -> object:
    """Cache key of a fact's value that is read now."""
    if requested.fact is FileHashes:
        return file_versions(read_fact(ModelStore), requested.arguments["paths"])
    return moment()
