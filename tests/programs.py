"""Scan the sources for the programs that they start on the control machine.

Found: the first word of every literal list or tuple that reaches a call which starts a program (`subprocess.run`,
`Popen`, `run` of tests/box/host.py, ...), directly, through a variable of the same file, or as a function's return
value; the commands of a literal `sh -c`; the arguments of `shutil.which`; and the first word of each command in the
READMEs, which tests run as printed.

Not found: computed names, and programs that a started program starts. tests/isolation.py detects the former at run
time: it compares every program that a test starts with this list.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from tests.readme_commands import DOCUMENTS, commands

ROOT = Path(__file__).resolve().parents[1]

STARTS = {"run", "Popen", "call", "check_call", "check_output", "_require_quietly", "execvp", "execvpe", "measure"}
"""Functions whose first argument is the command line of a program that they start."""

_PROGRAM = re.compile(r"[a-z][a-z0-9_.+-]*")
_SHELL_BUILTINS = {
    "echo",
    "test",
    "cd",
    "exit",
    "set",
    "ulimit",
    "command",
    "printf",
    "true",
    "exec",
    "if",
    "then",
    "fi",
    "for",
}


COMPILES = ("build_release.py", "web_pages.py")
"""Left out: tests import their helper functions, but only boxes run their compilers."""


def sources() -> list[Path]:
    """Sources of what runs on the control machine: the tests, and tasks/ without the programs that are sent to a box.

    Of those programs, the ones that tests import run here too. tests/gpu is left out: its README lists what to install
    on the machine with a GPU.
    """
    tests = [path for path in (ROOT / "tests").rglob("*.py") if not path.is_relative_to(ROOT / "tests/gpu")]
    text = "\n".join(path.read_text() for path in tests)
    imported = set(re.findall(r"^from llamarig\.remote\.(\w+\.\w+) import", text, re.MULTILINE))
    for package, names in re.findall(r"^from llamarig\.remote\.(\w+) import ([\w, ]+)$", text, re.MULTILINE):
        imported |= {f"{package}.{name.strip()}" for name in names.split(",")}
    remote = ROOT / "tasks/llamarig/remote"
    run_locally = [path for name in imported if (path := remote / f"{name.replace('.', '/')}.py").name not in COMPILES]
    tasks = [path for path in (ROOT / "tasks").rglob("*.py") if not path.is_relative_to(remote)]
    return sorted([*tests, *tasks, *run_locally])


def started() -> dict[str, list[str]]:
    """Map each program to the files that start it."""
    found: dict[str, list[str]] = {}
    for document, text in DOCUMENTS.items():
        for line in commands(text):
            if _PROGRAM.fullmatch(word := line.split()[0]):
                found.setdefault(word, [document])
    for path in sources():
        for name in sorted(started_by(path.read_text())):
            found.setdefault(name, []).append(str(path.relative_to(ROOT)))
    return found


def started_by(source: str) -> set[str]:
    """Return the programs that a source file starts."""
    if not any(word in source for word in ("subprocess", "tests.box.host", "shutil")):
        return set()
    nodes = list(ast.walk(ast.parse(source)))
    commands, found = list[ast.expr](), set[str]()
    for node in nodes:
        if isinstance(node, ast.Call) and node.args:
            first, name = node.args[0], _last_name(node.func)
            if name in STARTS:
                commands.append(first)
            elif name == "which" and isinstance(first, ast.Constant):
                found.add(str(first.value))
        elif isinstance(node, ast.Return) and node.value is not None:
            commands.append(node.value)
    names = {name for expression in commands for name in _variables(expression)}
    literals = dict[str, ast.expr]()
    """Variable -> the literal list that is assigned to it."""
    for node in nodes:
        target, value = _assignment(node)
        if target in names and isinstance(value, ast.List | ast.Tuple):
            literals[target] = value
            commands.append(value)
            commands += value.elts if isinstance(node, ast.For) else []
    return found | {program for expression in commands for program in _programs(expression, literals)}


def _variables(expression: ast.expr) -> Iterator[str]:
    """Variables that may hold the program: the list itself, its first element, or the one after `sh -c`."""
    if isinstance(expression, ast.Name):
        yield expression.id
    if not isinstance(expression, ast.List | ast.Tuple):
        return
    words = list(_flattened(expression.elts))
    by_shell = [word.value for word in words[:2] if isinstance(word, ast.Constant)] == ["sh", "-c"]
    for word in words:
        if isinstance(word, ast.Starred) and isinstance(word.value, ast.Name):
            yield word.value.id
        elif not isinstance(word, ast.Starred) and not by_shell:
            return


def _assignment(node: ast.AST) -> tuple[str, ast.expr | None]:
    """The variable that an assignment or a loop sets, and its value."""
    targets: list[ast.expr] = []
    if isinstance(node, ast.Assign):
        targets = node.targets
    elif isinstance(node, ast.AnnAssign | ast.AugAssign | ast.For):
        targets = [node.target]
    name = next((target.id for target in targets if isinstance(target, ast.Name)), "")
    return name, node.iter if isinstance(node, ast.For) else getattr(node, "value", None)


def _programs(expression: ast.expr, literals: Mapping[str, ast.expr]) -> Iterator[str]:
    """Programs that a command line names: its first word, and the commands of a literal `sh -c`."""
    if not isinstance(expression, ast.List | ast.Tuple):
        return
    words = list(_flattened(expression.elts))
    for word in words:
        if isinstance(word, ast.Starred):
            # A literal list in a variable begins with the program; a list from a function is a prefix before it.
            if isinstance(word.value, ast.Name) and word.value.id in literals:
                break
            continue
        if isinstance(word, ast.Constant) and _PROGRAM.fullmatch(str(word.value)):
            yield str(word.value)
        break
    texts = [str(word.value) if isinstance(word, ast.Constant) else "" for word in words[:3]]
    if texts[:2] == ["sh", "-c"]:
        yield from _shell_commands(texts[-1])


def _flattened(elements: Sequence[ast.expr]) -> Iterator[ast.expr]:
    """The elements, with the literal `*("a", "b")` replaced by its two words."""
    for element in elements:
        if isinstance(element, ast.Starred) and isinstance(element.value, ast.List | ast.Tuple):
            yield from _flattened(element.value.elts)
        else:
            yield element


def _shell_commands(text: str) -> Iterator[str]:
    for command in re.split(r"[;&|\n]+|\$\(", text):
        words = command.split()
        if words and _PROGRAM.fullmatch(words[0]) and words[0] not in _SHELL_BUILTINS:
            yield words[0]


def _last_name(function: ast.expr) -> str:
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
