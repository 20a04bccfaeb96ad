"""The Python our programs run on: one link on the box, to the distribution's where that will do."""

from __future__ import annotations

import hashlib
import io
import os
import urllib.request
import zipfile
from pathlib import Path

from pyinfra.api.command import FileUploadCommand, StringCommand
from pyinfra.api.operation import operation
from pyinfra.context import host
from pyinfra.facts.server import Arch

from tasks.facts.files import LastLines
from tasks.facts.interpreters import Interpreters
from tasks.operations import Commands
from tasks.operations.once import read_once
from tasks.operations.refuse import refuse
from tasks.planning import layout
from tasks.planning.interpreter import (
    RELEASES,
    SYSTEM,
    UV_IN_WHEEL,
    UV_WHEELS,
    Interpreter,
    Wheel,
    install_command,
    not_to_be_had,
)
from tasks.spec.rig import Rig

LOOKED_AT = [layout.PYTHON, SYSTEM]
_TIMEOUT_S = 60


class UvError(Exception):
    """uv could not be had on this machine; the message says why."""


@operation()
def linked(rig: Rig) -> Commands:
    """A Python that is new enough answers at layout.PYTHON; uv brings one where the distribution has none."""
    found = read_once(Interpreters, paths=LOOKED_AT)
    if found.get(layout.PYTHON, Interpreter()).is_usable:
        host.noop(f"{layout.PYTHON} runs")
        return
    system = found.get(SYSTEM, Interpreter())
    if system.is_usable:
        yield StringCommand(f"ln -sfn {SYSTEM} {layout.PYTHON}")
        return
    yield StringCommand(f"mkdir -p {layout.CPYTHON}")
    host.log(f"{SYSTEM} is {system}: uv brings another")
    processor = host.get_fact(Arch)
    if processor not in UV_WHEELS:
        yield from refuse(f"there is no uv for {processor} here: install python3 3.9 or newer and python3-venv")
        return
    try:
        uv = uv_program(UV_WHEELS[processor])
    except UvError as error:
        yield from refuse(f"{SYSTEM} is {system}, and {error}")
        return
    yield FileUploadCommand(io.BytesIO(uv), layout.UV)
    said = f"{layout.CPYTHON}/install.log"
    yield StringCommand(
        f"chmod 755 {layout.UV}; {{ {install_command(rig.host.python_mirror)}; }} >{said} 2>&1; rm -f {layout.UV}"
    )
    if not host.get_fact(Interpreters, paths=[layout.PYTHON])[layout.PYTHON].is_usable:
        lines = host.get_fact(LastLines, path=said, count=12)
        yield from refuse(not_to_be_had(system, rig.host.python_mirror or RELEASES), lines)


def uv_program(wheel: Wheel) -> bytes:
    """The uv of a wheel, fetched here once: the box may have no way to PyPI, and nothing to unpack a wheel with.

    :raises UvError: when it cannot be fetched, or is not what is pinned
    """
    name = wheel.url.rpartition("/")[2]
    kept = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "llamarig" / name
    content = kept.read_bytes() if kept.exists() else b""
    if hashlib.sha256(content).hexdigest() != wheel.sha256:
        try:
            with urllib.request.urlopen(wheel.url, timeout=_TIMEOUT_S) as answer:
                content = answer.read()
        except OSError as error:
            raise UvError(f"{wheel.url} cannot be fetched on this machine ({error})") from None
        if (found := hashlib.sha256(content).hexdigest()) != wheel.sha256:
            raise UvError(f"{wheel.url} has sha256 {found}, pinned {wheel.sha256}")
        kept.parent.mkdir(parents=True, exist_ok=True)
        part = kept.with_suffix(f".{os.getpid()}.part")
        part.write_bytes(content)
        part.replace(kept)
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return archive.read(UV_IN_WHEEL)
