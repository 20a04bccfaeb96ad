"""The models of a llama-swap configuration."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from llamarig.adopt.container import compose_environment
from llamarig.adopt.launch import Found, Launch, Note
from llamarig.adopt.shell_script import script_launches

PORT = 8080
"""Where clients reached llama-swap; models that exclude each other share it."""
_MACRO = re.compile(r"\$\{([\w.-]+)\}")
_MOST_MACROS = 20
_READ = frozenset(
    {"cmd", "env", "ttl", "macros", "aliases", "name", "description", "unlisted", "proxy", "checkEndpoint"}
)
_DROPPED = {
    "cmdStop": "systemd stops the unit",
    "useModelName": "a declared model answers to its alias",
    "filters": "no field: llama-server takes each request as it comes; serve.sampling has defaults",
    "concurrencyLimit": "serve.parallel is the number of requests at a time",
    "metadata": "no field",
    "timeouts": "no field",
}


def is_llama_swap(document: Any) -> bool:
    """Whether a YAML document is a configuration of llama-swap."""
    models = document.get("models") if isinstance(document, Mapping) else None
    return isinstance(models, Mapping) and any(
        isinstance(model, Mapping) and "cmd" in model for model in models.values()
    )


def llama_swap_launches(document: Mapping[str, Any]) -> Found:
    """The launches of all models of the file."""
    beside = _coexisting(document)
    launches: list[Launch] = []
    notes: list[Note] = []
    port = PORT
    for name, model in document["models"].items():
        if not isinstance(model, Mapping) or "cmd" not in model:
            continue
        macros = {**_macros(document.get("macros")), **_macros(model.get("macros")), "MODEL_ID": str(name)}
        coexists = str(name) in beside
        port += coexists
        macros["PORT"] = str(port if coexists else PORT)
        lines = _replaced(str(model["cmd"]), macros).splitlines()
        command = " ".join(line.strip().rstrip("\\") for line in lines if not line.strip().startswith("#"))
        found = script_launches(command, compose_environment(model.get("env")))
        notes += [Note(f"{name}", str(note)) for note in found.notes]
        if not found.launches and not found.notes:
            notes.append(Note(str(name), "its cmd starts no llama-server"))
        launches += [_named(launch, str(name), model, document, coexists=coexists) for launch in found.launches]
    return Found(tuple(launches), tuple(notes), _preloaded(document))


def _named(
    launch: Launch, name: str, model: Mapping[str, Any], document: Mapping[str, Any], *, coexists: bool
) -> Launch:
    settings = dict(launch.settings)
    notes = [*launch.notes]
    if coexists:
        settings["coexists"] = True
        notes.append(Note("groups", "its group runs models side by side: coexists=True, and a port of its own"))
    if isinstance(ttl := model.get("ttl"), int) and ttl > 0:
        settings["sleep_idle_s"] = ttl
        notes.append(Note(f"ttl {ttl}", "sleep_idle_s: the server gives its memory back, and loads again at a request"))
    timeout = document.get("healthCheckTimeout")
    if isinstance(timeout, int) and timeout >= 15:
        settings["load_timeout_s"] = timeout
    if aliases := _list(model.get("aliases")):
        notes.append(Note(f"aliases {', '.join(map(str, aliases))}", "a server with one model answers to any name"))
    for key in model:
        if key not in _READ:
            notes.append(Note(key, f"dropped: {_DROPPED.get(key, 'no field')}"))
    return replace(launch, name=name, where=f"model {name}", settings=settings, notes=tuple(notes))


def _macros(value: Any) -> dict[str, str]:
    return {str(name): str(text) for name, text in value.items()} if isinstance(value, Mapping) else {}


def _replaced(text: str, macros: Mapping[str, str]) -> str:
    """The text with its macros replaced, which may contain others."""
    for _ in range(_MOST_MACROS):
        replaced = _MACRO.sub(lambda found: macros.get(found[1], found[0]), text)
        if replaced == text:
            break
        text = replaced
    return text


def _coexisting(document: Mapping[str, Any]) -> set[str]:
    """Models of groups that do not swap."""
    groups = document.get("groups")
    return {
        str(member)
        for group in (groups.values() if isinstance(groups, Mapping) else ())
        if isinstance(group, Mapping) and group.get("swap") is False
        for member in _list(group.get("members"))
    }


def _preloaded(document: Mapping[str, Any]) -> str:
    hooks = document.get("hooks")
    startup = hooks.get("on_startup") if isinstance(hooks, Mapping) else None
    names = startup.get("preload") if isinstance(startup, Mapping) else None
    return str(names[0]) if isinstance(names, list) and names else ""


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
