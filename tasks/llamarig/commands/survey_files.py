"""Write the files of a survey: one for each kind of hardware, and never one that is there."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pyinfra.api.host import Host
from pyinfra.api.inventory import Inventory

from llamarig.survey.destinations import Destination, Undeclared, destinations
from llamarig.survey.group_file import FileHead, file_text
from llamarig.survey.words import title

GROUP_DATA = Path("group_data")
"""Where pyinfra looks first: below the directory that it is run in."""
_COMMIT = "llama_cpp_commit"


@dataclass(frozen=True)
class Written:
    """A destination after it was written. ``problem``: why it could not be; empty where it was, or is there already."""

    destination: Destination
    problem: str = ""

    @property
    def file(self) -> str:
        """Its path, from the directory of the run."""
        return file_of(self.destination.name)


def file_of(group: str) -> str:
    """The path of a group's file."""
    return str(GROUP_DATA / f"{group}.py")


def write_files(boxes: Sequence[Undeclared], taken: Iterable[str]) -> list[Written]:
    """Write a file for each kind of hardware of these boxes.

    :param taken: names of groups that declare something, whose files stay as they are
    """
    members = Counter(group for box in boxes for group in box.groups)
    return [_written(to) for to in destinations(boxes, frozenset(taken), members)]


def _written(to: Destination) -> Written:
    if to.exists:
        return Written(to)
    head = FileHead(title(to.hardware, to.proposal), to.hosts, _names_commit(GROUP_DATA / "all.py"))
    path = Path(file_of(to.name))
    try:
        path.parent.mkdir(exist_ok=True)
        with path.open("x", encoding="utf-8") as file:
            file.write(file_text(to.proposal, head))
    except OSError as error:
        return Written(to, f"{path} cannot be written ({error.strerror or error}): run this where you can write it")
    return Written(to)


def _names_commit(path: Path) -> bool:
    try:
        return f"{_COMMIT} =" in path.read_text(encoding="utf-8")
    except (OSError, ValueError):
        return False


def taken_names(inventory: Inventory, inventory_file: Path) -> set[str]:
    """Names that no new file gets: of files in both places where pyinfra looks, and of groups that have data."""
    places = (GROUP_DATA, inventory_file.parent / "group_data")
    files = {path.stem for place in places for path in place.glob("*.py")}
    return files | {name for name, data in inventory.group_data.items() if data} | {"all"}


def owners_groups(host: Host, inventory_file: Path) -> tuple[str, ...]:
    """The groups that the inventory lists a host in, without those that pyinfra adds: all, @ssh, and the file's name.

    A file home.py that lists the host nowhere but in ``home`` means that group.
    """
    groups = [group for group in dict.fromkeys(host.groups) if group != "all" and group.isidentifier()]
    named = tuple(group for group in groups if group != inventory_file.stem)
    return named or tuple(groups)
