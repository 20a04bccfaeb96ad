"""`llamarig init`: a repository of the owner's own, which depends on the llamarig that made it."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from llamarig.commands.installed_from import UnknownOriginError, installed_from
from llamarig.commands.new_repository import (
    GITIGNORE,
    example_inventory,
    inventory,
    next_steps,
    pyproject,
    readme,
    script,
)
from llamarig.commands.packaged_files import groups, packaged, scripts
from llamarig.remote.shared.printable import printable

_EXPECTED = ("inventory", "group_data", "tasks/llamarig")
"""What a clone has."""
_OF_TESTS = "rehearsal"
_HOST = re.compile(r"([A-Za-z0-9._-]+@)?[A-Za-z0-9_\[][A-Za-z0-9._:%\[\]-]*")
_EPILOG = """\
examples:
  llamarig init boxes                       an empty inventory
  llamarig init boxes --host box.lan        with this box in it, for tasks/survey.py to declare
  llamarig init boxes --example rtx4070     with the declaration of one of the groups that come with llamarig
  llamarig init boxes --from ~/llamarig     with the inventory, groups, lock, plans and timings of an edited clone
"""


class InitError(Exception):
    """A repository that cannot be made; the message says why and what to do."""


def init(arguments: Sequence[str]) -> int:
    """Make the repository; print what to do next.

    :returns: the exit code
    """
    options = _parser().parse_args(arguments)
    directory = Path(options.directory)
    try:
        files, kept, names = _files(directory, options.example, options.clone, options.host)
        _write(directory, files)
    except (InitError, UnknownOriginError) as error:
        print(f"llamarig init: {printable(str(error))}", file=sys.stderr)
        return 1
    print(f"{printable(options.directory)}: {len(files)} files")
    for line in [*kept, *(f"  {step}" for step in next_steps(options.directory, names, options.host))]:
        print(printable(line))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="llamarig init",
        description="Make a repository of your own for your boxes. Nothing is overwritten.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("directory", metavar="DIR", help="a new or empty directory")
    chosen = parser.add_mutually_exclusive_group()
    chosen.add_argument("--example", metavar="GROUP", help=f"one of {', '.join(groups())}")
    chosen.add_argument("--from", dest="clone", metavar="CLONE", help="a clone of llamarig with your inventory")
    parser.add_argument(
        "--host",
        metavar="HOST",
        action="append",
        default=[],
        help="a box to list in the inventory, or USER@HOST; again",
    )
    return parser


def _files(
    directory: Path, example: str | None, clone: str | None, hosts: Sequence[str]
) -> tuple[Mapping[str, bytes], list[str], list[str]]:
    """Path in the repository -> content; sentences about what was left out; names of its groups.

    :raises InitError: for a group or a clone that does not exist, and a host that cannot be one
    """
    origin = installed_from()
    name = directory.resolve().name
    files: dict[str, bytes] = {
        "pyproject.toml": pyproject(name, origin).encode(),
        "README.md": readme(name, origin).encode(),
        ".gitignore": GITIGNORE.encode(),
        "config.py": packaged("config.py").read_bytes(),
        **{one: script(packaged(one).read_text(encoding="utf-8")).encode() for one in scripts()},
    }
    for host in hosts:
        if not _HOST.fullmatch(host):
            raise InitError(f"--host {host}: is no host: write its name or address, or USER@HOST")
    if clone is not None and hosts:
        raise InitError("--from takes the clone's inventory, which lists the hosts: leave --host out")
    if clone is not None:
        moved, left = _of_clone(Path(clone))
        names = [Path(path).stem for path in moved if path.startswith("group_data/") and path != "group_data/all.py"]
        return {**files, **moved}, left, names
    files["group_data/all.py"] = packaged("group_data/all.py").read_bytes()
    if example is None:
        return {**files, "inventory/home.py": inventory(hosts).encode()}, [], []
    if example not in groups():
        raise InitError(f"--example {example}: there is no such group: choose one of {', '.join(groups())}")
    files["inventory/home.py"] = example_inventory(example, hosts).encode()
    files[f"group_data/{example}.py"] = packaged(f"group_data/{example}.py").read_bytes()
    return files, [], [example]


def _of_clone(clone: Path) -> tuple[dict[str, bytes], list[str]]:
    """The owner's files of a clone, which stays as it is; and what of it was not taken.

    :raises InitError: where it is no clone, or holds no inventory
    """
    missing = [name for name in _EXPECTED if not (clone / name).is_dir()]
    if missing:
        raise InitError(f"--from {clone}: is not a clone of llamarig (it has no {missing[0]}/): name the clone")
    found = {
        str(path.relative_to(clone)): path.read_bytes()
        for path in (*_visible(clone / "inventory"), *_visible(clone / "group_data"))
        if not path.name.startswith(_OF_TESTS) and path.name != "README.md"
    }
    if not any(path.startswith("inventory/") and path.endswith(".py") for path in found):
        raise InitError(f"--from {clone}: its inventory/ lists no boxes: leave --from out")
    left = [
        f"{name} of the clone is edited, and was not taken: compare it with {packaged(name)}"
        for name in ("config.py", *scripts())
        if (clone / name).is_file() and (clone / name).read_bytes() != packaged(name).read_bytes()
    ]
    return found, [*left, f"{clone} is left as it is: delete it once you have deployed from here"]


def _visible(directory: Path) -> Iterator[Path]:
    for path in sorted(directory.rglob("*")):
        hidden = any(part.startswith(".") or part == "__pycache__" for part in path.relative_to(directory).parts)
        if path.is_file() and not hidden:
            yield path


def _write(directory: Path, files: Mapping[str, bytes]) -> None:
    """Write the files into a directory that is new, empty, or holds a git repository without files.

    :raises InitError: where there is something else, or it cannot be written
    """
    try:
        there = [path.name for path in directory.iterdir() if path.name != ".git"] if directory.exists() else []
        if there:
            raise InitError(f"{directory} is not empty ({sorted(there)[0]}): name a new directory")
        for name, content in files.items():
            path = directory / name
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("xb") as file:
                file.write(content)
    except OSError as error:
        raise InitError(f"{error.filename or directory}: {error.strerror or error}") from None
