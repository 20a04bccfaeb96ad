"""The Python that our programs run on: the distribution's if it is new enough, else one that uv installs."""

from __future__ import annotations

import hashlib
import http.client
import io
import os
import urllib.request
import zipfile
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyinfra.api.command import StringCommand
from pyinfra.context import host
from pyinfra.facts.server import Arch

from llamarig.declare.rig import Rig
from llamarig.engine.control_machine import ControlMachine
from llamarig.engine.item import Commands, Difference, Item, Query, Seen, query
from llamarig.engine.refuse import refuse
from llamarig.engine.run import ask
from llamarig.engine.screen import say
from llamarig.engine.upload import upload
from llamarig.facts.files import LastLines
from llamarig.facts.interpreters import OLDEST, Interpreter, Interpreters
from llamarig.items.packages import Packages
from llamarig.remote.shared.durable import replace_file
from llamarig.render import layout

SYSTEM_PYTHON = "/usr/bin/python3"
UV_PYTHON = "3.13.18"
"""The version that uv installs: a build of python-build-standalone, whose sha256 is compiled into the pinned uv."""
PYTHON_DOWNLOADS = "https://github.com/astral-sh/python-build-standalone/releases/download"
"""Where uv downloads it if no mirror is declared."""


@dataclass(frozen=True)
class Wheel:
    """A file on PyPI, and the sha256 that PyPI gives for it."""

    url: str
    sha256: str


UV_VERSION = "0.13.8"
_FILES = "https://files.pythonhosted.org/packages"
UV_WHEELS: Mapping[str, Wheel] = {
    "x86_64": Wheel(
        f"{_FILES}/c5/32/52ee34636aea1ab3f8baeeae1c3599461b8cddfb379862cc72ac61b8d91c/"
        f"uv-{UV_VERSION}-py3-none-manylinux_2_17_x86_64.manylinux2014_x86_64.whl",
        "e18a57b8b352eb7c8feb317b9f6f533c8f0ad9673fd6cf34bbe3cf1a9f6a8984",
    ),
    "aarch64": Wheel(
        f"{_FILES}/9e/f0/d989ac5fcebf83f1c8c5d78974f27788e8364945969eb646f5d0db35d924/"
        f"uv-{UV_VERSION}-py3-none-manylinux_2_17_aarch64.manylinux2014_aarch64.musllinux_1_1_aarch64.whl",
        "0b3e8b1a4f5e405e31e2ff33de8af4744831e9f7338539671efbd8c3c94e791d",
    ),
}
"""Processor architecture, as `uname -m` prints it -> the wheel of uv."""
UV_IN_WHEEL = f"uv-{UV_VERSION}.data/scripts/uv"


_TIMEOUT_S = 60
_LARGEST_WHEEL = 256 << 20
"""Bytes; that of uv has about 25 MB."""


class UvError(Exception):
    """uv could not be downloaded to the control machine; the message names the reason."""


class Python(Item):
    """The fixed path of our programs' Python is one that is new enough."""

    name = "Python"
    needs = (Packages,)

    def queries(self, rig: Rig, here: ControlMachine) -> Iterable[Query[Any]]:
        """The versions of our Python and of the distribution's, and the processor's architecture."""
        yield query(Interpreters, paths=[layout.PYTHON, SYSTEM_PYTHON])
        yield query(Arch)

    def differences(self, rig: Rig, seen: Seen) -> list[Difference]:
        """One if our Python is missing or too old; a refusal if there is nothing to replace it with."""
        ours, system = _interpreters(seen)
        expected = f"Python {'.'.join(map(str, OLDEST))} or newer"
        if ours.is_usable:
            return []
        processor = seen.get(Arch)
        if system.is_usable or processor in UV_WHEELS:
            return [Difference(layout.PYTHON, expected, str(ours))]
        refusal = (
            f"{SYSTEM_PYTHON} is {system}, and llamarig has no uv for {processor or 'an unknown processor'}: install "
            f"python3 {'.'.join(map(str, OLDEST))} or newer and python3-venv"
        )
        return [Difference.refusal_of(layout.PYTHON, expected, refusal)]

    def fix(self, rig: Rig, seen: Seen, differences: list[Difference]) -> Commands:
        """Link the distribution's Python, or install one with uv."""
        _, system = _interpreters(seen)
        if system.is_usable:
            yield StringCommand(f"mkdir -p {layout.BIN} && ln -sfn {SYSTEM_PYTHON} {layout.PYTHON}")
            return
        yield StringCommand(f"mkdir -p {layout.CPYTHON} {layout.BIN}")
        say(host, f"{SYSTEM_PYTHON} is {system}: uv installs another Python")
        try:
            uv = uv_program(UV_WHEELS[seen.get(Arch)])
        except UvError as error:
            yield from refuse(f"{SYSTEM_PYTHON} is {system}, and {error}")
            return
        yield upload(uv, layout.UV, mode="755")
        log = f"{layout.CPYTHON}/install.log"
        yield StringCommand(f"{{ {install_command(rig.host.python_mirror)}; }} >{log} 2>&1; rm -f {layout.UV}")
        if not ask(Interpreters, paths=[layout.PYTHON])[layout.PYTHON].is_usable:
            lines = ask(LastLines, path=log, count=12)
            yield from refuse(install_failed(system, rig.host.python_mirror or PYTHON_DOWNLOADS), lines)


