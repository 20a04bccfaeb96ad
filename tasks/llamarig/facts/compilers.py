"""The C library and the C++ compiler of a box, and the compilers that its installed CUDA toolkits accept."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from pyinfra.api.facts import FactBase

from llamarig.facts.cuda_toolkits import Version
from llamarig.facts.output import parse_sections, sections_command

# The version that build-essential or base-devel would install, by the package lists that are on the box. Fedora's lists
# may have to be fetched first, so they are not read.
_OFFERED = (
    "apt-cache policy g++ | sed -n 's/^  Candidate: //p'; pacman -Si gcc | sed -n 's/^Version *: //p' | head -n 1"
)
_HEADERS = "grep -hE '__GNUC__ >|double +rsqrt[(]double x[)]' {0}/crt/host_config.h {0}/crt/math_functions.h"
# nvcc calls the default compiler, one beside itself, or the one named by NVCC_CCBIN.
_CALLED = "{0}/bin/nvcc -x c++ -E -Xcompiler -dM /dev/null | grep '__GNUC__ '"


@dataclass(frozen=True)
class Limits:
    """Versions of GCC and glibc that a CUDA toolkit's headers compile with."""

    newest_gcc: int | None = None
    """Newest major version of GCC that crt/host_config.h accepts; None where unknown."""
    glibc_before: Version | None = None
    """Oldest glibc that it does not compile with; None where every known one works."""


RSQRT_SINCE = (2, 42)
"""The first glibc that declares rsqrt, as ``noexcept``. A crt/math_functions.h without it does not compile.

llama.cpp #19100 and #23205; from CUDA 13.2 on the header uses _NV_RSQRT_SPECIFIER.
"""


@dataclass(frozen=True)
class ToolkitHere:
    """A toolkit installed by the owner, as its headers and its nvcc describe it.

    These are more reliable than NVIDIA's version number: a distribution may patch the headers, or configure nvcc with
    another compiler (Debian's calls an older g++).
    """

    limits: Limits | None = None
    """None where its headers cannot be read."""
    gcc: int | None = None
    """Major version of the GCC that its nvcc calls; None where unknown."""


@dataclass(frozen=True)
class Compilers:
    """Compiler and C library of a box; None where unknown."""

    glibc: Version | None = None
    gcc: int | None = None
    """Major version of the installed GCC, else of the one that the distribution would install."""
    is_installed: bool = False
    """Whether ``gcc`` is installed."""
    toolkits: Mapping[str, ToolkitHere] = field(default_factory=dict)
    """Path -> toolkit, for the paths of the fact's command."""


class CompilersFound(FactBase[Compilers]):
    """glibc, GCC and CUDA toolkits of a box. Contacts no mirror and compiles nothing.

    Output::

        == glibc
        glibc 2.36

        == installed
        12

        == offered
        4:12.2.0-3

        == headers /usr/local/cuda-13.0
        #if __GNUC__ > 15
        extern __DEVICE_FUNCTIONS_DECL__ __device_builtin__ double                 rsqrt(double x);

        == called /usr/local/cuda-13.0
        #define __GNUC__ 12
    """

    default = Compilers

    def command(self, paths: Iterable[str]) -> str:
        """:param paths: of CUDA toolkits"""
        sections = {"glibc": "getconf GNU_LIBC_VERSION", "installed": "gcc -dumpversion", "offered": _OFFERED}
        for path in sorted(paths):
            sections[f"headers {path}"] = _HEADERS.format(f"{path}/include")
            sections[f"called {path}"] = _CALLED.format(path)
        return sections_command(sections)

    def process(self, output: list[str]) -> Compilers:
        sections = parse_sections(output)
        glibc = re.search(r"glibc (\d{1,3})\.(\d{1,3})", " ".join(sections["glibc"]))
        installed = _major(sections["installed"])
        paths = {name.partition(" ")[2] for name in sections if name.startswith(("headers /", "called /"))}
        return Compilers(
            glibc=(int(glibc[1]), int(glibc[2])) if glibc else None,
            gcc=installed or _major(sections["offered"]),
            is_installed=installed is not None,
            toolkits={
                path: ToolkitHere(_limits(sections[f"headers {path}"]), _called(sections[f"called {path}"]))
                for path in sorted(paths)
            },
        )


def _major(lines: list[str]) -> int | None:
    """Major version of ``14``, ``14.2.0``, ``4:14.2.0-1`` (Debian) or ``15.1.1+r7+gf36ec88aa85a-1`` (pacman)."""
    found = re.match(r"(?:\d+:)?(\d{1,3})(?:[.+-]|$)", lines[0].strip()) if lines else None
    return int(found[1]) if found else None


def _limits(lines: list[str]) -> Limits | None:
    """Limits from ``#if __GNUC__ > 15`` and from the declaration of rsqrt, which may end in an exception specifier."""
    text = "\n".join(lines)
    newest = re.search(r"__GNUC__ > (\d{1,3})", text)
    rsqrt = re.search(r"rsqrt\(double x\)\s*(;?)", text)
    if newest is None or rsqrt is None:
        return None
    return Limits(int(newest[1]), RSQRT_SINCE if rsqrt[1] else None)


def _called(lines: list[str]) -> int | None:
    found = re.search(r"__GNUC__ (\d{1,3})\b", " ".join(lines))
    return int(found[1]) if found else None
