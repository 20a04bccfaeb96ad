"""What a deploy does to a model's unit, as a sentence for its owner."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePosixPath

from llamarig.engine.progress import duration
from llamarig.facts.units import Unit
from llamarig.remote.shared.unit_directives import directives
from llamarig.render import layout
from llamarig.render.escaping import split_exec_start

_MOST_SHOWN = 40
"""Characters of a value."""
_OF_PEERS = ("Conflicts", "After", "Wants", "StartLimitIntervalSec", "BindReadOnlyPaths", "TemporaryFileSystem")
"""Directives that follow from other models, from the size of the files, or from the flags."""
_FILES = {"--model": "model file", "--mmproj": "vision projector", "--model-draft": "draft model"}


def unit_changes(current: str, wanted: str) -> list[str]:
    """What differs between two unit files: ``--ctx-size 262144 -> 131072``, ``llama.cpp 0c1e570 -> 4df29be``."""
    before, after = _values(current), _values(wanted)
    found = _program_changes(_command(before), _command(after))
    names = [
        name
        for name in dict.fromkeys([*before, *after])
        if name not in ("ExecStart", *_OF_PEERS) and before.get(name) != after.get(name)
    ]
    found += [_setting(name, before.get(name, []), after.get(name, [])) for name in names[:3]]
    if len(names) > 3:
        found.append(f"{len(names) - 3} more settings of its unit")
    return found or ["settings of its unit"]


def started(unit: Unit | None, replaced: Sequence[str] = ()) -> str:
    """What becomes of a model whose unit is changed and which is to run.

    :param replaced: models that stop for it
    """
    if unit is None or not unit.is_active:
        return f"starts it in place of {', '.join(replaced)}" if replaced else "starts it"
    about = f" (away about {duration(unit.away_s)})" if unit.away_s else ""
    return f"restarts it{about}"


def was_started(sentence: str, message: str) -> str:
    """The sentence in the past tense, with how long the model was away.

    :param message: the last message of the switch
    """
    took = was_away(message)
    done = re.sub(r" \(away about [^)]*\)", "", sentence)
    for now, then in (("restarts it", f"restarted{took}"), ("starts it", f"started{took}"), ("installs", "installed")):
        done = done.replace(now, then)
    return done


def was_away(message: str) -> str:
    """``, away for 41 s``, as the last message of a switch has it; empty where it has no time."""
    found = re.search(r"it was away for (\d+ s)", message)
    return f", away for {found[1]}" if found else ""


def model_of(unit: str) -> str:
    """The model that a unit serves."""
    return unit.removeprefix(layout.unit_name("").removesuffix(".service")).removesuffix(".service")


def _values(text: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in directives(text):
        name, equals, value = line.partition("=")
        if equals:
            found.setdefault(name, []).append(value)
    return found


def _command(values: Mapping[str, list[str]]) -> list[str]:
    return split_exec_start((values.get("ExecStart") or [""])[-1])


def command_of(text: str) -> list[str]:
    """The command line of a unit file; empty where it has none."""
    return _command(_values(text))


def release_name(program: str) -> str:
    """``<commit>-<build key>`` of the release that a program is in."""
    return PurePosixPath(program).parent.parent.name


def _program_changes(before: Sequence[str], after: Sequence[str]) -> list[str]:
    if not before or not after:
        return []
    found = []
    if (change := _release_change(before[0], after[0])) is not None:
        found.append(change)
    old, new = flags_of(before[1:]), flags_of(after[1:])
    for flag in dict.fromkeys([*old, *new]):
        if old.get(flag) != new.get(flag):
            found.append(_flag_change(flag, old.get(flag), new.get(flag)))
    return found


def _release_change(before: str, after: str) -> str | None:
    """``llama.cpp 0c1e570 -> 4df29be``; None for the same release."""
    old, new = release_name(before), release_name(after)
    if before == after:
        return None
    (old_commit, _, _), (new_commit, _, _) = old.partition("-"), new.partition("-")
    if old_commit == new_commit:
        return f"another build of llama.cpp {new_commit[:7]}"
    return f"llama.cpp {old_commit[:7]} -> {new_commit[:7]}"


def release_change(text: str, release: str) -> str | None:
    """The same for a unit file and the directory of a release; None where it runs that one.

    :param text: of a unit
    """
    command = command_of(text)
    return _release_change(command[0], f"{release}/bin/llama-server") if command else None


def flags_of(words: Sequence[str]) -> dict[str, str]:
    """Flag -> its values, as written; several of one flag together."""
    found: dict[str, str] = {}
    flag = ""
    for word in words:
        if re.match(r"--?[A-Za-z]", word):
            flag = word
            found.setdefault(flag, "")
        else:
            found[flag] = f"{found.get(flag, '')} {word}".strip()
    return found


def _flag_change(flag: str, before: str | None, after: str | None) -> str:
    if after is None:
        return f"without {flag}"
    if before is None:
        return f"with {flag} {_short(after)}".rstrip()
    if flag in _FILES and before and after:
        old, new = before.rpartition("/")[2], after.rpartition("/")[2]
        return f"{_FILES[flag]} {old} -> {new}" if old != new else f"another revision of {new}"
    if len(before) > _MOST_SHOWN or len(after) > _MOST_SHOWN:
        return f"another {flag}"
    return f"{flag} {before} -> {after}"


def _setting(name: str, before: Iterable[str], after: Iterable[str]) -> str:
    gone, come = [one for one in before if one not in after], [one for one in after if one not in before]
    if len(gone) <= 1 and len(come) <= 1:
        old, new = _short("".join(gone)), _short("".join(come))
        if old and new:
            return f"{name} {old} -> {new}"
        return f"{name} {new}" if new else f"without {name} {old}"
    return f"other {name}"


def _short(text: str) -> str:
    return text if len(text) <= _MOST_SHOWN else f"{text[: _MOST_SHOWN - 3]}..."
