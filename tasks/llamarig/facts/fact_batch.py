"""Read several facts with one command: one SSH channel and one round trip instead of one for each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pyinfra.api.facts import FactBase

from llamarig.facts.output import whole_number

FactRequest = tuple[type[FactBase[Any]], Mapping[str, Any]]
"""A fact, and the arguments of its command."""

QUESTION_S = 60
"""Seconds after which a fact's command is ended. Those of a batch take milliseconds, unless something hangs."""
_MARK = "@@llamarig "
_OK, _LATE = f"{_MARK}ok", f"{_MARK}late"
# Exit statuses: of a command that timeout(1) has ended, of one that it had to kill, and of `wait` after a USR1.
_ENDED = "124|137|138"
# A process that hangs in the kernel (nvidia-smi with a broken driver, a dead network mount) survives SIGKILL, and
# timeout(1) then waits for it. So commands are in the background, with a file as their output, and a signal wakes the
# shell that waits.
_BEFORE = """\
t=$(mktemp) || exit 1
trap : USR1
( trap 'kill $s; exit' TERM; while :; do sleep {wake_s} & s=$!; wait $s; kill -USR1 $$; done ) >/dev/null 2>&1 &
w=$!
"""
_ONE = """\
echo '{mark}{index}'
timeout -k 5 {limit_s} sh /dev/fd/3 3<<'@@end' </dev/null >"$t" 2>/dev/null &
{command}
@@end
p=$!; wait $p; r=$?
if test $r = 138; then wait $p; r=$?; fi
cat "$t"; echo
case $r in 0) echo '{ok}';; {ended}) echo '{late}'; rm -f "$t"; t=$(mktemp);; esac
"""
_AFTER = 'kill $w; rm -f "$t"; true'


@dataclass(frozen=True)
class BatchOutput:
    """``lines``: index of a requested fact -> what its command printed, if it succeeded; ``late``: indices of those
    that did not end in time."""

    lines: dict[int, list[str]] = field(default_factory=dict)
    late: frozenset[int] = frozenset()


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
        # Woken after timeout(1) should have killed the command, and a second time if that was the one before.
        before = _BEFORE.format(wake_s=QUESTION_S + 6)
        each = (_marked(index, fact, arguments) for index, (fact, arguments) in enumerate(requests))
        return f"{before}{''.join(each)}{_AFTER}"

    def process(self, output: list[str]) -> BatchOutput:
        found: dict[int, list[str]] = {}
        late: set[int] = set()
        index, lines = -1, list[str]()
        for line in output:
            if line == _OK:
                found[index] = lines[:-1] if lines and not lines[-1] else lines
            elif line == _LATE:
                late.add(index)
            elif line.startswith(_MARK) and (parsed := whole_number(line.removeprefix(_MARK))) is not None:
                index, lines = parsed, []
            else:
                lines.append(line)
        return BatchOutput(found, frozenset(late))


def _marked(index: int, fact: type[FactBase[Any]], arguments: Mapping[str, Any]) -> str:
    command = str(fact().command(**arguments))
    program = fact().requires_command(**arguments)
    if program:
        command = f"command -v {program} >/dev/null && {{ {command}; }} || ! command -v {program} >/dev/null"
    # The command is a script on a descriptor of its own: as an argument its many quotes would be quoted once more. The
    # empty line is there because its output may not end in a newline.
    return _ONE.format(mark=_MARK, index=index, command=command, limit_s=QUESTION_S, ok=_OK, ended=_ENDED, late=_LATE)
