"""CUDA builds that cannot be compiled on a box are refused; a release that is whole asks for no compiler.

pyinfra's own @fake connector plays the box; the compilers' answers are those of real ones (tests/facts/data/compilers).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tasks.operations import audit, compilers, once, packages
from tasks.operations.audit_run import RUN
from tasks.planning.packages import wanted_packages
from tasks.planning.release import release_path
from tasks.spec import declare as d
from tasks.spec.rig import Rig
from tasks.toolchain import toolchain
from tests.operations.fake_run import Call, run_of, told
from tests.operations.test_packages import box

DATA = Path(__file__).parents[1] / "facts/data/compilers"
SID = (DATA / "sid.txt").read_text()
# `pacman -Si gcc` as CachyOS lists it, on a box without a compiler.
FRESH_ARCH = "== glibc\nglibc 2.43\n\n== installed\n\n== offered\n16.1.1+r12+g1a2b3c4d5e6f-1\n"
MANIFEST = {"commit": "0c1e570", "flags": [], "files": {}}


@pytest.fixture(autouse=True)
def nothing_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(once, "_READ", {})


def rig(toolkit: str, built_by: str | None = None) -> Rig:
    serve = d.serve(port=8080, context=4096)
    build = d.build(name="cuda", architectures=("89-real",), cuda_toolkit=toolkit, built_by=built_by)
    return Rig.model_validate(
        d.rig(builds=[build], models=[d.model(name="m", repo="o/r", quant="Q4_K_M", build="cuda", serve=serve)])
    )


def asked(declared: Rig, compilers_of_box: str, toolkits: str = "", *, is_built: bool = False) -> list[str]:
    """What the box is told, up to the installation of packages on an Arch that lacks them all."""
    path = release_path(declared.builds[0], declared.models)
    release = f"release\t{path}\n" + (f"manifest\t{json.dumps(MANIFEST)}\n" if is_built else "")
    responses: dict[Any, Any] = {
        "GNU_LIBC_VERSION": compilers_of_box,
        "nvcc --version": toolkits,
        "manifest.json": release,
        **box("arch", []),
    }
    operations: list[Call] = [
        (compilers.suit_the_toolkits, {"rig": declared}),
        (packages.installed, {"wanted": wanted_packages(declared, "box")}),
    ]
    return told(*operations, responses=responses)


def installs(commands: list[str]) -> bool:
    return any("pacman --noconfirm -S" in command for command in commands)


@pytest.mark.parametrize(
    ("toolkit", "box_says", "words"),
    [
        ("13.0", FRESH_ARCH, ("glibc 2.43 and g++ 16, which its distribution would install", "CUDA 13.0", '"13.4"')),
        ("13.3", SID, ("glibc 2.43 and g++ 16, declared CUDA 13.3", "g++ 15 or older", '"13.4"')),
        ("/usr/local/cuda-13.1", SID, ("declared CUDA 13.1", "glibc before 2.42", '"13.4"')),
    ],
)
def test_a_pair_that_cannot_work(
    toolkit: str, box_says: str, words: tuple[str, ...], caplog: pytest.LogCaptureFixture
) -> None:
    version = f"== {toolkit}\nrelease {toolkit.rpartition('-')[2]}, V1"
    with pytest.raises(AssertionError, match="an operation failed"):
        asked(rig(toolkit), box_says, version)
    for word in ("[@fake]", "build cuda: this box has", *words):
        assert word in caplog.text


@pytest.mark.parametrize("toolkit", ["13.4", "13.5", "/usr/local/cuda-13.5"])
def test_a_pair_that_works(toolkit: str) -> None:
    assert installs(asked(rig(toolkit), SID, f"== {toolkit}\nrelease 13.5, V1"))


def test_a_release_that_is_whole_needs_no_compiler() -> None:
    commands = asked(rig("13.0"), SID, is_built=True)
    assert installs(commands)
    assert not [command for command in commands if "GNU_LIBC_VERSION" in command]


def test_what_another_box_builds_is_not_compiled_here() -> None:
    assert installs(asked(rig("13.0", built_by="big.lan"), SID))


def test_a_deploy_asks_before_it_installs_anything() -> None:
    responses = {"GNU_LIBC_VERSION": FRESH_ARCH, **box("arch", [])}
    declared = rig("13.0").to_json()
    with (
        pytest.raises(AssertionError) as failed,
        run_of(responses=responses, deploys=[toolchain], rig=declared),
    ):
        pass
    assert any("GNU_LIBC_VERSION" in command for command in failed.value.args[1])
    assert not installs(failed.value.args[1])


@pytest.mark.usefixtures("audit_of_its_own")
def test_an_audit_tells_it_with_the_release_that_is_missing() -> None:
    declared = rig("13.0")
    asking = {"rig": declared, "name": "Toolchain | CUDA toolkits and compilers", "_if": lambda: False}
    options = audit.Options(only=("llama.release", "deploy"))
    look = {"name": "Audit: looking", "rig": declared, "options": options}
    responses = {"GNU_LIBC_VERSION": SID}
    with run_of((compilers.suit_the_toolkits, asking), (audit.box_looked_at, look), responses=responses):
        (finding,) = RUN.found["@fake"]
    assert finding.check == "llama.release"
    assert finding.remedy.startswith("deploy.py refuses: CUDA toolkit, C library and compiler do not go together")
    assert 'declare cuda_toolkit="13.4"' in finding.remedy
    assert not finding.by_deploy
