"""The models of a preset file (`models.ini`), from which a llama-server in router mode starts each on request.

Format: common/preset.cpp and docs/preset.md of the pinned commit.
"""

from __future__ import annotations

import re

from llamarig.adopt.launch import Found, Launch, Note
from llamarig.adopt.pinned_flags import PINNED_OPTIONS

GLOBAL = "*"
_HEADER = re.compile(r"[ \t]*\[[ \t]*([^]]+?)[ \t]*\][ \t]*(?:[;#].*)?")
# A value ends at any ; or #, without a way to quote them.
_PAIR = re.compile(r"[ \t]*([A-Za-z_][\w.-]*)[ \t]*=[ \t]*([^;#]*?)[ \t]*(?:[;#].*)?")
_OF_PRESETS = {
    **dict.fromkeys(("stop-timeout", "shutdown-timeout"), "a unit is stopped after 10 s"),
    "dedup-cache-models": "a declared model has one set of files",
    "version": "",
}
TRUE = frozenset({"true", "1", "on", "yes", "enabled"})
FALSE = frozenset({"false", "0", "off", "no", "disabled"})


def is_preset(text: str) -> bool:
    """Whether a text is a preset file: sections with keys that are flags."""
    keys = {key for section in _sections(text).values() for key in section}
    return any(f"--{key}" in PINNED_OPTIONS or f"-{key}" in PINNED_OPTIONS for key in keys)


def preset_launches(text: str) -> Found:
    """One launch for each section but the global one, whose keys hold for all."""
    sections = _sections(text)
    common = sections.pop(GLOBAL, {})
    launches = []
    default = ""
    for name, own in sections.items():
        keys = {**common, **own}
        if keys.pop("load-on-startup", "").lower() in TRUE and not default:
            default = name
        notes = tuple(
            Note(f"{key} = {keys[key]}", f"dropped: {why}") for key, why in _OF_PRESETS.items() if key in keys and why
        )
        environment = {key: value for key, value in keys.items() if key.startswith("LLAMA_")}
        words = [
            word
            for key, value in keys.items()
            if key not in environment and key not in _OF_PRESETS
            for word in _words(key, value)
        ]
        launches.append(
            Launch(tuple(words), environment=environment, where=f"section [{name}]", name=name, notes=notes)
        )
    if common and not launches:
        return Found(notes=(Note(f"[{GLOBAL}]", "holds for all models, and the file has none"),))
    return Found(tuple(launches), default=default)


def _sections(text: str) -> dict[str, dict[str, str]]:
    """Sections in their order; of a key that is given twice the last value holds."""
    found: dict[str, dict[str, str]] = {}
    current = found.setdefault(GLOBAL, {})
    for line in text.splitlines():
        if header := _HEADER.fullmatch(line):
            current = found.setdefault(header[1], {})
        elif pair := _PAIR.fullmatch(line):
            current[pair[1]] = pair[2]
    return {name: keys for name, keys in found.items() if keys or name != GLOBAL}


def _words(key: str, value: str) -> list[str]:
    """A key as the flag that it is; a switch that is off as its negation."""
    short = f"-{key}"
    flag = short if short in PINNED_OPTIONS or len(key) == 1 else f"--{key}"
    option = PINNED_OPTIONS.get(flag)
    if option is None:
        # A switch of an older build has no value as a flag.
        return [flag] if value.lower() in TRUE else [flag, value]
    if option.values:
        return [flag, value]
    if value.lower() in TRUE or not value:
        return [flag]
    negations = {option.name: option.negation, option.negation: option.name}
    return [opposite] if (opposite := negations.get(flag, option.negation)) else []
