"""The llama-servers among the services of a docker compose file."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from llamarig.adopt.container import (
    Container,
    add_cpus,
    add_gpus,
    add_memory,
    compose_environment,
    container_command,
    image_environment,
    published,
    volume,
)
from llamarig.adopt.launch import Found, Note, joined
from llamarig.adopt.shell_script import command_launches
from llamarig.adopt.shell_words import Command, split_words

_VARIABLE = re.compile(r"\$(?:(\$)|\{(\w+)(?:(:?[-?+])([^}]*))?\}|(\w+))")


def compose_launches(services: Mapping[str, Any], variables: Mapping[str, str]) -> Found:
    """The launches of all services.

    :param services: the part `services` of the file
    :param variables: of the file .env beside it
    """
    return joined(_service(str(name), service, variables) for name, service in services.items())


def _service(name: str, service: Any, variables: Mapping[str, str]) -> Found:
    if not isinstance(service, Mapping):
        return Found()
    unknown: list[str] = []
    service = _interpolated(service, variables, unknown)
    found = Container([])
    image = str(service.get("image", ""))
    found.environment = {**image_environment(image), **compose_environment(service.get("environment"))}
    words = container_command(image, _words(service.get("entrypoint")), _words(service.get("command")))
    _surroundings(found, service)
    started = command_launches(Command(tuple(words), 0, exported=found.environment, unknown=tuple(unknown)))
    ports = None if service.get("network_mode") == "host" else tuple(found.ports)
    return replace(
        started,
        launches=tuple(
            replace(
                launch,
                name=name,
                where=f"service {name}",
                settings={**found.settings, **launch.settings},
                mounts=found.mounts,
                ports=ports,
                notes=(*found.notes, *launch.notes),
            )
            for launch in started.launches
        ),
    )


def _interpolated(value: Any, variables: Mapping[str, str], unknown: list[str]) -> Any:
    """A value of the file with its variables replaced by those of .env and by their defaults."""
    if isinstance(value, Mapping):
        return {key: _interpolated(item, variables, unknown) for key, item in value.items()}
    if isinstance(value, list):
        return [_interpolated(item, variables, unknown) for item in value]
    if not isinstance(value, str):
        return value

    def replacement(found: re.Match[str]) -> str:
        if found[1]:
            return "$"
        name, operator, alternative = found[2] or found[5], found[3] or "", found[4] or ""
        text = variables.get(name)
        if "+" in operator:
            return alternative if text else ""
        if text is None or (not text and operator.startswith(":")):
            if operator.endswith("-"):
                return alternative
            unknown.append(found[0])
            return found[0]
        return text

    return _VARIABLE.sub(replacement, value)


def _words(value: Any) -> list[str]:
    if isinstance(value, list):
        return [str(item).lower() if isinstance(item, bool) else str(item) for item in value]
    return split_words(str(value)) if value else []


def _surroundings(found: Container, service: Mapping[str, Any]) -> None:
    for item in _list(service.get("volumes")):
        if isinstance(item, Mapping) and item.get("source") and item.get("target"):
            found.mounts[str(item["target"])] = str(item["source"])
        elif isinstance(item, str):
            found.mounts |= volume(item)
    for item in _list(service.get("ports")):
        if isinstance(item, Mapping):
            item = f"{item.get('host_ip', '0.0.0.0')}:{item.get('published')}:{item.get('target')}"
        found.ports += published(str(item))
    for path in _list(service.get("env_file")):
        found.notes.append(Note(f"env_file {path}", "not read: add what it sets to the declaration"))
    resources = _mapping(_mapping(service.get("deploy")).get("resources"))
    limit = service.get("mem_limit") or _mapping(resources.get("limits")).get("memory")
    if limit:
        add_memory(found, str(limit))
    if service.get("cpuset"):
        add_cpus(found, str(service["cpuset"]))
    for device in _list(_mapping(resources.get("reservations")).get("devices")):
        if numbers := _list(_mapping(device).get("device_ids")):
            add_gpus(found, f"device={','.join(map(str, numbers))}")


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _list(value: Any) -> list[Any]:
    """A list of the file, which may also be written as one value."""
    return value if isinstance(value, list) else [] if value is None else [value]


def is_compose(document: Any) -> bool:
    """Whether a YAML document is a compose file."""
    return isinstance(document, Mapping) and isinstance(document.get("services"), Mapping)