def _interpreters(seen: Seen) -> tuple[Interpreter, Interpreter]:
    """The Python at our path, and the distribution's."""
    found = seen.get(Interpreters, paths=[layout.PYTHON, SYSTEM_PYTHON])
    return found.get(layout.PYTHON, Interpreter()), found.get(SYSTEM_PYTHON, Interpreter())


def install_failed(system: Interpreter, source: str) -> str:
    """The message when uv could not install a Python.

    :param source: the URL that it was to be downloaded from
    """
    oldest = ".".join(str(number) for number in OLDEST)
    return (
        f"{SYSTEM_PYTHON} is {system}, llamarig's programs need {oldest} or newer with venv, and CPython {UV_PYTHON} "
        f"could not be downloaded from {source}: install a newer python3 and python3-venv on the box, or declare a "
        f'mirror of {PYTHON_DOWNLOADS} with host_policy(python_mirror="https://..."); then run deploy.py again'
    )


def install_command(mirror: str | None) -> str:
    """The shell command with which uv installs its Python on the box and links it to the path of our programs."""
    mirrored = f" --mirror '{mirror}'" if mirror else ""
    return (
        # The box's own proxy and certificates, as for pip.
        "set -a; test -f /etc/environment && . /etc/environment; set +a; "
        f"UV_SYSTEM_CERTS=1 SSL_CERT_FILE={layout.CA_BUNDLE} {layout.UV} --no-cache --no-progress python install "
        f"--install-dir {layout.CPYTHON} --no-bin{mirrored} {UV_PYTHON} && "
        f'ln -sfn "$(ls -d {layout.CPYTHON}/cpython-{UV_PYTHON}-*/bin/python3)" {layout.PYTHON}'
    )


def uv_program(wheel: Wheel) -> bytes:
    """The uv program of a wheel, downloaded to the control machine and cached there.

    The box may not reach PyPI, and has no tool to unpack a wheel.

    :raises UvError: if it cannot be downloaded, or has another sha256 than the pinned one
    """
    name = wheel.url.rpartition("/")[2]
    cached = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "llamarig" / name
    content = cached.read_bytes() if cached.exists() else b""
    if hashlib.sha256(content).hexdigest() != wheel.sha256:
        try:
            with urllib.request.urlopen(wheel.url, timeout=_TIMEOUT_S) as answer:
                content = answer.read(_LARGEST_WHEEL)
        except (OSError, http.client.HTTPException) as error:
            raise UvError(f"{wheel.url} cannot be downloaded to the control machine ({error})") from None
        if (found := hashlib.sha256(content).hexdigest()) != wheel.sha256:
            raise UvError(f"{wheel.url} has sha256 {found}, pinned is {wheel.sha256}")
        with suppress(OSError):  # a cache that cannot be written, or a full disk: it is downloaded again
            cached.parent.mkdir(parents=True, exist_ok=True)
            replace_file(cached, content)
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return archive.read(UV_IN_WHEEL)
