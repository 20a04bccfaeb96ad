"""Find groups of an inventory file that pyinfra misreads, without running the file."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_LIST = 'a list, {group} = ["box.lan"] or {group} = [("box.lan", {{"ssh_user": "root"}})]'


@dataclass(frozen=True)
class Misread:
    """A variable that may be meant as a group and that pyinfra does not read as one. ``line`` counts from 1.

    ``is_split``: pyinfra reads it as a group whose hosts are single letters, or ends with a traceback.
    """

    line: int
    group: str
    why: str
    is_split: bool = False

    def __str__(self) -> str:
        return f"{self.line}: {self.group} {self.why}"


def misread_groups(inventory: Path) -> list[Misread]:
    """Top-level variables of the file that hold something other than a list of hosts; empty if there is no file.

    pyinfra ignores a string or a dictionary. It reads the first item of a tuple as the list of hosts: the letters of a
    string.
    """
    try:
        tree = ast.parse(inventory.read_text(encoding="utf-8"))
    except (OSError, ValueError, SyntaxError):
        return []  # pyinfra reads the file next and reports the error
    return [
        Misread(line, group, f"is {kind}: write {_LIST.format(group=group)}", isinstance(value, ast.Tuple))
        for line, group, value in _assignments(tree)
        if (kind := _kind(value)) is not None and not group.startswith("_")
    ]


def _assignments(tree: ast.Module) -> Iterator[tuple[int, str, ast.expr]]:
    for node in tree.body:
        if isinstance(node, ast.Assign):
            yield from ((node.lineno, to.id, node.value) for to in node.targets if isinstance(to, ast.Name))
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value is not None:
            yield node.lineno, node.target.id, node.value


def _kind(value: ast.expr) -> str | None:
    """What a value is instead of a group; None if it may be one."""
    if _is_text(value):
        return "a string"
    if isinstance(value, ast.Dict | ast.Set):
        return "in curly brackets"
    if isinstance(value, ast.Tuple) and (not value.elts or _is_text(value.elts[0])):
        return "a tuple"
    if isinstance(value, ast.List) and any(isinstance(item, ast.Dict | ast.List | ast.Set) for item in value.elts):
        return "a list of something other than names and (name, data)"
    return None


def _is_text(value: ast.expr) -> bool:
    return isinstance(value, ast.JoinedStr) or (isinstance(value, ast.Constant) and isinstance(value.value, str))
