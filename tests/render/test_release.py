"""The name of a release changes with everything that determines the build, and with nothing else."""

from __future__ import annotations

from typing import Any

import pytest
from llamarig.declare.build import LLAMA_CPP_COMMIT, Build, GitSource, SdistSource
from llamarig.declare.model import Model
from llamarig.declare.serve import Serve
from llamarig.render import release
from llamarig.render.release import build_job, cmake_definitions, cuda_root, kv_pairs, release_id, release_path

OTHER_COMMIT = "1" * 40


def _cuda(**fields: Any) -> Build:
    return Build(**{"name": "cuda", "architectures": ("89-real",), "cuda_toolkit": "13.0", **fields})


def _model(**fields: Any) -> Model:
    serve = fields.pop("serve", {})
    given = {"name": "m", "repo": "o/r", "quant": "Q4_K_M", "build": "cuda", **fields}
    return Model(**given, serve=Serve(**{"port": 8080, "context": 4096, **serve}))


def _sdist(**fields: Any) -> SdistSource:
    given = {"url": "https://host/x.tar.gz", "sha256": "0" * 64, "commit": LLAMA_CPP_COMMIT, **fields}
    return SdistSource(**given)


def _q4_1(**fields: Any) -> Model:
    return _model(serve={"cache_type_k": "q4_1", "cache_type_v": "q4_1"}, **fields)


BASE = release_id(_cuda(), [_model()])


def test_the_name_begins_with_the_full_commit() -> None:
    commit, key = BASE.split("-")
    assert commit == LLAMA_CPP_COMMIT
    assert len(key) == 8
    assert release_path(_cuda(), [_model()]) == f"/opt/llamarig/llama.cpp/{BASE}"


def test_the_name_is_the_same_on_every_machine_and_day() -> None:
    assert release_id(_cuda(), [_model()]) == BASE
    assert release_id(Build.model_validate(_cuda().to_json()), iter([_model()])) == BASE


@pytest.mark.parametrize(
    ("build", "models"),
    [
        pytest.param(_cuda(source=GitSource(commit=OTHER_COMMIT)), [_model()], id="commit"),
        pytest.param(_cuda(source=_sdist()), [_model()], id="kind of source"),
        pytest.param(_cuda(architectures=("120a-real",)), [_model()], id="architecture"),
        pytest.param(_cuda(architectures=("89-real", "120a-real")), [_model()], id="one more architecture"),
        pytest.param(_cuda(cuda_toolkit="13.4"), [_model()], id="toolkit"),
        pytest.param(_cuda(cuda_toolkit="/usr/local/cuda"), [_model()], id="toolkit of the box"),
        pytest.param(_cuda(cmake={"GGML_NATIVE": "OFF"}), [_model()], id="cmake definition"),
        pytest.param(Build(name="cuda", backend="cpu"), [_model()], id="backend"),
        pytest.param(_cuda(), [_q4_1()], id="KV types of its model"),
        pytest.param(_cuda(), [_model(), _q4_1(name="n")], id="KV types of one more model"),
        pytest.param(_cuda(), [_model(serve={"web_ui": True})], id="pages of the web UI"),
        pytest.param(_cuda(web_ui=True), [_model()], id="pages of the web UI for another box"),
    ],
)
def test_the_name_changes_with(build: Build, models: list[Model]) -> None:
    assert release_id(build, models) != BASE


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (_sdist(), _sdist(sha256="1" * 64)),
        (_sdist(), _sdist(subdirectory="llama.cpp")),
        (_sdist(), _sdist(commit=OTHER_COMMIT)),
    ],
    ids=["sha256", "subdirectory", "commit"],
)
def test_the_name_changes_with_the_archive(one: SdistSource, other: SdistSource) -> None:
    assert release_id(_cuda(source=one), []) != release_id(_cuda(source=other), [])


def test_the_name_changes_with_the_recipe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(release, "_RECIPE", -1)
    assert release_id(_cuda(), [_model()]) != BASE


@pytest.mark.parametrize(
    ("build", "models"),
    [
        pytest.param(_cuda(), [], id="no model"),
        pytest.param(_cuda(name="other"), [_model(build="other")], id="name of the build"),
        pytest.param(_cuda(), [_model(name="n", repo="o/s", quant="Q8_0")], id="another model"),
        pytest.param(_cuda(), [_model(serve={"port": 9, "context": 8192, "ubatch": 64})], id="how it is served"),
        pytest.param(_cuda(), [_q4_1(build="other")], id="KV types of another build's model"),
        pytest.param(_cuda(), [_model(build="other", serve={"web_ui": True})], id="web UI of another build's model"),
        pytest.param(
            _cuda(),
            [_model(serve={"cache_type_k": "q8_0", "cache_type_v": "q8_0"})],
            id="KV types with kernels anyway",
        ),
    ],
)
def test_the_name_does_not_change_with(build: Build, models: list[Model]) -> None:
    assert release_id(build, models) == BASE


