"""Determines what a compiled llama.cpp requires of a box: architecture, instruction sets, version of the C library."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

from llamarig.remote.shared.instruction_sets import sets_used


def needs(objects: Path, binaries: Path) -> dict[str, Any]:
    """Requirements, for the manifest.

    :param objects: CMake's build directory, made for Ninja
    :param binaries: directory of the programs and libraries made in it
    """
    return {
        "machine": os.uname().machine,
        "instruction_sets": _instruction_sets(_machine_options(objects)),
        "glibc": _newest_glibc(binaries),
        "made_on": system(),
    }


def _machine_options(objects: Path) -> list[str]:
    """``-m`` options with which C and C++ files were compiled, each once: ``-march=native``, ``-mavx2``.

    With GGML_CPU_ALL_VARIANTS, the CPU code is compiled into a library for each generation of processors, and llama.cpp
    loads the one that fits: these libraries are left out.
    """
    listed = json.loads(_output(["ninja", "-C", str(objects), "-t", "compdb"]))
    options: dict[str, None] = {}
    for entry in listed:
        words = shlex.split(entry["command"])
        compiles = entry["file"].endswith((".c", ".cpp", ".cc")) and "-c" in words
        if compiles and not re.search(r"ggml-cpu-\w+\.dir/", entry.get("output", "")):
            options.update(dict.fromkeys(word for word in words if re.match(r"-m(arch|cpu|tune)=|-m[a-z0-9.]+$", word)))
    return list(options)


def _instruction_sets(options: list[str]) -> list[str]:
    return sets_used(_output(["c++", *options, "-dM", "-E", "-x", "c++", os.devnull]))


def _newest_glibc(binaries: Path) -> str:
    files = [str(path) for path in sorted(binaries.iterdir()) if not path.is_symlink()]
    found = re.findall(r"\bGLIBC_(\d+)\.(\d+)", _output(["readelf", "--version-info", "--wide", *files]))
    return "{}.{}".format(*max((int(major), int(minor)) for major, minor in found)) if found else ""


def system() -> str:
    """PRETTY_NAME of the distribution."""
    text = Path("/etc/os-release").read_text()
    match = re.search(r'^PRETTY_NAME="?([^"\n]*)', text, re.MULTILINE)
    return match[1] if match else ""


def _output(command: list[str]) -> str:
    return subprocess.run(
        command, check=True, capture_output=True, text=True, errors="replace", env={**os.environ, "LC_ALL": "C"}
    ).stdout
