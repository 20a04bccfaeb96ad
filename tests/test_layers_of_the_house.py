"""Data flows one way: what is declared and what is computed know nothing of boxes, networks, clocks or chance."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

TASKS = Path(__file__).resolve().parents[1] / "tasks"

OUTSIDE_WORLD = {
    *("pyinfra", "pyinfra_cli", "gevent", "paramiko", "huggingface_hub", "hf_transfer"),
    *("http", "urllib", "socket", "ssl", "ftplib", "asyncio", "requests", "httpx", "aiohttp", "subprocess"),
    *("time", "datetime", "random", "secrets", "uuid"),
}


def imports(source: str, package: str = "") -> set[str]:
    """Every module a source imports, wherever in it, by its full dotted name."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            module = ".".join([*above, *([node.module] if node.module else [])])
            found.add(module)
            found.update(f"{module}.{alias.name}" for alias in node.names)
    return found


def imports_of(path: Path) -> set[str]:
    return imports(path.read_text(), ".".join(path.parent.relative_to(TASKS.parent).parts))


def sources(*folders: str) -> list[Path]:
    return [path for folder in folders for path in sorted((TASKS / folder).rglob("*.py"))]


def _named(path: Path) -> str:
    return str(path.relative_to(TASKS.parent))


def _within(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")


@pytest.mark.parametrize("path", sources("spec", "planning"), ids=_named)
def test_spec_and_planning_know_nothing_of_the_outside_world(path: Path) -> None:
    assert {module for module in imports_of(path) if module.split(".")[0] in OUTSIDE_WORLD} == set()


@pytest.mark.parametrize("path", sources("spec"), ids=_named)
def test_spec_imports_nothing_of_ours_but_spec(path: Path) -> None:
    ours = {module for module in imports_of(path) if _within(module, "tasks")}
    assert {module for module in ours if not _within(module, "tasks.spec")} == set()


@pytest.mark.parametrize("path", sources("planning"), ids=_named)
def test_planning_imports_nothing_of_ours_but_spec_and_planning(path: Path) -> None:
    ours = {module for module in imports_of(path) if _within(module, "tasks") and module != "tasks"}
    assert {m for m in ours if not _within(m, "tasks.spec") and not _within(m, "tasks.planning")} == set()


@pytest.mark.parametrize("path", sources("facts", "operations"), ids=_named)
def test_facts_and_operations_never_import_a_deploy(path: Path) -> None:
    deploys = {f"tasks.{module.stem}" for module in TASKS.glob("*.py") if module.stem != "__init__"} | {"deploy"}
    assert {module for module in imports_of(path) if any(_within(module, name) for name in deploys)} == set()


@pytest.mark.parametrize("path", sources("facts"), ids=_named)
def test_facts_never_import_operations(path: Path) -> None:
    assert {m for m in imports_of(path) if _within(m, "tasks.operations") or _within(m, "pyinfra.operations")} == set()


def test_every_kind_of_import_is_seen() -> None:
    source = "import a.b\nfrom c import d\ndef f():\n    import e\n    from . import g\n    from ..h import i\n"
    assert imports(source, "x.y") == {"a.b", "c", "c.d", "e", "x.y", "x.y.g", "x.h", "x.h.i"}
