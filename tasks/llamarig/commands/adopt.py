"""`llamarig adopt`: the declaration of a llama-server that is started in another way, from its command line or file."""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

from llamarig.adopt.adopted_model import Adopted, Known, adopted_model, model_path
from llamarig.adopt.input_format import launches_of_text, launches_of_words, nothing_found
from llamarig.adopt.launch import Found
from llamarig.adopt.report import declaration_text, notes_text
from llamarig.adopt.router import with_models
from llamarig.adopt.systemd_unit import Read
from llamarig.records.shard_sets import all_shards
from llamarig.remote.plan.model_headers import read_whole_header
from llamarig.remote.shared.gguf_header import Header, HeaderError, combined_header
from llamarig.remote.shared.printable import printable

MOST_BYTES = 1 << 20
"""Of an input; scripts and units are far shorter, and a model's file is no input."""
_EPILOG = """\
examples:
  llamarig adopt start.sh                     a script, also one for Windows
  llamarig adopt llama.service                a systemd unit, with the drop-ins beside it
  llamarig adopt docker-compose.yml           a compose file, a llama-swap configuration, or a preset file (models.ini)
  llamarig adopt 'llama-server -m x.gguf'     a command line, in quotes or as its words
  systemctl cat llama | llamarig adopt -      any of these on standard input

What a box runs now: tasks/adopt.py.
"""


class InputError(Exception):
    """An input that cannot be read; the message says why and what to do."""


def adopt(arguments: Sequence[str]) -> int:
    """Print the declarations to standard output and what became of each flag to standard error.

    :returns: the exit code, 1 where the input holds no llama-server
    """
    own = _own_options(arguments)
    options = _parser().parse_args(arguments[:own])
    words = [word for word in arguments[own:] if word != "--"] or ["-"]
    try:
        found, directory = _read(words)
        found = with_models(found, _reader(directory))
    except InputError as error:
        print(f"llamarig adopt: {printable(str(error))}", file=sys.stderr)
        return 1
    adopted: list[Adopted] = []
    headers: list[Header | None] = []
    for launch in found.launches:
        headers.append(_header(model_path(launch), directory))
        known = Known(headers[-1], options.layers, options.build or "")
        adopted.append(adopted_model(launch, known, {one.name for one in adopted}))
    if adopted:
        print(declaration_text(adopted), end="")
    with warnings.catch_warnings():
        # Of an owner's regular expression: what may be meant otherwise, the lints say.
        warnings.simplefilter("ignore", FutureWarning)
        lines = list(notes_text(adopted, nothing_found(found).notes, headers))
    for line in lines:
        print(printable(line), file=sys.stderr)
    names = {launch.name: one.name for launch, one in zip(found.launches, adopted, strict=True)}
    if len(adopted) > 1 and (first := names.get(found.default)):
        print(printable(f'{first} is started first: default="{first}" in your rig'), file=sys.stderr)
    return 0 if adopted else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="llamarig adopt",
        description="Print the declaration of a llama-server that is started in another way: Python to standard "
        "output, what became of each flag to standard error.",
        usage="llamarig adopt [--layers N] [--build NAME] FILE | - | COMMAND",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--layers", type=int, help="how many layers the model has, where its file is not at hand")
    parser.add_argument("--build", help="name of the build of your box that serves it")
    return parser


def _own_options(arguments: Sequence[str]) -> int:
    """How many words are options of `llamarig adopt`; all others are the input, whose flags begin with a dash, too."""
    at = 0
    while at < len(arguments):
        name, equals, _ = arguments[at].partition("=")
        if name in ("-h", "--help"):
            at += 1
        elif name in ("--layers", "--build"):
            at += 1 if equals else 2
        else:
            break
    return at


def _read(words: list[str]) -> tuple[Found, Path]:
    """The launches of an input, and the directory that its relative paths start from.

    :raises InputError: for a file that cannot be read
    """
    here = Path.cwd()
    if len(words) > 1:
        return launches_of_words(words), here
    (word,) = words
    path = Path(word)
    if word == "-":
        return launches_of_text(
            _limited(sys.stdin.buffer.read(MOST_BYTES + 1), "standard input"), "", _reader(here)
        ), here
    if _is_file(path):
        text = _limited(_bytes(path), word)
        drop_ins = sorted(path.with_name(f"{path.name}.d").glob("*.conf")) if path.suffix == ".service" else []
        texts = tuple(_limited(_bytes(drop_in), str(drop_in)) for drop_in in drop_ins)
        return launches_of_text(text, path.name, _reader(path.resolve().parent), texts), path.resolve().parent
    if any(character.isspace() for character in word.strip()):
        return launches_of_text(word, ".sh", _reader(here)), here
    raise InputError(f"{word}: there is no such file; a command line is given in quotes, or as its words")


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:
        return False  # a command line is too long for a name


def _bytes(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(MOST_BYTES + 1)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}") from None


def _limited(data: bytes, name: str) -> str:
    if data.startswith(b"GGUF"):
        raise InputError(f"{name} is a model: give the command line, script, unit or file that starts its server")
    if len(data) > MOST_BYTES:
        raise InputError(f"{name} is larger than {MOST_BYTES >> 20} MiB, which no script, unit or configuration is")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise InputError(f"{name} is no text in UTF-8") from None


def _reader(directory: Path) -> Read:
    """Reads files that an input names, as text; None where that is not possible."""

    def read(name: str) -> str | None:
        path = directory / name
        try:
            return _limited(_bytes(path), name) if name and _is_file(path) else None
        except InputError:
            return None

    return read


def _header(path: str, directory: Path) -> Header | None:
    """The header of a model whose files are on this machine."""
    if not path or not _is_file(directory / path):
        return None
    try:
        return combined_header([read_whole_header(directory / shard)[1] for shard in all_shards(path)])
    except (OSError, HeaderError):
        return None
