"""A deploy refuses a CUDA build that cannot be compiled on the box before it installs anything.

The output of the compilers is that of real boxes (tests/facts/data/compilers).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from llamarig import declare as d
from llamarig.declare.rig import Rig
from llamarig.items.compilers import CompilableToolkits, CompilableToolkitsInstalled
from llamarig.items.packages import Packages
from llamarig.render.release import release_path

from tests.engine.fake_run import OperationFailedError, converged_commands
from tests.items.package_managers import package_replies

DATA = Path(__file__).parents[1] / "facts/data/compilers"
SID = (DATA / "sid.txt").read_text()
# `pacman -Si gcc` as CachyOS lists it, on a box without a compiler.
FRESH_ARCH = "== glibc\nglibc 2.43\n\n== installed\n\n== offered\n16.1.1+r12+g1a2b3c4d5e6f-1\n"
MANIFEST = {"commit": "0c1e570", "flags": [], "files": {}}


def rig(toolkit: str, built_by: str | None = None) -> Rig:
    serve = d.serve(port=8080, context=4096)
    build = d.build(name="cuda", architectures=("89-real",), cuda_toolkit=toolkit, built_by=built_by)
    return Rig.model_validate(
        d.rig(builds=[build], models=[d.model(name="m", repo="o/r", quant="Q4_K_M", build="cuda", serve=serve)])
    )


def commands(declared: Rig, compilers: str, toolkits: str = "", *, is_built: bool = False) -> list[str]:
    """Commands of a deploy up to the installation of packages, on an Arch that lacks them all."""
    path = release_path(declared.builds[0], declared.models)
    release = f"release\t{path}\n" + (f"manifest\t{json.dumps(MANIFEST)}\n" if is_built else "")
    replies: dict[Any, Any] = {
        **package_replies("arch", []),
        "GNU_LIBC_VERSION": compilers,
        "nvcc --version": toolkits,
        "manifest.json": release,
    }
    return converged_commands([CompilableToolkits(), Packages(), CompilableToolkitsInstalled()], declared, replies)


def installs(sent: list[str]) -> bool:
    return any("pacman --noconfirm -S" in command for command in sent)


@pytest.mark.parametrize(
    ("toolkit", "compilers", "words"),
    [
        ("13.0", FRESH_ARCH, ("glibc 2.43 and g++ 16, which its distribution would install", "CUDA 13.0", '"13.4"')),
        ("13.3", SID, ("CUDA 13.3", "glibc 2.43 and g++ 16", "g++ 15 or older", '"13.4"')),
        ("/usr/local/cuda-13.1", SID, ("CUDA 13.1", "glibc before 2.42", '"13.4"')),
    ],
)
def test_a_pair_that_cannot_work_is_refused_before_anything_is_installed(
    toolkit: str, compilers: str, words: tuple[str, ...], caplog: pytest.LogCaptureFixture
) -> None:
    version = f"== {toolkit}\nrelease {toolkit.rpartition('-')[2]}, V1"
    with pytest.raises(OperationFailedError) as failed:
        commands(rig(toolkit), compilers, version)
    assert any("GNU_LIBC_VERSION" in command for command in failed.value.commands)
    assert not installs(failed.value.commands)
    for word in ("[@fake]", "build cuda: CUDA", *words):
        assert word in caplog.text


@pytest.mark.parametrize("toolkit", ["13.4", "13.5", "/usr/local/cuda-13.5"])
def test_a_pair_that_works(toolkit: str) -> None:
    assert installs(commands(rig(toolkit), SID, f"== {toolkit}\nrelease 13.5, V1"))


def test_a_release_that_is_complete_needs_no_compiler() -> None:
    assert installs(commands(rig("13.0"), SID, is_built=True))


def test_a_release_that_another_box_builds_is_not_compiled_here() -> None:
    assert installs(commands(rig("13.0", built_by="big.lan"), SID))


def test_the_compiler_that_was_installed_is_compared_again() -> None:
    """A fresh box's package lists may not know yet which compiler comes."""
    assert CompilableToolkitsInstalled.needs == (CompilableToolkits, Packages)
