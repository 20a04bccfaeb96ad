"""A screen is recorded as a terminal shows it and drawn with its colours; the pictures in the tree are of this tree."""

from __future__ import annotations

import os
import re
import xml.etree.ElementTree as ElementTree
from html import unescape
from pathlib import Path

import pytest
from llamarig.items.all_items import ITEMS

from tests.pictures.__main__ import PICTURES
from tests.pictures.screen import COLUMNS, recorded, svg
from tests.readme_commands import COMMANDS

HERE = Path(__file__).parent
SVG = "{http://www.w3.org/2000/svg}"


def text_of(picture: str) -> str:
    """The picture's words, a line for each of its own."""
    lines: dict[float, list[tuple[float, str]]] = {}
    for element in ElementTree.fromstring(picture).iter(f"{SVG}text"):
        if element.get("clip-path"):
            lines.setdefault(float(element.attrib["y"]), []).append((float(element.attrib["x"]), element.text or ""))
    joined = ("".join(text for _, text in sorted(parts)) for _, parts in sorted(lines.items()))
    return "\n".join(line.replace("\N{NO-BREAK SPACE}", " ").rstrip() for line in joined)


def colours_of(picture: str) -> dict[str, str]:
    """Text -> its colour."""
    fills = dict(re.findall(r"^\s*\.([\w-]+) \{ fill: (#\w+)", picture, re.MULTILINE))
    return {
        (element.text or "").replace("\N{NO-BREAK SPACE}", " "): fills[element.attrib["class"]]
        for element in ElementTree.fromstring(picture).iter(f"{SVG}text")
        if element.attrib["class"] in fills
    }


def test_a_command_is_recorded_in_a_terminal_of_a_fixed_width(tmp_path: Path) -> None:
    program = (
        "import os, sys; print(sys.stdout.isatty(), sys.stdin.isatty(), os.get_terminal_size().columns, os.getcwd());"
        "print('\\033[31mred\\033[0m', file=sys.stderr, flush=True); sys.exit(3)"
    )
    screen = recorded(["python3", "-c", program], tmp_path, os.environ)
    assert screen.code == 3
    assert screen.text == f"True False {COLUMNS} {tmp_path}\n\x1b[31mred\x1b[0m\n"


def test_a_picture_has_text_colours_and_title() -> None:
    picture = svg("plain \x1b[32mgreen\x1b[0m & <more>\n\n  [box.lan] last\n", "pyinfra <x>", "it")
    assert text_of(picture).splitlines() == ["plain green & <more>", "", "  [box.lan] last"]
    colours = colours_of(picture)
    assert colours["green"] != colours["plain "]
    assert "pyinfra &lt;x&gt;" in picture.replace("&#160;", " ")


def test_a_long_line_is_wrapped_between_words() -> None:
    words = ["word"] * 40
    lines = text_of(svg(" ".join(words), "x", "it")).splitlines()
    assert len(lines) == 2
    assert " ".join(lines).split() == words
    assert max(map(len, lines)) <= COLUMNS


def test_a_picture_asks_no_other_server_for_anything() -> None:
    picture = svg("text", "x", "it")
    assert "url(" not in re.sub(r"url\(#[\w-]+\)", "", picture)
    assert "@font-face" not in picture


def test_the_same_screen_is_the_same_picture() -> None:
    assert svg("text", "x", "it") == svg("text", "x", "it")


def test_every_picture_is_of_a_documented_command() -> None:
    typed = {" ".join((".venv/bin/pyinfra", *arguments)) for arguments in PICTURES.values()}
    assert typed <= set(COMMANDS)


@pytest.mark.parametrize("name", PICTURES)
def test_a_recorded_picture_has_its_command_and_no_path_of_the_machine_it_was_recorded_on(name: str) -> None:
    picture = (HERE / f"{name}.svg").read_text()
    assert "pyinfra " + " ".join(PICTURES[name]) in unescape(picture).replace("\N{NO-BREAK SPACE}", " ")
    assert "box.lan" in text_of(picture)
    assert re.findall(r"/(?:root|home|tmp)/\S*", text_of(picture)) == []
    assert "url(" not in re.sub(r"url\(#[\w-]+\)", "", picture)


def test_there_are_no_other_pictures() -> None:
    assert {path.stem for path in HERE.glob("*.svg")} == set(PICTURES)


@pytest.mark.parametrize("name", ["dry", "deploy"])
def test_a_recorded_deploy_runs_the_items_of_this_tree(name: str) -> None:
    """After an item was added, renamed or removed: `.venv/bin/python -m tests.pictures`."""
    shown = text_of((HERE / f"{name}.svg").read_text())
    assert [item.name for item in ITEMS if item.name not in shown] == []