def test_the_order_of_definitions_and_models_does_not_matter() -> None:
    one, other = {"A": "1", "B": "2"}, {"B": "2", "A": "1"}
    q5 = _model(name="q5", serve={"cache_type_k": "q5_0", "cache_type_v": "q4_1"})
    first, second = [_q4_1(), q5], [q5, _q4_1()]
    assert release_id(_cuda(cmake=one), first) == release_id(_cuda(cmake=other), second)
    assert list(cmake_definitions(_cuda(cmake=one), first)) == list(cmake_definitions(_cuda(cmake=other), second))


def test_kv_pairs_are_those_without_kernels_each_once() -> None:
    models = [
        _model(),
        _q4_1(),
        _q4_1(name="again"),
        _model(name="mixed", serve={"cache_type_k": "q8_0", "cache_type_v": "q5_1"}),
        _model(name="elsewhere", build="other", serve={"cache_type_k": "q5_0", "cache_type_v": "q5_0"}),
    ]
    assert kv_pairs(_cuda(), models) == ["q4_1-q4_1", "q8_0-q5_1"]


def test_kv_pairs_are_never_of_types_without_kernels() -> None:
    mixed = _model(serve={"cache_type_k": "iq4_nl", "cache_type_v": "q4_1"})
    assert kv_pairs(_cuda(), [mixed, _model(name="n", serve={"cache_type_k": "f32", "cache_type_v": "f32"})]) == []
    assert kv_pairs(_cuda(kv_cache_pairs=("q4_1-q5_0", "f16-f16")), [mixed]) == ["q4_1-q5_0"]


def test_cmake_for_cuda() -> None:
    definitions = cmake_definitions(_cuda(architectures=("89-real", "120a-real")), [_q4_1()])
    assert definitions["GGML_CUDA"] == "ON"
    assert definitions["GGML_CUDA_NCCL"] == "OFF"
    assert definitions["CMAKE_CUDA_ARCHITECTURES"] == "89-real;120a-real"
    root = cuda_root(_cuda())
    assert definitions["CMAKE_CUDA_COMPILER"] == f"{root}/bin/nvcc"
    assert definitions["CUDAToolkit_ROOT"] == root
    # Libraries of the release first, CUDA's own from the toolkit it was built with.
    assert definitions["CMAKE_INSTALL_RPATH"].split(";") == ["$ORIGIN", f"{root}/lib64"]
    # Naming one pair takes the place of llama.cpp's own list, so that list is definitions too.
    assert definitions["GGML_CUDA_FA_QUANTS"] == "q4_0-q4_0;q8_0-q8_0;f16-f16;bf16-bf16;q4_1-q4_1"
    assert "GGML_CUDA_FA_QUANTS" not in cmake_definitions(_cuda(), [_model()])


def test_a_toolkit_declared_by_path_is_used_in_place() -> None:
    assert cuda_root(_cuda(cuda_toolkit="/usr/local/cuda-13.0")) == "/usr/local/cuda-13.0"


def test_cmake_for_cpu() -> None:
    definitions = cmake_definitions(Build(name="cuda", backend="cpu"), [_q4_1()])
    assert not [key for key in definitions if "CUDA" in key or "VULKAN" in key or "HIP" in key]
    assert definitions["CMAKE_INSTALL_RPATH"] == "$ORIGIN"


def test_cmake_for_vulkan() -> None:
    definitions = cmake_definitions(Build(name="cuda", backend="vulkan"), [_q4_1()])
    assert definitions["GGML_VULKAN"] == "ON"
    assert not [key for key in definitions if "CUDA" in key]


def test_cmake_for_hip() -> None:
    definitions = cmake_definitions(Build(name="cuda", backend="hip", architectures=("gfx1100",)), [_q4_1()])
    assert definitions["GGML_HIP"] == "ON"
    assert definitions["GPU_TARGETS"] == "gfx1100"
    assert definitions["GGML_CUDA_FA_QUANTS"].endswith("q4_1-q4_1")  # its kernels are the CUDA ones, compiled for HIP
    assert "CMAKE_CUDA_COMPILER" not in definitions


@pytest.mark.parametrize("backend", ["cuda", "cpu", "vulkan"])
def test_no_build_downloads_anything_unpinned(backend: str) -> None:
    build = _cuda() if backend == "cuda" else Build.model_validate({"name": "b", "backend": backend})
    definitions = cmake_definitions(build, [])
    assert {definitions[key] for key in ("LLAMA_BUILD_UI", "LLAMA_USE_PREBUILT_UI", "LLAMA_OPENSSL")} == {"OFF"}
    assert definitions["LLAMA_BUILD_COMMIT"] == LLAMA_CPP_COMMIT


def test_the_job_has_all_that_the_builder_needs() -> None:
    job = build_job(_cuda(), iter([_q4_1()]))
    assert job.release == release_path(_cuda(), [_q4_1()])
    assert job.work.endswith(release_id(_cuda(), [_q4_1()]))
    assert job.cmake == cmake_definitions(_cuda(), [_q4_1()])
    assert job.source.commit == LLAMA_CPP_COMMIT
    assert "llama-server" in job.targets
