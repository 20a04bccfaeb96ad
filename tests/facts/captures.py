"""All facts, and captured output of their commands on real boxes (data/README.md)."""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache
from pathlib import Path
from typing import Any

import llamarig.facts
from pyinfra.api.facts import FactBase

DATA = Path(__file__).parent / "data"
# Captures that checks are tested with too are in directories of their own.
_DIRECTORIES = {
    "CompilersFound": "compilers",
    "Gpus": "gpu",
    "StraySettings": "strays",
    "MachineState": "machine",
    "MemoryModules": "dmidecode",
    "NvidiaPackages": "driver",
}


def facts() -> list[type[FactBase[Any]]]:
    """All facts of all modules of llamarig.facts."""
    modules = [
        importlib.import_module(f"llamarig.facts.{each.name}") for each in pkgutil.iter_modules(llamarig.facts.__path__)
    ]
    found = [
        value
        for module in modules
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, FactBase) and value.__module__ == module.__name__
    ]
    return sorted(found, key=lambda fact: (fact.__name__, fact.__module__))


def captured(fact: type[FactBase[Any]]) -> list[str]:
    """Output of the fact's command on real boxes."""
    return _captured(fact.__name__)


def answers(fact: type[FactBase[Any]]) -> list[str]:
    """Captured output, and output written from documentation for boxes that were not available."""
    return [*_captured(fact.__name__), *_read(f"documented/{fact.__name__}.*.txt")]


@cache
def _captured(name: str) -> list[str]:
    return [*_read(f"answers/{name}.*.txt"), *_read(f"{_DIRECTORIES.get(name, 'none')}/*.txt")]


@cache
def _read(pattern: str) -> list[str]:
    return [file.read_text() for file in sorted(DATA.glob(pattern))]
