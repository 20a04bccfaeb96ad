"""The settings of a front, as a deploy writes them and the service reads them. Nothing in them is secret."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Optional

from llamarig.remote.shared.record import Record


@dataclass(frozen=True)
class FrontAlias(Record):
    """Another name of a model, with members that a request by it gets where it has none of that name."""

    name: str
    defaults: dict[str, Any]


@dataclass(frozen=True)
class FrontModel(Record):
    """A model behind the front.

    ``url``: of its server, http://HOST:PORT/PREFIX, or http+unix://PATH for a socket; ``excludes``: names of models
    that cannot run beside it; ``concurrency``: requests that it gets at once; ``context``: tokens of one request, 0 if
    that is not declared; key_file: of root's, whose first key its server wants.
    """

    name: str
    unit: str
    url: str
    concurrency: int
    context: int
    served_as: str
    excludes: tuple[str, ...] = ()
    aliases: tuple[FrontAlias, ...] = ()
    idle_stop_s: Optional[float] = None
    key_file: str = ""


@dataclass(frozen=True)
class FrontKey(Record):
    """A client's key by its name: its hashes are in the file of that name below the keys' directory.

    ``models``: that it may use, all where empty; ``concurrency``: its requests at once, those that wait included; 0 for
    no limit.
    """

    name: str
    models: tuple[str, ...] = ()
    concurrency: int = 0


@dataclass(frozen=True)
class FrontSettings(Record):
    """A front. Times in seconds; ``hosts``: names under which browsers and clients may call it, beside addresses."""

    models: tuple[FrontModel, ...]
    default: str
    keys: tuple[FrontKey, ...] = ()
    preload: tuple[str, ...] = ()
    default_returns_s: Optional[float] = None
    least_residency_s: float = 10
    longest_wait_s: float = 120
    queue_length: int = 100
    keepalive_s: float = 10
    max_body_mib: int = 100
    hosts: tuple[str, ...] = ()
    cors_origins: tuple[str, ...] = ()
