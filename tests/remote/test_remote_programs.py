"""The programs in remote/ run on a box by themselves: what they import is copied there, and Python 3.9 can run them."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import llamarig
import pytest
from llamarig.engine.package_files import programs
from llamarig.render import layout

PACKAGE = Path(llamarig.__file__).parent
SOURCES = sorted((PACKAGE / "remote").rglob("*.py"))
IN_A_VENV = {"download": {"hf_transfer"}, "front": {"aiohttp", "multidict", "yarl"}}
"""Room -> modules of the virtual environment that its programs run in."""
PROGRAMS = programs()
COPIED = {target.removeprefix(f"{layout.PROGRAMS}/") for target in PROGRAMS}
"""Paths of the copied files below the directory that the programs are started in."""


def named(path: Path) -> str:
    return str(path.relative_to(PACKAGE))


def imported_modules(tree: ast.AST) -> set[str]:
    """Absolute names of the imported modules, wherever in the file; ``from a import b`` gives both a and a.b."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports are not used in remote/"
            found.add(str(node.module))
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
    return found


def file_of(module: str) -> str | None:
    """Path of a module of this package, relative to the directory that holds the package; None for any other name."""
    path = PACKAGE.parent / Path(*module.split("."))
    for candidate in (path.with_suffix(".py"), path / "__init__.py"):
        if candidate.exists():
            return str(candidate.relative_to(PACKAGE.parent))
    return None


@pytest.mark.parametrize("path", SOURCES, ids=named)
def test_every_import_is_copied_to_the_box_or_part_of_python(path: Path) -> None:
    room = path.relative_to(PACKAGE / "remote").parts[0]
    allowed = sys.stdlib_module_names | IN_A_VENV.get(room, set())
    for module in imported_modules(ast.parse(path.read_text())):
        if module.split(".")[0] != "llamarig":
            assert module.split(".")[0] in allowed, f"{named(path)} imports {module}, which no box has"
            continue
        assert module == "llamarig.remote" or module.startswith("llamarig.remote."), f"{named(path)} imports {module}"
        if (file := file_of(module)) is not None:
            assert file in COPIED, f"{named(path)} imports {module}, which is not copied to the box"


def test_all_of_remote_is_copied_with_the_packages_above_it() -> None:
    expected = {path for path in (PACKAGE / "remote").rglob("*") if path.suffix in (".py", ".cpp")}
    assert {str(path.relative_to(PACKAGE.parent)) for path in {*expected, PACKAGE / "__init__.py"}} == COPIED
    assert {Path(file.source) for file in PROGRAMS.values()} == {*expected, PACKAGE / "__init__.py"}


def test_the_package_itself_imports_nothing() -> None:
    """The programs run as llamarig.remote.x.y, so its __init__.py runs on the box too."""
    assert imported_modules(ast.parse((PACKAGE / "__init__.py").read_text())) == set()


@pytest.mark.parametrize("path", SOURCES, ids=named)
def test_every_program_is_written_for_python_3_9(path: Path) -> None:
    """The grammar, and the newer features that are not grammar and that this package would otherwise use."""
    tree = ast.parse(path.read_text(), feature_version=(3, 9))
    assert newer_features(tree) == []


def newer_features(tree: ast.Module) -> list[str]:
    """Uses of features that came after Python 3.9, each with its line."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            name = getattr(node.func, "id", getattr(node.func, "attr", ""))
            keywords = {keyword.arg for keyword in node.keywords}
            if name == "zip" and "strict" in keywords:
                found.append(f"line {node.lineno}: zip(strict=)")
            if name == "dataclass" and keywords & {"slots", "kw_only"}:
                found.append(f"line {node.lineno}: dataclass(slots=, kw_only=)")
            if name in ("isinstance", "issubclass") and _has_union(node.args[1]):
                found.append(f"line {node.lineno}: {name} of a union")
            if name == "file_digest":
                found.append(f"line {node.lineno}: hashlib.file_digest")
        elif isinstance(node, ast.ClassDef) and any(getattr(base, "id", "") == "Record" for base in node.bases):
            # Records evaluate their annotations at run time.
            found += [
                f"line {field.lineno}: a union in the annotation of a record"
                for field in node.body
                if isinstance(field, ast.AnnAssign) and _has_union(field.annotation)
            ]
    return found


def _has_union(expression: ast.expr) -> bool:
    return any(isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr) for node in ast.walk(expression))


@pytest.mark.parametrize(
    ("source", "feature"),
    [
        ("zip(a, b, strict=True)", "line 1: zip(strict=)"),
        ("@dataclass(slots=True)\nclass A: pass", "line 1: dataclass(slots=, kw_only=)"),
        ("isinstance(a, int | str)", "line 1: isinstance of a union"),
        ("class A(Record):\n    b: int | None", "line 2: a union in the annotation of a record"),
    ],
)
def test_newer_features_are_found(source: str, feature: str) -> None:
    assert newer_features(ast.parse(source)) == [feature]
