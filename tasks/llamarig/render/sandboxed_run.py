"""Programs that parse untrusted files, run as the service user in the sandbox of a model's unit, and waited for."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence

from llamarig.declare.build import Build
from llamarig.render import layout
from llamarig.render.escaping import path_list
from llamarig.render.sandbox import reading_lines, sandbox_lines

DRY_RUN_MIB = 8192
"""RAM of a dry run, which allocates no weights: contexts of every card, and room for a header of any model."""
READING_MIB = 1024
"""RAM for reading a header: 256 MiB of it at most (remote/plan/model_headers.py), and what is made of them."""
_NO_NETWORK = "IPAddressDeny=any"


def dry_run_sandbox(build: Build, release: str, read: Sequence[str], write: Sequence[str] = ()) -> list[str]:
    """Properties with which a program of a release runs as its server would, without a network.

    :param release: its directory
    :param read: paths that it reads besides: headers, the draft model, the library of simulated GPUs
    :param write: directories of the service user that it writes to
    """
    lines = [line for line in sandbox_lines(build, release, read) if not line.startswith("#")]
    return [*lines, *(f"BindPaths={path_list([path])}" for path in write), _NO_NETWORK, *_limits(DRY_RUN_MIB)]


def reading_sandbox(read: Sequence[str], write: Sequence[str] = ()) -> list[str]:
    """Properties with which our own programs read headers: no release, no device and no network.

    :param read: paths of the files
    :param write: directories of the service user that they write to
    """
    lines = [line for line in reading_lines(read) if not line.startswith("#")]
    binds = [f"BindPaths={path_list([path])}" for path in write]
    return [*lines, *binds, "PrivateNetwork=yes", _NO_NETWORK, *_limits(READING_MIB)]


def _limits(mib: int) -> list[str]:
    return [f"MemoryMax={mib}M", "MemorySwapMax=0"]


def sandboxed(properties: Iterable[str], words: Sequence[str], environment: Mapping[str, str], seconds: int) -> str:
    """Shell command that runs a command in a sandbox and has its output and exit status.

    :param properties: of ``dry_run_sandbox`` or ``reading_sandbox``
    :param seconds: after which systemd ends it
    """
    wanted = [
        f"User={layout.USER}",
        f"WorkingDirectory={layout.PROGRAMS}",
        f"RuntimeMaxSec={seconds}",
        *properties,
    ]
    variables = [f"{name}={value}" for name, value in sorted(environment.items())]
    # --wait learns of the end over D-Bus. An exit by a signal or the time limit is an exit status of 1.
    run = ["systemd-run", "--quiet", "--pipe", "--wait", "--collect", "--service-type=exec"]
    return shlex.join([*run, *(f"--property={value}" for value in wanted), "--", "/usr/bin/env", *variables, *words])


def our_program(name: str, arguments: Sequence[str]) -> list[str]:
    """The command line of a program of llamarig.remote, which is run in the directory of our programs."""
    return [layout.PYTHON, "-B", "-m", f"llamarig.remote.{name}", *arguments]
