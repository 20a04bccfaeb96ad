"""Which programs the tree starts on the machine that it is run on, as far as its sources say so.

What is found: the first word of every list or tuple that is written out and that reaches a call which starts a program
(`subprocess.run`, `Popen`, `run` of tests/box/host.py, ...), directly, through a variable of the same file, or as what
a function returns; the words of a `sh -c` that is written out; the names that `shutil.which` is asked for; and the
first words of the READMEs' commands, which tests run as printed.

What is not found: a name that is computed, and what a started program starts. The first is caught when a test comes
there: tests/apart.py holds every program that a test starts against this list.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from tests.readme_commands import DOCUMENTS, commands

ROOT = Path(__file__).resolve().parents[1]

STARTS = {"run", "Popen", "call", "check_call", "check_output", "_require", "execvp", "execvpe", "measure"}
"""Calls that start what the list begins with that is their first argument."""

_PROGRAM = re.compile(r"[a-z][a-z0-9_.+-]*")
_SHELL = {"echo", "test", "cd", "exit", "set", "ulimit", "command", "printf", "true", "exec", "if", "then", "fi", "for"}


COMPILES = "build_release.py"
"""Of llamarig.remote; its small functions are called here, but it compiles on boxes alone."""


def sources() -> list[Path]:
    """What runs on the control machine: the tests, and tasks/ without the programs that are sent to a box.

    Of those programs, the ones that tests import run here too. tests/gpu is for machines with a card, which its README
    equips.
    """
    tests = [path for path in (ROOT / "tests").rglob("*.py") if not path.is_relative_to(ROOT / "tests/gpu")]
    text = "\n".join(path.read_text() for path in tests)
    imported = set(re.findall(r"^from llamarig\.remote\.(\w+\.\w+) import", text, re.MULTILINE))
    for room, names in re.findall(r"^from llamarig\.remote\.(\w+) import ([\w, ]+)$", text, re.MULTILINE):
        imported |= {f"{room}.{name.strip()}" for name in names.split(",")}
    programs = ROOT / "tasks/llamarig/remote"
    here = [path for name in imported if (path := programs / f"{name.replace('.', '/')}.py").name != COMPILES]
    tasks = [path for path in (ROOT / "tasks").rglob("*.py") if not path.is_relative_to(programs)]
    return sorted([*tests, *tasks, *here])


def started() -> dict[str, list[str]]:
    """Program -> the files that start it."""
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
    """The programs that one file starts."""
    if not any(word in source for word in ("subprocess", "tests.box.host", "shutil")):
        return set()
    nodes = list(ast.walk(ast.parse(source)))
    reached, found = list[ast.expr](), set[str]()
    for node in nodes:
        if isinstance(node, ast.Call) and node.args:
            first, name = node.args[0], _last_name(node.func)
            if name in STARTS:
                reached.append(first)
            elif name == "which" and isinstance(first, ast.Constant):
                found.add(str(first.value))
        elif isinstance(node, ast.Return) and node.value is not None:
            reached.append(node.value)
    names = {name for expression in reached for name in _variables(expression)}
    written = dict[str, ast.expr]()
    """Variable -> the list that it is given, where that is written out."""
    for node in nodes:
        target, value = _given(node)
        if target in names and isinstance(value, ast.List | ast.Tuple):
            written[target] = value
            reached.append(value)
            reached += value.elts if isinstance(node, ast.For) else []
    return found | {word for expression in reached for word in _words(expression, written)}


def _variables(expression: ast.expr) -> Iterator[str]:
    """The variables that may begin with the program: the list itself, or what stands first in it, or after `sh -c`."""
    if isinstance(expression, ast.Name):
        yield expression.id
    if not isinstance(expression, ast.List | ast.Tuple):
        return
    words = list(_spread(expression.elts))
    by_shell = [word.value for word in words[:2] if isinstance(word, ast.Constant)] == ["sh", "-c"]
    for word in words:
        if isinstance(word, ast.Starred) and isinstance(word.value, ast.Name):
            yield word.value.id
        elif not isinstance(word, ast.Starred) and not by_shell:
            return


def _given(node: ast.AST) -> tuple[str, ast.expr | None]:
    """The variable that an assignment or a loop gives a value, and the value."""
    targets: list[ast.expr] = []
    if isinstance(node, ast.Assign):
        targets = node.targets
    elif isinstance(node, ast.AnnAssign | ast.AugAssign | ast.For):
        targets = [node.target]
    name = next((target.id for target in targets if isinstance(target, ast.Name)), "")
    return name, node.iter if isinstance(node, ast.For) else getattr(node, "value", None)


def _words(expression: ast.expr, written: Mapping[str, ast.expr]) -> Iterator[str]:
    """Programs that a list names: its first word, and those of a shell's own text."""
    if not isinstance(expression, ast.List | ast.Tuple):
        return
    words = list(_spread(expression.elts))
    for word in words:
        if isinstance(word, ast.Starred):
            # The program is the variable's first word, or, where a function made that, comes after it.
            if isinstance(word.value, ast.Name) and word.value.id in written:
                break
            continue
        if isinstance(word, ast.Constant) and _PROGRAM.fullmatch(str(word.value)):
            yield str(word.value)
        break
    texts = [str(word.value) if isinstance(word, ast.Constant) else "" for word in words[:3]]
    if texts[:2] == ["sh", "-c"]:
        yield from _of_shell(texts[-1])


def _spread(elements: Sequence[ast.expr]) -> Iterator[ast.expr]:
    """The elements, with `*("a", "b")` as the two words that it is."""
    for element in elements:
        if isinstance(element, ast.Starred) and isinstance(element.value, ast.List | ast.Tuple):
            yield from _spread(element.value.elts)
        else:
            yield element


def _of_shell(text: str) -> Iterator[str]:
    for command in re.split(r"[;&|\n]+|\$\(", text):
        words = command.split()
        if words and _PROGRAM.fullmatch(words[0]) and words[0] not in _SHELL:
            yield words[0]


def _last_name(function: ast.expr) -> str:
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
