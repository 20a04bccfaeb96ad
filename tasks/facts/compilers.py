"""The C library and the C++ compiler of a box, and what the CUDA toolkits that its owner installed compile with."""

from __future__ import annotations

import re
from collections.abc import Iterable

from pyinfra.api.facts import FactBase
from typing_extensions import override

from tasks.facts.sections import answers, ask
from tasks.planning.compilers import RSQRT_SINCE, Compilers, Limits, ToolkitHere

# What the distribution would install for build-essential or base-devel, by the package lists the box has already.
# Fedora's lists may have to be fetched first, so they are not read.
_OFFERED = (
    "apt-cache policy g++ | sed -n 's/^  Candidate: //p'; pacman -Si gcc | sed -n 's/^Version *: //p' | head -n 1"
)
_HEADERS = "grep -hE '__GNUC__ >|double +rsqrt[(]double x[)]' {0}/crt/host_config.h {0}/crt/math_functions.h"
# nvcc itself knows which compiler it calls: the default one, one beside it, or one that NVCC_CCBIN names.
_CALLED = "{0}/bin/nvcc -x c++ -E -Xcompiler -dM /dev/null | grep '__GNUC__ '"


class CompilersFound(FactBase[Compilers]):
    """In one command, which neither asks a mirror nor compiles anything."""

    @staticmethod
    @override
    def default() -> Compilers:
        return Compilers()

    @override
    def command(self, paths: Iterable[str]) -> str:
        """:param paths: of the CUDA toolkits that are declared by path"""
        asked = [
            ("glibc", "getconf GNU_LIBC_VERSION"),
            ("installed", "gcc -dumpversion"),
            ("offered", _OFFERED),
        ]
        for path in sorted(paths):
            asked.append((f"headers {path}", _HEADERS.format(f"{path}/include")))
            asked.append((f"called {path}", _CALLED.format(path)))
        return ask(asked)

    @override
    def process(self, output: list[str]) -> Compilers:
        said = answers(output)
        glibc = re.search(r"glibc (\d{1,3})\.(\d{1,3})", " ".join(said.get("glibc", [])))
        installed = _major(said.get("installed", []))
        paths = {name.partition(" ")[2] for name in said if name.startswith(("headers /", "called /"))}
        return Compilers(
            glibc=(int(glibc[1]), int(glibc[2])) if glibc else None,
            gcc=installed or _major(said.get("offered", [])),
            is_installed=installed is not None,
            toolkits={
                path: ToolkitHere(_limits(said.get(f"headers {path}", [])), _called(said.get(f"called {path}", [])))
                for path in sorted(paths)
            },
        )


def _major(lines: list[str]) -> int | None:
    """14 of ``14``, ``14.2.0``, ``4:14.2.0-1`` (Debian's candidate) and ``15.1.1+r7+gf36ec88aa85a-1`` (pacman's)."""
    found = re.match(r"(?:\d+:)?(\d{1,3})(?:[.+-]|$)", lines[0].strip()) if lines else None
    return int(found[1]) if found else None


def _limits(lines: list[str]) -> Limits | None:
    """Of ``#if __GNUC__ > 15`` and of the declaration of rsqrt, with what follows its parameters."""
    text = "\n".join(lines)
    newest = re.search(r"__GNUC__ > (\d{1,3})", text)
    rsqrt = re.search(r"rsqrt\(double x\)\s*(;?)", text)
    if newest is None or rsqrt is None:
        return None
    return Limits(int(newest[1]), RSQRT_SINCE if rsqrt[1] else None)


def _called(lines: list[str]) -> int | None:
    found = re.search(r"__GNUC__ (\d{1,3})\b", " ".join(lines))
    return int(found[1]) if found else None
