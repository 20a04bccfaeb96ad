"""The table EVIDENCE.md, and the refusals in the sources that it has to cover."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from llamarig.declare.refused_flags import REFUSED_FLAGS
from llamarig.declare.risky_flags import RISKY_FLAGS

HERE = Path(__file__).parent
TABLE = HERE / "EVIDENCE.md"
PACKAGE = HERE.parents[1] / "tasks/llamarig"
SCANNED = (
    *("declare", "lints", "render", "items", "placement"),
    *("records/shard_sets.py", "engine/hub_headers.py", "remote/shared/gguf_header.py"),
)
"""In items/, what is compared (`Difference.refusal_of`); their errors end up there, too."""
_ROW = re.compile(r"^\| (?P<where>[^|]+?) \| (?P<what>[^|]+?) \| (?P<evidence>.+?) \|$", re.MULTILINE)
_SOURCE = re.compile(r"source `(?P<path>[\w/.+-]+):(?P<line>\d+)` `(?P<text>[^`]+)`")
_RUN = re.compile(r"run `(?P<arguments>[^`]*)` (?P<ends>exits|serves) `(?P<text>[^`]+)`")
_TEST = re.compile(r"test `(?P<path>[\w/.]+)(?:::(?P<name>\w+))?`")


@dataclass(frozen=True)
class Row:
    """One row: where the refusal is, what is refused, and the evidence."""

    where: str
    what: str
    evidence: str

    @property
    def sources(self) -> list[tuple[str, int, str]]:
        """Lines of llama.cpp's pinned source: path, number, and a text that is in the line."""
        return [(one["path"], int(one["line"]), one["text"]) for one in _SOURCE.finditer(self.evidence)]

    @property
    def runs(self) -> list[tuple[str, bool, str]]:
        """Arguments of llama-server, whether it then serves, and a text of its output, or of /slots if it serves."""
        return [(one["arguments"], one["ends"] == "serves", one["text"]) for one in _RUN.finditer(self.evidence)]

    @property
    def tests(self) -> list[tuple[str, str]]:
        """Tests with the real program: path, and name or an empty text."""
        return [(one["path"], one["name"] or "") for one in _TEST.finditer(self.evidence)]

    @property
    def is_evidence(self) -> bool:
        """Whether it names something that can be looked up, or says that the rule is llamarig's own and why."""
        named = bool(self.sources or self.runs or self.tests)
        return named or re.match(r"(own|ran|PyPI): \S+( \S+){3,}$", self.evidence) is not None


@dataclass(frozen=True)
class Refusal:
    """A refusal in the sources. ``where``: as in the table; ``text``: the source of the statement."""

    where: str
    text: str


def rows() -> list[Row]:
    """The rows of the table, without its head."""
    found = [Row(**match.groupdict()) for match in _ROW.finditer(TABLE.read_text())]
    return [row for row in found if row.where != "where" and not row.where.startswith("---")]


def refusals() -> Iterator[Refusal]:
    """Every refusal: of a declaration, a lint, a rendering or an item, and of a flag by its name."""
    for directory in SCANNED:
        place = PACKAGE / directory
        for path in sorted(place.rglob("*.py")) if place.is_dir() else [place]:
            yield from _refusals_of(path)
    yield from (Refusal("REFUSED_FLAGS", flag) for flag in REFUSED_FLAGS)
    yield from (Refusal("RISKY_FLAGS", flag.name) for flag in RISKY_FLAGS)


def _refusals_of(path: Path) -> Iterator[Refusal]:
    name = str(path.relative_to(PACKAGE))
    for function in ast.walk(ast.parse(path.read_text())):
        if isinstance(function, ast.FunctionDef):
            for node in ast.walk(function):
                if (
                    (_is_raised(node) and not name.startswith("items/"))
                    or _is_refusing_lint(node)
                    or _is_compared(node)
                ):
                    yield Refusal(f"{name} {function.name}", ast.unparse(node))


def _is_raised(node: ast.AST) -> bool:
    return isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call)


def _is_refusing_lint(node: ast.AST) -> bool:
    keywords = node.keywords if isinstance(node, ast.Call) else []
    severities = [one.value for one in keywords if one.arg == "severity"]
    return any(isinstance(one, ast.Constant) and one.value == "refusal" for one in severities)


def _is_compared(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "refusal_of"


def covers(row: Row, refusal: Refusal) -> bool:
    """Whether a row is about a refusal: `*` covers all of its place, several texts each their own."""
    if row.where != refusal.where:
        return False
    if refusal.where.isupper():
        return refusal.text in re.findall(r"`([^`]+)`", row.what)
    return row.what.startswith("*") or any(text in refusal.text for text in re.findall(r"`([^`]+)`", row.what))
