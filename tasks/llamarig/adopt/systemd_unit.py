"""The llama-server that a systemd unit starts, with what its drop-ins change."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import PurePosixPath
from typing import Any

from llamarig.adopt.container import mebibytes
from llamarig.adopt.cpu_list import cpus_of_list
from llamarig.adopt.launch import Found, Note, joined
from llamarig.adopt.shell_script import command_launches, script_launches
from llamarig.adopt.shell_words import Command

Read = Callable[[str], str | None]
"""Reads a file that the input names; None where it is not there."""

_ESCAPES = {"n": "\n", "t": "\t", "s": " ", "\\": "\\", '"': '"', "'": "'"}
_OURS = (
    *("Type", "User", "Group", "WorkingDirectory", "Restart", "RestartSec", "LimitMEMLOCK", "LimitNOFILE", "KillMode"),
    *("StandardOutput", "StandardError", "SyslogIdentifier", "TimeoutStopSec", "KillSignal", "SupplementaryGroups"),
    *(
        "ProtectSystem",
        "ProtectHome",
        "PrivateTmp",
        "NoNewPrivileges",
        "DynamicUser",
        "StateDirectory",
        "RuntimeDirectory",
    ),
    *("CacheDirectory", "TimeoutSec", "RemainAfterExit", "OOMScoreAdjust", "MemorySwapMax", "DeviceAllow", "PAMName"),
)
"""Directives that the unit of a declared model has of its own, or does not need."""


def unit_launches(texts: Sequence[str], name: str, read: Read) -> Found:
    """What a unit starts.

    :param texts: of the unit and of its drop-ins, in systemd's order
    :param name: of the unit, without .service
    :param read: for EnvironmentFile= and for a script that ExecStart= names
    """
    service = _directives(texts)
    notes: list[Note] = []
    environment = _environment(service, read, notes)
    found = []
    for line in service.get("ExecStart", []):
        words = _exec_words(line, environment)
        started = command_launches(Command(tuple(words), 0, exported=environment))
        if not started.launches and words:
            started = _script_of(words, environment, read, notes) or started
        found.append(started)
    settings = _settings(service, notes)
    every = joined(found)
    named = name.removesuffix(".service").partition("@")[0]
    return Found(
        tuple(
            replace(
                launch,
                where=f"ExecStart of {name}" if name else "ExecStart",
                name=named if len(every.launches) == 1 else "",
                settings={**settings, **launch.settings},
                notes=(*notes, *launch.notes),
            )
            for launch in every.launches
        ),
        every.notes if every.launches else (*notes, *every.notes),
    )


def _directives(texts: Iterable[str]) -> dict[str, list[str]]:
    """Directives of [Service]; an empty value forgets those before it."""
    found: dict[str, list[str]] = {}
    for text in texts:
        section = ""
        for line in _logical_lines(text):
            if header := re.fullmatch(r"\[(.+)\]", line):
                section = header[1]
            elif section == "Service" and "=" in line:
                key, _, value = line.partition("=")
                values = found.setdefault(key.strip(), [])
                if value.strip():
                    values.append(value.strip())
                else:
                    values.clear()
    return found


def _logical_lines(text: str) -> Iterable[str]:
    """Lines without comments, continued ones joined; a comment may stand between the parts of a line."""
    pending = ""
    for raw in text.replace("\r\n", "\n").split("\n"):
        line = raw.strip()
        if not line or line.startswith(("#", ";")):
            if not pending:
                continue
            line = "\\" if line else ""
        if line.endswith("\\"):
            pending += line[:-1] + " "
        else:
            yield (pending + line).strip()
            pending = ""
    if pending.strip():
        yield pending.strip()


def unit_words(line: str) -> list[str]:
    """The words of a directive, by systemd's rules of quoting."""
    words: list[str] = []
    current: str | None = None
    quote = ""
    at = 0
    while at < len(line):
        character = line[at]
        if character == "\\" and at + 1 < len(line):
            following = line[at + 1]
            current = (current or "") + _ESCAPES.get(following, f"\\{following}")
            at += 1
        elif quote:
            quote = "" if character == quote else quote
            current = (current or "") + ("" if character in "\"'" and not quote else character)
        elif character in "\"'" and current is None:
            quote, current = character, ""
        elif character.isspace():
            if current is not None:
                words.append(current)
            current = None
        else:
            current = (current or "") + character
        at += 1
    return words if current is None else [*words, current]


def _exec_words(line: str, environment: Mapping[str, str]) -> list[str]:
    """The words of ExecStart=, with variables and without the characters before the program."""
    words: list[str] = []
    for word in unit_words(line.lstrip("@-:+!|")):
        alone = re.fullmatch(r"\$(\w+)", word)
        if alone and alone[1] in environment:
            words += environment[alone[1]].split()
        else:
            words.append(_replaced(word, environment))
    return words


def _replaced(word: str, environment: Mapping[str, str]) -> str:
    text = re.sub(r"\$\{(\w+)\}", lambda found: environment.get(found[1], found[0]), word)
    return text.replace("$$", "$").replace("%%", "%")


def _environment(service: Mapping[str, Sequence[str]], read: Read, notes: list[Note]) -> dict[str, str]:
    found: dict[str, str] = {}
    for line in service.get("Environment", []):
        found |= dict(word.partition("=")[::2] for word in unit_words(line) if "=" in word)
    for line in service.get("EnvironmentFile", []):
        path = line.lstrip("-")
        text = read(path)
        if text is None:
            notes.append(Note(f"EnvironmentFile={path}", "cannot be read here: add what it sets to the declaration"))
        else:
            found |= variables_of_file(text)
    return {name: value.replace("%%", "%") for name, value in found.items()}


def variables_of_file(text: str) -> dict[str, str]:
    """Variables of an environment file: NAME=VALUE a line, quotes allowed."""
    found = {}
    for line in _logical_lines(text):
        name, equals, value = line.removeprefix("export ").partition("=")
        if equals and re.fullmatch(r"[A-Za-z_]\w*", name.strip()):
            words = unit_words(value)
            found[name.strip()] = words[0] if len(words) == 1 and value.strip()[:1] in "\"'" else value.strip()
    return found


def _script_of(words: Sequence[str], environment: Mapping[str, str], read: Read, notes: list[Note]) -> Found | None:
    """The launches of a script that a unit starts."""
    shells = ("sh", "bash", "dash", "zsh")
    path = next((word for word in words if PurePosixPath(word).name not in shells and not word.startswith("-")), "")
    text = read(path)
    if text is None:
        if path.endswith(".sh"):
            notes.append(Note(path, "is a script that cannot be read here: adopt that file"))
        return None
    found = script_launches(text, environment)
    return found if found.launches else None


def _settings(service: Mapping[str, Sequence[str]], notes: list[Note]) -> dict[str, Any]:
    settings: dict[str, Any] = {}
    for key, values in service.items():
        value = values[-1] if values else ""
        if key == "CPUAffinity" and (cpus := cpus_of_list(" ".join(values))):
            settings["cpu_affinity"] = cpus
        elif key == "MemoryMax" and (amount := mebibytes(value)):
            settings["memory_max_mib"] = amount
        elif key == "TimeoutStartSec" and value.isdecimal() and int(value) >= 10:
            settings["load_timeout_s"] = int(value)
        elif key not in (*_OURS, "ExecStart", "Environment", "EnvironmentFile") and values:
            about = f"{key}={value}"
            if key.startswith("Exec"):
                notes.append(Note(about, "dropped: the unit of a declared model runs nothing of the owner's"))
            else:
                notes.append(Note(about, "dropped: no field; the unit is llamarig's own"))
    return settings
