"""Read facts with a deadline, several with one command: one SSH channel and one round trip, side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pyinfra.api.facts import FactBase

from llamarig.facts.output import whole_number

FactRequest = tuple[type[FactBase[Any]], Mapping[str, Any]]
"""A fact, and the arguments of its command."""

QUESTION_S = 60
"""Seconds after which a fact's command is ended. Those of a batch take milliseconds, unless something hangs.

A fact that is read alone and takes longer has ``ends_within_s``.
"""
_MARK = "@@llamarig "
_OK, _LATE = f"{_MARK}ok", f"{_MARK}late"
# Printed for a fact that is read alone.
_NOT_ENDED, _FAILED = "@@question late", "@@question failed"
# Exit statuses: of a command that timeout(1) has ended, and of one that it had to kill.
_ENDED = "124|137"
# The commands run side by side, each with a file for its output. A process that hangs in the kernel (nvidia-smi with a
# broken driver, a dead network mount) survives SIGKILL, and timeout(1) then waits for it; so a signal wakes the shell
# that waits for them all, after timeout(1) should have killed the last.
_BEFORE = """\
d=$(mktemp -d) || exit 1
trap woken=1 USR1
( trap 'kill $s; exit' TERM; sleep {wake_s} & s=$!; wait $s; kill -USR1 $$ ) >/dev/null 2>&1 &
w=$!
"""
# The command is a script on a descriptor of its own: as an argument its many quotes would be quoted once more. The
# empty line is there because its output may not end in a newline.
_ONE = """\
{{ echo '{mark}{index}'; timeout -k 5 {limit_s} sh /dev/fd/3 3<<'@@end'
{command}
@@end
case $? in 0) printf '\\n%s\\n' '{ok}';; {ended}) printf '\\n%s\\n' '{late}';; esac
}} </dev/null >"$d/{index}" 2>/dev/null &
p="$p $!"
"""
# The only one of its script: what it printed is what comes back, and a mark after it only if it did not succeed.
_ALONE = """\
{{ timeout -k 5 {limit_s} sh /dev/fd/3 3<<'@@end'
{command}
@@end
case $? in 0) ;; {ended}) printf '\\n%s\\n' '{late}';; *) printf '\\n%s\\n' '{failed}';; esac
}} </dev/null >"$d/0" 2>/dev/null &
p=$!
"""
_AFTER = """\
wait $p
i=0
for one in ${{woken:+$p}}; do kill -0 $one 2>/dev/null && printf '\\n%s\\n' '{late}' >>"$d/$i"; i=$((i+1)); done
kill $w
cat "$d"/*
rm -r "$d"
true"""


@dataclass(frozen=True)
class BatchOutput:
    """``lines``: index of a requested fact -> what its command printed, if it succeeded; ``late``: indices of those
    that did not end in time."""

    lines: dict[int, list[str]] = field(default_factory=dict)
    late: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Answer:
    """``lines``: what the command printed, None unless it succeeded; ``late``: it did not end in time."""

    lines: list[str] | None = field(default_factory=list)
    late: bool = False


class FactBatch(FactBase[BatchOutput]):
    """What the commands of several facts printed, for each fact's own ``process``.

    Here the second command has failed. One that does not end in time is followed by ``late`` in place of ``ok``::

        @@llamarig 1
        no end
        @@llamarig ok
        @@llamarig 2
        half
    """

    default = BatchOutput

    def command(self, requests: Sequence[FactRequest]) -> str:
        each = (
            _ONE.format(
                mark=_MARK, index=index, command=_command(*one), limit_s=QUESTION_S, ok=_OK, ended=_ENDED, late=_LATE
            )
            for index, one in enumerate(requests)
        )
        return _script("".join(each), _LATE, QUESTION_S)

    def process(self, output: list[str]) -> BatchOutput:
        found: dict[int, list[str]] = {}
        late: set[int] = set()
        index, lines = -1, list[str]()
        for line in output:
            if line == _OK:
                found[index] = lines[:-1] if lines and not lines[-1] else lines
            elif line == _LATE and index not in found:
                late.add(index)
            elif line.startswith(_MARK) and (parsed := whole_number(line.removeprefix(_MARK))) is not None:
                index, lines = parsed, []
            else:
                lines.append(line)
        return BatchOutput(found, frozenset(late))


class Question(FactBase[Answer]):
    """What the command of one fact printed, for its own ``process``, or that it did not end in time.

    Output::

        half

        @@question late
    """

    default = Answer

    def command(self, fact: type[FactBase[Any]], arguments: Mapping[str, Any]) -> str:
        words = {"ended": _ENDED, "late": _NOT_ENDED, "failed": _FAILED}
        limit = limit_s(fact)
        return _script(_ALONE.format(command=_command(fact, arguments), limit_s=limit, **words), _NOT_ENDED, limit)

    def process(self, output: list[str]) -> Answer:
        last = output[-1] if output else ""
        return Answer(None if last in (_NOT_ENDED, _FAILED) else output, last == _NOT_ENDED)


def limit_s(fact: type[FactBase[Any]]) -> int:
    """Seconds after which the command of a fact that is read alone is ended."""
    found: int = getattr(fact, "ends_within_s", QUESTION_S)
    return found


def _script(commands: str, late: str, limit: int) -> str:
    return f"{_BEFORE.format(wake_s=limit + 6)}{commands}{_AFTER.format(late=late)}"


def _command(fact: type[FactBase[Any]], arguments: Mapping[str, Any]) -> str:
    command = str(fact().command(**arguments))
    program = fact().requires_command(**arguments)
    if program:
        command = f"command -v {program} >/dev/null && {{ {command}; }} || ! command -v {program} >/dev/null"
    return command
