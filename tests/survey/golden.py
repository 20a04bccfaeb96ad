"""What tasks/survey.py writes and says of each box: `.venv/bin/python -m tests.survey.golden` writes recorded/ anew."""

from __future__ import annotations

from pathlib import Path

from llamarig.survey.destinations import Destination, Undeclared, destinations
from llamarig.survey.group_file import FileHead, file_text
from llamarig.survey.propose import proposal
from llamarig.survey.screen import new_box
from llamarig.survey.words import title

from tests.survey.hardware import BOXES, hardware

HERE = Path(__file__).parent / "recorded"


def surveyed(name: str) -> tuple[Undeclared, Destination]:
    """The box, and where its declaration goes where its group in the inventory has no file."""
    found = hardware(name)
    box = Undeclared(f"{name.replace('_', '-')}.lan", (), found, proposal(found))
    (to,) = destinations([box], (), {})
    return box, to


def written(name: str) -> str:
    """The text of the file."""
    box, to = surveyed(name)
    return file_text(to.proposal, FileHead(title(box.hardware, to.proposal), to.hosts))


def block(name: str) -> str:
    """The lines about the box that end the run."""
    box, to = surveyed(name)
    first, *more = new_box(box, to, file=f"group_data/{to.name}.py", inventory="inventory/home.py")
    return "".join(f"{line}\n" for line in (f"{box.host}: {first}", *(f"    {line}" for line in more)))


def main() -> None:
    HERE.mkdir(exist_ok=True)
    for name in BOXES:
        (HERE / f"{name}.py").write_text(written(name))
    (HERE / "blocks.txt").write_text("".join(map(block, BOXES)))


if __name__ == "__main__":
    main()
