"""Every fact there is, and what real boxes answered to its command (data/README.md)."""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache
from pathlib import Path
from typing import Any

from pyinfra.api.facts import FactBase

import tasks.facts

DATA = Path(__file__).parent / "data"
# Answers that the checks are tried on too have a directory of their own, named after what they are about.
_DIRECTORIES = {
    "CompilersFound": "compilers",
    "Gpus": "gpu",
    "LlamaStrays": "strays",
    "MachineState": "machine",
    "MemoryModules": "dmidecode",
    "NvidiaPackages": "driver",
}


def facts() -> list[type[FactBase[Any]]]:
    """Every fact of every module of tasks/facts, found there and listed nowhere."""
    modules = [
        importlib.import_module(f"tasks.facts.{each.name}") for each in pkgutil.iter_modules(tasks.facts.__path__)
    ]
    found = [
        value
        for module in modules
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, FactBase) and value.__module__ == module.__name__
    ]
    return sorted(found, key=lambda fact: (fact.__name__, fact.__module__))


def captured(fact: type[FactBase[Any]]) -> list[str]:
    """What boxes answered to this fact's command."""
    return _captured(fact.__name__)


def answers(fact: type[FactBase[Any]]) -> list[str]:
    """The same, and what boxes of kinds that were not at hand would answer by the documentation."""
    return [*_captured(fact.__name__), *_read(f"documented/{fact.__name__}.*.txt")]


@cache
def _captured(name: str) -> list[str]:
    return [*_read(f"answers/{name}.*.txt"), *_read(f"{_DIRECTORIES.get(name, 'none')}/*.txt")]


@cache
def _read(pattern: str) -> list[str]:
    return [file.read_text() for file in sorted(DATA.glob(pattern))]
