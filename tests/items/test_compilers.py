"""Which CUDA toolkits compile on which boxes: the table of limits, and refusals with their remedies.

``compilers/*.txt`` in tests/facts/data are answers of the fact's own command, each in a Debian with the toolkits of all
locks unpacked from their wheels; with Debian's own nvidia-cuda-toolkit in the last one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from llamarig.declare.build import CUDA_FROM_PYPI, Build
from llamarig.facts.compilers import Compilers, CompilersFound, Limits, ToolkitHere
from llamarig.items.compilers import FROM_PYPI, compile_differences, oldest_that_compiles

from tests.render.golden_units import rigs

DATA = Path(__file__).parents[1] / "facts/data/compilers"
ARCH = Compilers((2, 43), 16, is_installed=True)


def answered(name: str) -> Compilers:
    return CompilersFound().process((DATA / f"{name}.txt").read_text().splitlines())


def cuda(toolkit: str, **cmake: str) -> Build:
    return Build(name="cuda", architectures=("89-real",), cuda_toolkit=toolkit, cmake=cmake)


def refusal(toolkit: str, box: Compilers, **cmake: str) -> str:
    """The refusal of a build with this toolkit on this box; empty if it is accepted."""
    known = {f"/usr/local/cuda-{version}": (13, int(version[3:])) for version in CUDA_FROM_PYPI} | {"/usr": (12, 4)}
    return "; ".join(map(str, compile_differences([cuda(toolkit, **cmake)], box, known)))


@pytest.mark.parametrize("debian", ["bookworm", "trixie", "sid"])
def test_the_table_has_the_limits_in_the_wheels_headers(debian: str) -> None:
    toolkits = answered(debian).toolkits
    assert {name: toolkits[f"/usr/local/cuda-{name}"].limits for name in CUDA_FROM_PYPI} == dict(FROM_PYPI)


def test_every_lock_is_in_the_table() -> None:
    assert tuple(FROM_PYPI) == CUDA_FROM_PYPI


@pytest.mark.parametrize(
    ("debian", "glibc", "gcc"), [("bookworm", (2, 36), 12), ("trixie", (2, 41), 14), ("sid", (2, 43), 16)]
)
def test_the_compilers_of_a_debian_are_read(debian: str, glibc: tuple[int, int], gcc: int) -> None:
    box = answered(debian)
    assert (box.glibc, box.gcc, box.is_installed) == (glibc, gcc, True)
    assert {toolkit.gcc for path, toolkit in box.toolkits.items() if path != "/usr"} == {gcc}


@pytest.mark.parametrize(
    ("glibc", "gcc", "oldest"),
    [
        ((2, 36), 12, "13.0"),  # Debian 12
        ((2, 41), 14, "13.0"),  # Debian 13
        ((2, 39), 13, "13.0"),  # Ubuntu 24.04
        ((2, 43), 15, "13.2"),  # Ubuntu 26.04
        ((2, 43), 16, "13.4"),  # Arch and its kin
        ((2, 41), 16, "13.4"),
        ((2, 43), None, "13.2"),
        (None, None, "13.0"),
        ((2, 43), 17, None),
    ],
)
def test_the_smallest_version_that_compiles(glibc: tuple[int, int] | None, gcc: int | None, oldest: str | None) -> None:
    assert oldest_that_compiles(glibc, gcc) == oldest


def test_a_pair_that_cannot_work_names_both_and_the_smallest_version_that_does() -> None:
    assert refusal("13.0", ARCH) == (
        "build cuda: CUDA 13.0 does not compile with glibc 2.43 and g++ 16, expected glibc before 2.42 and "
        'g++ 15 or older; declare cuda_toolkit="13.4", the oldest version from PyPI that compiles there'
    )
    to_come = refusal("13.2", Compilers((2, 43), 16))
    assert "CUDA 13.2 does not compile with glibc 2.43 and g++ 16, which its distribution would install" in to_come
    assert 'declare cuda_toolkit="13.4"' in to_come
    assert '{"CMAKE_CUDA_HOST_COMPILER": "/usr/bin/g++-15"}' in to_come


def test_a_glibc_that_is_too_new_has_no_compiler_as_remedy() -> None:
    message = refusal("13.1", Compilers((2, 43)))
    assert "CUDA 13.1 does not compile with glibc 2.43, expected" in message
    assert 'declare cuda_toolkit="13.2"' in message
    # Another compiler would not help.
    assert "CMAKE_CUDA_HOST_COMPILER" not in message


def test_a_compiler_too_new_for_all_versions_has_an_older_compiler_as_remedy() -> None:
    message = refusal("13.5", Compilers((2, 44), 17, is_installed=True))
    assert "declare cuda_toolkit" not in message
    assert (
        'install g++ 16 beside the other and declare cmake={"CMAKE_CUDA_HOST_COMPILER": "/usr/bin/g++-16"}' in message
    )


@pytest.mark.parametrize(
    ("toolkit", "box"),
    [
        ("13.0", Compilers((2, 36), 12, is_installed=True)),
        ("13.0", Compilers((2, 41), 15)),
        ("13.2", Compilers((2, 43), 15)),
        ("13.5", ARCH),
        ("13.0", Compilers()),
        ("/usr", ARCH),  # 12.4, whose headers could not be read
        ("/nowhere", ARCH),  # of no known version
    ],
)
def test_a_pair_that_is_not_known_to_fail_is_accepted(toolkit: str, box: Compilers) -> None:
    assert refusal(toolkit, box) == ""


DISTRIBUTIONS = {
    **{name: answered(name) for name in ("bookworm", "trixie", "sid")},
    "ubuntu 24.04": Compilers((2, 39), 13),
    "ubuntu 26.04": Compilers((2, 43), 15),
    "arch": ARCH,
    "fedora 43": Compilers((2, 42), 15),
}


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_every_group_compiles_on_every_distribution_of_the_readme(distribution: str) -> None:
    box = DISTRIBUTIONS[distribution]
    for group, rig in rigs().items():
        assert compile_differences(rig.builds, box, {}) == [], group
        # PTX needs a driver as new as the toolkit; machine code (-real) runs on 580.
        cuda_builds = [build for build in rig.builds if build.backend == "cuda"]
        assert all(name.endswith("-real") for build in cuda_builds for name in build.architectures), group


def test_a_toolkit_by_path_goes_by_its_own_headers_and_its_own_compiler() -> None:
    path = "/usr/local/cuda-13.0"

    def box(gcc: int | None, *limits: Any) -> Compilers:
        return Compilers((2, 43), 16, True, {path: ToolkitHere(Limits(*limits) if limits else None, gcc)})

    # Without limits in its headers it counts as NVIDIA's original of its version.
    assert "glibc before 2.42" in refusal(path, box(None))
    assert "glibc before 2.42" in refusal(path, Compilers((2, 43)))
    # Its distribution has fixed the headers, and provides a supported compiler.
    assert refusal(path, box(15, 15)) == ""
    assert "CUDA 13.0 does not compile with glibc 2.43 and g++ 16" in refusal(path, box(16, 15))
    # The compiler that it calls is unknown, and may not be the default one.
    assert refusal(path, box(None, 15)) == ""


def test_debians_own_toolkit_brings_a_compiler_of_its_own() -> None:
    box = answered("trixie_cuda_toolkit")
    assert (box.gcc, box.toolkits["/usr"].gcc) == (14, 13)
    assert refusal("/usr", box) == ""


def test_the_remedy_for_a_cuda_12_toolkit_names_the_driver_of_the_newer_version() -> None:
    path = "/usr/local/cuda-12.8"
    box = Compilers((2, 42), 14, True, {path: ToolkitHere(Limits(15, (2, 42)), 14)})
    (found,) = compile_differences([cuda(path)], box, {path: (12, 8)})
    assert "glibc before 2.42" in found.expected
    assert found.remedy.startswith('declare cuda_toolkit="13.2"')
    assert "(it needs driver 580 or newer)" in found.remedy


def test_another_compiler_and_other_flags_are_the_owners_choice() -> None:
    assert refusal("13.2", ARCH, CMAKE_CUDA_HOST_COMPILER="/usr/bin/g++-15") == ""
    assert refusal("13.0", ARCH, CMAKE_CUDA_FLAGS="-allow-unsupported-compiler") == ""
    message = refusal("13.0", ARCH, CMAKE_CUDA_HOST_COMPILER="/usr/bin/g++-15")
    assert "CUDA 13.0 does not compile with glibc 2.43, expected" in message
    assert 'declare cuda_toolkit="13.2"' in message


def test_builds_without_cuda_have_no_toolkit() -> None:
    assert compile_differences([Build(name="b", backend="vulkan")], ARCH, {}) == []


@pytest.mark.parametrize(
    ("offered", "gcc"),
    [
        ("4:14.2.0-1", 14),
        ("15.1.1+r7+gf36ec88aa85a-1", 15),
        ("(none)", None),
        ("16", 16),
    ],
)
def test_the_compiler_that_would_be_installed_is_read(offered: str, gcc: int | None) -> None:
    box = CompilersFound().process(["== glibc", "glibc 2.41", "== installed", "== offered", offered])
    assert box == Compilers((2, 41), gcc)


def test_headers_that_declare_rsqrt_without_noexcept_need_an_older_glibc() -> None:
    lines = ["#if __GNUC__ > 15", "__device_builtin__ double                 rsqrt(double x);"]
    output = ["== glibc", "glibc 2.43", "== headers /opt/cuda", *lines, "== headers /usr", *lines]
    box = CompilersFound().process(output)
    assert dict(box.toolkits) == dict.fromkeys(["/opt/cuda", "/usr"], ToolkitHere(Limits(15, (2, 42))))
    builds = [cuda("/opt/cuda"), cuda("/usr")]
    (found,) = compile_differences(builds, box, dict.fromkeys(["/opt/cuda", "/usr"], (13, 0)))
    assert "CUDA 13.0 does not compile with glibc 2.43, expected glibc before 2.42" in str(found)
