"""Which Python runs our programs on a box: the distribution's, or where that will not do one that uv brings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tasks.planning import layout

OLDEST = (3, 9)
"""Debian 11's; the programs of tasks/files/ are written for it, and hf_transfer's wheels run on any from 3.8 on."""
SYSTEM = "/usr/bin/python3"
BROUGHT = "3.13.18"
"""What uv brings: a build of python-build-standalone, whose sha256 the pinned uv has compiled in."""
RELEASES = "https://github.com/astral-sh/python-build-standalone/releases/download"
"""Where uv takes it from when no mirror is declared."""


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
"""Of each processor a box may have, as `uname -m` names it."""
UV_IN_WHEEL = f"uv-{UV_VERSION}.data/scripts/uv"


@dataclass(frozen=True)
class Interpreter:
    """``version``: (3, 13), None where it does not run; ``complete``: it can make a venv and speak TLS."""

    version: tuple[int, int] | None = None
    complete: bool = False

    @property
    def is_usable(self) -> bool:
        """Whether our programs run on it."""
        return self.version is not None and self.version >= OLDEST and self.complete

    def __str__(self) -> str:
        if self.version is None:
            return "no Python that runs"
        name = "Python " + ".".join(str(number) for number in self.version)
        return name if self.complete else f"{name} without venv, ensurepip or ssl"


def not_to_be_had(system: Interpreter, source: str) -> str:
    """What the owner reads when no Python could be brought.

    :param source: the URL it was asked from
    """
    oldest = ".".join(str(number) for number in OLDEST)
    return (
        f"{SYSTEM} is {system}, llamarig's programs need {oldest} or newer with venv, and CPython {BROUGHT} could not "
        f"be had from {source}: install a newer python3 and python3-venv on the box, or give it a copy of "
        f'{RELEASES} with host_policy(python_mirror="https://..."); run deploy.py again then'
    )


def install_command(mirror: str | None) -> str:
    """The shell command by which the uv on the box brings its Python and makes it the one our programs run on."""
    mirrored = f" --mirror '{mirror}'" if mirror else ""
    return (
        # The box's own proxy and certificates, as for pip.
        "set -a; test -f /etc/environment && . /etc/environment; set +a; "
        f"UV_SYSTEM_CERTS=1 SSL_CERT_FILE={layout.CA_BUNDLE} {layout.UV} --no-cache --no-progress python install "
        f"--install-dir {layout.CPYTHON} --no-bin{mirrored} {BROUGHT} && "
        f'ln -sfn "$(ls -d {layout.CPYTHON}/cpython-{BROUGHT}-*/bin/python3)" {layout.PYTHON}'
    )
