"""Boxes that share a build give it the same name, and a box gets no binary that it could not run."""

from __future__ import annotations

from typing import Any

import pytest
from llamarig.declare.build import Build, GitSource
from llamarig.declare.model import Model
from llamarig.declare.rig import Rig
from llamarig.declare.serve import Serve
from llamarig.engine.shared_builds import (
    SharingError,
    expected_requirements,
    is_received,
    misfits,
    recorded_requirements,
    shared_builds,
)
from llamarig.facts.platform import Platform
from llamarig.items.packages import wanted_packages
from llamarig.remote.shared.instruction_sets import KERNEL_NAMES, sets_of, sets_used
from llamarig.render.release import cmake_definitions, release_id


def build(**fields: Any) -> Build:
    given = {"name": "cuda", "architectures": ("89-real",), "cuda_toolkit": "13.0", "built_by": "big", **fields}
    return Build(**given)


def rig(*builds: Build, kv: str = "f16", web_ui: bool = False) -> Rig:
    model = Model(
        name="m",
        repo="o/r",
        quant="Q4_K_M",
        build=builds[0].name,
        serve=Serve.model_validate(
            {"port": 8080, "context": 4096, "cache_type_k": kv, "cache_type_v": kv, "web_ui": web_ui}
        ),
    )
    return Rig(builds=builds, models=(model,))


def name_on(host: str, rigs: dict[str, Rig]) -> str:
    own = shared_builds(host, rigs)
    return release_id(own.builds[0], own.models)


def test_architectures_are_those_of_all_boxes_that_share_it() -> None:
    rigs = {
        "small": rig(build(architectures=("120a-real",))),
        "big": rig(build(architectures=("89-real",))),
        "other": rig(build(architectures=("89-real", "86-real"))),
        "alone": rig(build(architectures=("75-real",), built_by=None)),
        "elsewhere": rig(build(architectures=("75-real",), built_by="elsewhere")),
    }
    for host in ("big", "small", "other"):
        assert shared_builds(host, rigs).builds[0].architectures == ("89-real", "86-real", "120a-real")
    assert len({name_on(host, rigs) for host in ("big", "small", "other")}) == 1
    assert shared_builds("alone", rigs).builds[0].architectures == ("75-real",)
    assert shared_builds("elsewhere", rigs).builds[0].architectures == ("75-real",)


def test_the_pages_of_the_web_ui_are_compiled_in_if_one_box_has_it() -> None:
    rigs = {"small": rig(build(), web_ui=True), "big": rig(build())}
    assert shared_builds("big", rigs).builds[0].web_ui
    assert name_on("big", rigs) == name_on("small", rigs)


@pytest.mark.parametrize("host", ["big", "small"])
def test_sharing_builds_twice_gives_the_same_release_name(host: str) -> None:
    rigs = {
        "small": rig(build(architectures=("120a-real",)), kv="q4_1"),
        "big": rig(build(architectures=("89-real",)), kv="q5_1"),
    }
    first = name_on("big", rigs)
    assert {name_on("big", {**rigs, host: shared_builds(host, rigs)}), name_on("small", rigs)} == {first}
    assert name_on("small", {**rigs, host: shared_builds(host, rigs)}) == first


def test_kernels_are_those_of_all_boxes_models() -> None:
    rigs = {"small": rig(build(), kv="q4_1"), "big": rig(build(), kv="q8_0")}
    for host in rigs:
        own = shared_builds(host, rigs)
        assert cmake_definitions(own.builds[0], own.models)["GGML_CUDA_FA_QUANTS"].endswith(";q4_1-q4_1")
    assert name_on("big", rigs) == name_on("small", rigs)


def test_a_box_without_a_card_builds_for_the_cards_of_others() -> None:
    rigs = {"big": rig(build(architectures=())), "small": rig(build(architectures=("89-real",)))}
    assert shared_builds("big", rigs).builds[0].architectures == ("89-real",)


def test_a_build_that_is_not_shared_is_unchanged() -> None:
    alone = rig(build(built_by=None))
    assert shared_builds("big", {"big": alone, "small": rig(build(architectures=("120a-real",)))}) == alone


@pytest.mark.parametrize(
    ("rigs", "words"),
    [
        pytest.param({"small": rig(build())}, ("'big' is not in this inventory", "small"), id="no such box"),
        pytest.param(
            {"small": rig(build()), "big": rig(build(name="x"))}, ("declares no such build",), id="not declared there"
        ),
        pytest.param(
            {"small": rig(build()), "big": rig(build(built_by=None))},
            ("same name and built_by",),
            id="not shared there",
        ),
        pytest.param(
            {"small": rig(build()), "big": rig(build(cmake={"A": "1"}, source=GitSource(commit="1" * 40)))},
            ("is not declared as on big", "(source, cmake)"),
            id="another build",
        ),
        pytest.param(
            {"small": rig(build()), "big": rig(build(tls=True))}, ("is not declared as on big", "(tls)"), id="TLS"
        ),
    ],
)
def test_boxes_that_cannot_share_a_build_are_refused(rigs: dict[str, Rig], words: tuple[str, ...]) -> None:
    with pytest.raises(SharingError) as refused:
        shared_builds("small", rigs)
    for word in ("build 'cuda'", "big", *words):
        assert word in str(refused.value)


