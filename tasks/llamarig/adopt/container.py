"""What a container sets for the llama-server in it: `docker run` and the like, and parts that compose files share."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from llamarig.adopt.cpu_list import cpus_of_list
from llamarig.adopt.launch import Note, Port

_VALUED = frozenset(
    {
        *("-e", "--env", "--env-file", "-v", "--volume", "--mount", "-p", "--publish", "--name", "--gpus", "--runtime"),
        *(
            "--network",
            "--net",
            "--restart",
            "-m",
            "--memory",
            "--memory-swap",
            "--shm-size",
            "--cpus",
            "--cpuset-cpus",
        ),
        *("--device", "--group-add", "--security-opt", "--cap-add", "--cap-drop", "--ulimit", "--entrypoint", "-w"),
        *(
            "--workdir",
            "-u",
            "--user",
            "-h",
            "--hostname",
            "--ipc",
            "--pid",
            "--log-driver",
            "--log-opt",
            "-l",
            "--label",
        ),
        *("--add-host", "--health-cmd", "--pull", "--platform", "--stop-timeout", "--tmpfs", "--userns", "--expose"),
        *("--cpuset-mems", "-c", "--cpu-shares", "--oom-score-adj", "--annotation", "--pod", "--cidfile", "--dns"),
    }
)
"""Options of `docker run` that take a value as the next word."""
_GIB = {"k": 1 / 1024, "m": 1, "g": 1024, "t": 1024 * 1024}


@dataclass
class Container:
    """The command in a container, and what is set for it."""

    words: list[str]
    environment: dict[str, str] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    mounts: dict[str, str] = field(default_factory=dict)
    ports: list[Port] = field(default_factory=list)
    notes: list[Note] = field(default_factory=list)
    uses_network_of_host: bool = False


def container_settings(words: Sequence[str]) -> Container:
    """Read the words of `docker run`."""
    rest = list(words[[*words].index("run") + 1 :])
    found = Container([])
    entrypoint = ""
    while rest and rest[0].startswith("-"):
        option = rest.pop(0)
        name, equals, value = option.partition("=")
        if not equals and name in _VALUED and rest:
            value = rest.pop(0)
        if name == "--entrypoint":
            entrypoint = value
        else:
            _option(found, name, value)
    image = rest.pop(0) if rest else ""
    found.words = container_command(image, [entrypoint] if entrypoint else [], rest)
    found.environment = {**image_environment(image), **found.environment}
    return found


def container_command(image: str, entrypoint: Sequence[str], words: Sequence[str]) -> list[str]:
    """The command that runs in a container of this image: llama.cpp's images have llama-server as their entry point."""
    if entrypoint:
        return [*entrypoint, *words]
    if not is_image_of_llama_cpp(image):
        return list(words)
    if words and not words[0].startswith("-"):
        return list(words)
    # The images with all programs start the one that the first word names (.devops/tools.sh).
    others = [word for word in words[:1] if word in ("--server", "-s")]
    return ["llama-server", *words[len(others) :]]


def image_environment(image: str) -> dict[str, str]:
    """Variables that an image sets: in those with the server alone, it listens to every address (.devops/)."""
    is_server = is_image_of_llama_cpp(image) and re.search(r":server", image)
    return {"LLAMA_ARG_HOST": "0.0.0.0"} if is_server else {}


def is_image_of_llama_cpp(image: str) -> bool:
    """Whether an image is llama.cpp's own, or one that is named after its server."""
    return re.search(r"llama[._-]?cpp|llama-server", image, re.IGNORECASE) is not None


def _option(found: Container, name: str, value: str) -> None:
    if name in ("-e", "--env"):
        variable, equals, text = value.partition("=")
        if equals:
            found.environment[variable] = text
        else:
            found.notes.append(Note(f"-e {variable}", "its value is that of the shell that starts the container"))
    elif name == "--env-file":
        found.notes.append(Note(f"--env-file {value}", "not read: add what it sets to the declaration"))
    elif name in ("-v", "--volume"):
        found.mounts |= volume(value)
    elif name == "--mount":
        parts = dict(part.partition("=")[::2] for part in value.split(","))
        source, target = parts.get("source", parts.get("src")), parts.get("target", parts.get("dst"))
        if source and target:
            found.mounts[target] = source
    elif name in ("-p", "--publish"):
        found.ports += published(value)
    elif name in ("--network", "--net"):
        found.uses_network_of_host = value == "host"
    elif name == "--cpuset-cpus":
        add_cpus(found, value)
    elif name in ("-m", "--memory"):
        add_memory(found, value)
    elif name == "--gpus":
        add_gpus(found, value.strip("\"'"))


def volume(text: str) -> dict[str, str]:
    """``/srv/models:/models:ro``: directory in the container -> directory of the host; empty for a named volume."""
    # A Windows path has a colon of its own.
    parts = re.split(r":(?![\\/]{0,2}[^/\\:]*[\\])", text) if re.match(r"[A-Za-z]:[\\/]", text) else text.split(":")
    return {parts[1]: parts[0]} if len(parts) > 1 and re.match(r"[./~$]|[A-Za-z]:", parts[0]) else {}


def published(text: str) -> list[Port]:
    """``127.0.0.1:8000:8080/tcp``: as the container's port and where it is published."""
    found = re.fullmatch(
        r"(?:(?P<host>\d+\.\d+\.\d+\.\d+|\[[0-9a-f:]+\]):)?(?:(?P<port>\d+):)?(?P<inside>\d+)(?:/tcp)?", text
    )
    if found is None or found["port"] is None:
        return []
    return [Port(inside=int(found["inside"]), host=(found["host"] or "0.0.0.0").strip("[]"), port=int(found["port"]))]


def add_cpus(found: Container, value: str) -> None:
    """The CPUs that a container may use."""
    if cpus := cpus_of_list(value):
        found.settings["cpu_affinity"] = cpus


def add_memory(found: Container, value: str) -> None:
    """The limit of a container's memory: ``32g``."""
    amount = mebibytes(value)
    if amount is None:
        found.notes.append(Note(f"memory limit {value}", "not understood: declare serve.memory_max_mib"))
    else:
        found.settings["memory_max_mib"] = amount


def mebibytes(text: str) -> int | None:
    """``32g``, ``512M``, ``1073741824``, as docker and systemd write sizes; None for anything else."""
    size = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kKmMgGtT]?)(?:i?[bB])?", text.strip())
    if size is None:
        return None
    return int(float(size[1]) * (_GIB[size[2].lower()] if size[2] else 1 / 2**20))


def add_gpus(found: Container, value: str) -> None:
    """Which GPUs a container sees."""
    devices = re.fullmatch(r"device=(.+)", value)
    if devices:
        found.environment.setdefault("CUDA_VISIBLE_DEVICES", devices[1])


def compose_environment(value: object) -> dict[str, str]:
    """The environment of a compose service, which is a list of NAME=VALUE or a mapping."""
    if isinstance(value, Mapping):
        return {str(name): "" if text is None else _yaml_text(text) for name, text in value.items()}
    if isinstance(value, Iterable) and not isinstance(value, str):
        pairs = (str(item).partition("=") for item in value)
        return {name: text for name, equals, text in pairs if equals}
    return {}


def _yaml_text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
