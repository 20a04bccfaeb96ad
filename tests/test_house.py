"""The package's architecture: rooms in one order, pure functions where they must be, and no state in modules."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.source_rules import (
    ROOMS,
    Module,
    arrows_up,
    cycles,
    foreign_imports,
    graph,
    imports,
    impure_imports,
    impure_in_comparisons,
    module_name,
    module_state,
    opens_files,
    prints,
    room,
)

REPOSITORY = Path(__file__).resolve().parents[1]
PACKAGE = REPOSITORY / "tasks/llamarig"


PURE_ROOMS = ("declare", "records", "placement", "render", "lints", "adopt", "survey")
STORE = "llamarig.records.store"
"""The one module of records that reads and writes files."""


# --- imports ----------------------------------------------------------------------------------------------------------


SOURCES = {module_name(path, PACKAGE.parent): path.read_text() for path in sorted(PACKAGE.rglob("*.py"))}


def test_no_two_modules_import_each_other() -> None:
    assert cycles(graph(SOURCES)) == []


def test_no_room_imports_a_later_one() -> None:
    assert arrows_up(graph(SOURCES)) == []


def test_every_room_has_its_place_in_the_order() -> None:
    assert {path.parent.name for path in PACKAGE.glob("*/__init__.py")} == set(ROOMS)


def test_cycles_and_arrows_up_are_found() -> None:
    sources = {
        "llamarig": "",
        "llamarig.declare": "",
        "llamarig.declare.rig": "def f():\n    from llamarig.items import plans\n",
        "llamarig.items": "",
        "llamarig.items.plans": "from llamarig.items.units import x\n",
        "llamarig.items.units": "from . import plans\nimport llamarig.declare.rig\n",
    }
    edges = graph(sources)
    assert cycles(edges) == [["llamarig.declare.rig", "llamarig.items.plans", "llamarig.items.units"]]
    assert arrows_up(edges) == ["llamarig.declare.rig -> llamarig.items.plans"]


def test_every_kind_of_import_is_seen() -> None:
    source = "import a.b\nfrom c import d\ndef f():\n    import e\n    from . import g\n    from ..h import i\n"
    assert imports(source, "x.y") == {"a.b", "c", "c.d", "e", "x.y", "x.y.g", "x.h", "x.h.i"}


# --- pure rooms -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", [name for name in SOURCES if room(name) in PURE_ROOMS and name != STORE], ids=lambda name: name
)
def test_pure_rooms_import_nothing_impure(name: str) -> None:
    assert impure_imports(SOURCES[name]) == set()


@pytest.mark.parametrize("name", [name for name in SOURCES if room(name) in PURE_ROOMS and name != STORE])
def test_of_the_pure_rooms_only_the_store_touches_files(name: str) -> None:
    calls = opens_files(SOURCES[name])
    assert {call for call in calls if f"store.{call}(" not in SOURCES[name]} == set()


def test_impure_imports_and_open_files_are_found() -> None:
    assert impure_imports("def f():\n    import time\nfrom pyinfra.context import host\n") == {
        "time",
        "pyinfra.context",
        "pyinfra.context.host",
    }
    assert opens_files("Path('x').read_text()\nopen('y')\n") == {"read_text", "open"}


# --- comparisons ------------------------------------------------------------------------------------------------------


COMPARED = {name: source for name, source in SOURCES.items() if room(name) in ("items", "engine")}


def test_comparisons_are_pure() -> None:
    assert impure_in_comparisons(COMPARED) == []


def test_every_item_is_walked() -> None:
    modules = [Module.parse(name, source) for name, source in SOURCES.items() if room(name) == "items"]
    walked = [
        f"{module.name}.{name}" for module in modules for name in module.functions if name.endswith(".differences")
    ]
    assert len(walked) > 20


IMPURE_COMPARISONS = {
    "a clock": "import time\nclass A:\n    def differences(self, rig, seen):\n        return [time.time()]\n",
    "a fact read now": (
        "from pyinfra.context import host\nfrom pyinfra.facts.files import File\n"
        "def _helper():\n    return host.get_fact(File)\n"
        "class A:\n    def differences(self, rig, seen):\n        return _helper()\n"
    ),
    "the run": (
        "from llamarig.engine.run import read_fact\n"
        "class A:\n    def differences(self, rig, seen):\n        return self._found()\n"
        "    def _found(self):\n        return read_fact(1)\n"
    ),
    "a helper of another module": (
        "from llamarig.items.helper import help_out\n"
        "class A:\n    def differences(self, rig, seen):\n        return help_out()\n"
    ),
    "an import within": (
        "class A:\n    def differences(self, rig, seen):\n        import random\n        return random.random()\n"
    ),
    "a method of its base": (
        "from llamarig.items.helper import Base\n"
        "class A(Base):\n    def differences(self, rig, seen):\n        return self.look()\n"
    ),
}
HELPER = (
    "import subprocess\ndef help_out():\n    return subprocess.run(['x'])\n"
    "class Base:\n    def look(self):\n        return subprocess.run(['y'])\n"
)


@pytest.mark.parametrize("source", IMPURE_COMPARISONS.values(), ids=IMPURE_COMPARISONS.keys())
def test_an_impure_comparison_is_found(source: str) -> None:
    assert impure_in_comparisons({"llamarig.items.a": source, "llamarig.items.helper": HELPER}) != []


def test_a_fact_class_as_a_key_is_no_impurity() -> None:
    source = (
        "from pyinfra.facts.files import File\nfrom llamarig.engine.item import query\n"
        "class A:\n    def differences(self, rig, seen):\n        return seen.get(File, path='/x')\n"
        "    def fix(self, rig, seen, differences):\n        from pyinfra.operations import files\n"
    )
    assert impure_in_comparisons({"llamarig.items.a": source}) == []


# --- the screen -------------------------------------------------------------------------------------------------------


PRINTING = {
    "llamarig.engine.screen": "makes text printable first",
    "llamarig.cli": "prints two versions",
    "llamarig.commands.adopt": "prints a declaration, whose texts are escaped, and notes that it makes printable",
    "llamarig.commands.init": "prints names of files that it makes printable",
    "llamarig.commands.command_line": "prints one constant text in a signal handler",
    "llamarig.records.audit_report": "prints a schema, as a program of its own",
}


@pytest.mark.parametrize("name", [name for name in SOURCES if room(name) != "remote" and name not in PRINTING])
def test_text_reaches_the_screen_through_one_module(name: str) -> None:
    """Programs in remote/ print into the box's journal."""
    assert prints(SOURCES[name]) == []