def test_a_toolkit_that_cannot_compile_for_a_card_of_another_box_is_refused() -> None:
    old_card = rig(build(architectures=()))
    # As tasks/llamarig/engine/rig_of_host.py fills it in from the card present.
    old_card = old_card.model_copy(
        update={"builds": (old_card.builds[0].model_copy(update={"architectures": ("70-real",)}),)}
    )
    with pytest.raises(SharingError, match=r"shared by big, small: CUDA 13\.0 no longer compiles for 70-real"):
        shared_builds("big", {"big": rig(build()), "small": old_card})


def test_the_release_name_does_not_depend_on_the_builder() -> None:
    assert release_id(build(), []) == release_id(build(built_by=None), [])
    assert not is_received(build(built_by=None), "small")
    assert not is_received(build(), "big")
    assert is_received(build(), "small")


BIG = Platform("x86_64", "2.41", "Debian GNU/Linux 13 (trixie)", frozenset({"avx2", "fma", "avx512f"}))
SMALL = Platform("x86_64", "2.36", "Debian GNU/Linux 12 (bookworm)", frozenset({"avx2", "fma"}))
NEEDS = Platform("x86_64", "2.36", BIG.system, frozenset({"avx2"}))


def test_a_binary_that_can_run_on_a_box_has_no_misfits() -> None:
    assert misfits(NEEDS, BIG) == misfits(NEEDS, SMALL) == misfits(Platform(), Platform()) == []


@pytest.mark.parametrize(
    ("needs", "words"),
    [
        (Platform("aarch64", "9.99", "", frozenset({"sve"})), ("for aarch64", "x86_64")),
        (
            Platform("x86_64", "", "", frozenset({"avx2", "avx512f", "amx_int8"})),
            ("amx_int8, avx512f,", "GGML_NATIVE"),
        ),
        (
            Platform("x86_64", "2.38", BIG.system),
            ("glibc 2.38", "trixie", "bookworm", "2.36", "oldest system"),
        ),
    ],
)
def test_a_binary_that_cannot_run_on_a_box_has_one_misfit_with_the_reason(
    needs: Platform, words: tuple[str, ...]
) -> None:
    (reason,) = misfits(needs, SMALL)
    assert [word for word in words if word not in reason] == []


def test_versions_are_compared_as_numbers() -> None:
    assert misfits(Platform("x86_64", "2.9"), SMALL) == []
    assert len(misfits(Platform("x86_64", "2.100"), SMALL)) == 1


def test_a_box_with_another_c_library_gets_nothing() -> None:
    assert "has another C library" in misfits(NEEDS, Platform("x86_64", "", "Alpine Linux", SMALL.instruction_sets))[0]


def test_before_compiling_a_native_build_requires_the_builders_instruction_sets() -> None:
    assert "avx512f" in misfits(expected_requirements(build(), BIG), SMALL)[0]
    for value in ("OFF", "off", "0", "FALSE"):
        assert misfits(expected_requirements(build(cmake={"GGML_NATIVE": value}), BIG), SMALL) == []
    assert misfits(expected_requirements(build(cmake={"GGML_NATIVE": "OFF"}), BIG), Platform("aarch64")) != []
    # The glibc symbols that it will use are unknown before it is compiled.
    assert expected_requirements(build(), BIG).glibc == ""


def test_requirements_are_read_from_the_manifest() -> None:
    recorded = {"machine": "x86_64", "glibc": "2.36", "instruction_sets": ["avx2"], "made_on": BIG.system}
    assert recorded_requirements({"needs": recorded}) == NEEDS
    assert recorded_requirements({}) is None


def test_compiler_macros_and_kernel_names_give_the_same_instruction_sets() -> None:
    macros = (
        "#define __AVX2__ 1\n#define __SSE3__ 1\n#define __AVX512F__ 1\n#define __SSE4A__ 1\n#define __x86_64__ 1\n"
    )
    assert sets_used(macros) == ["avx2", "avx512f", "pni"]
    assert sets_of(["fpu", "vme", "pni", "avx2", "ibrs", "sse4a"]) == {"pni", "avx2"}
    assert len(set(KERNEL_NAMES.values())) == len(KERNEL_NAMES)


@pytest.mark.parametrize(
    ("family", "compiler"), [("debian", "build-essential"), ("arch", "base-devel"), ("fedora", "gcc-c++")]
)
def test_only_the_box_that_builds_needs_a_compiler(family: str, compiler: str) -> None:
    shared = rig(Build(name="v", backend="vulkan", built_by="big"))
    there, here = (wanted_packages(shared, name)[family] for name in ("big", "small"))
    assert {compiler, "cmake", "ccache"} <= set(there)
    assert any(name.startswith("spirv-headers") for name in there)
    assert {compiler, "cmake", "ccache", "git"}.isdisjoint(here)
    assert not any(name.startswith("spirv-headers") for name in here)
    libraries = {"debian": {"libgomp1", "libvulkan1"}, "arch": {"gcc-libs"}, "fedora": {"libgomp", "vulkan-loader"}}
    assert libraries[family] <= set(here)
    both = rig(Build(name="v", backend="vulkan", built_by="big"), Build(name="c", backend="cpu"))
    assert {compiler, "cmake"} <= set(wanted_packages(both, "small")[family])