def test_printing_is_found() -> None:
    source = "host.log('x')\nhost.log_styled('x', fg='red')\nlogger.warning('x')\nclick.echo('x')\nprint('x')\n"
    assert len(prints(source)) == 5
    assert prints("say(host, 'x', log_func=logger.warning)\n") == []


# --- module-level state -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SOURCES)
def test_no_module_holds_state(name: str) -> None:
    assert module_state(SOURCES[name]) == []


STATE = {
    "global": "X = 1\ndef f():\n    global X\n    X = 2\n",
    "an item": "X = {}\ndef f():\n    X['a'] = 1\n",
    "an item of an item": "X: dict = {}\ndef f():\n    X['a']['b'] = 1\n",
    "a method": "X = []\ndef f():\n    X.append(1)\n",
    "an attribute": "X = Thing()\ndef f():\n    X.value = 1\n",
    "a deleted item": "X = {}\ndef f():\n    del X['a']\n",
    "added in place": "X = Thing()\ndef f():\n    X.count += 1\n",
    "within a method": "X = set()\nclass A:\n    def f(self):\n        X.add(1)\n",
    "a cache": "from functools import cache\n@cache\ndef f():\n    return 1\n",
    "a cache with a size": "import functools\n@functools.lru_cache(maxsize=1)\ndef f():\n    return 1\n",
}


@pytest.mark.parametrize("source", STATE.values(), ids=STATE.keys())
def test_module_state_is_found(source: str) -> None:
    assert module_state(source) != []


def test_a_local_name_is_no_module_state() -> None:
    assert module_state("X = []\ndef f(X):\n    X.append(1)\ndef g():\n    X = []\n    X.append(1)\n") == []


# --- tasks/*.py -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path", [*sorted((REPOSITORY / "tasks").glob("*.py")), REPOSITORY / "deploy.py"], ids=lambda path: path.name
)
def test_scripts_only_call_the_package(path: Path) -> None:
    assert foreign_imports(path.read_text()) == set()


def test_a_foreign_import_is_found() -> None:
    assert foreign_imports("import json\nfrom llamarig.commands import bench\nfrom tests.box import hub\n") == {
        "json",
        "tests.box",
        "tests.box.hub",
    }
