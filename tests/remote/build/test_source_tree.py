"""CMake options of a source tree, the build number from its git server, and the features a build reports."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from llamarig.remote.build.build_release import features_of, numbered
from llamarig.remote.build.source_tree import build_number, definitions_for
from llamarig.remote.shared.job_status import JobFailedError

REQUESTED = {"GGML_CUDA": "ON", "GGML_CUDA_FA_QUANTS": "q8_0-q8_0;f16-f16;q4_1-q4_1", "GGML_NATIVE": "OFF"}
# The lines with which llama.cpp itself declares the options: before #28079, and after it.
BEFORE = 'option(GGML_CUDA_FA_ALL_QUANTS              "ggml: compile all quants for FlashAttention"   OFF)\n'
AFTER = 'set   (GGML_CUDA_FA_QUANTS "q4_0-q4_0;q8_0-q8_0;f16-f16;bf16-bf16" CACHE STRING "...")\n' + BEFORE


def tree(directory: Path, ggml: str) -> Path:
    (directory / "ggml/src/ggml-cuda").mkdir(parents=True)
    (directory / "CMakeLists.txt").write_text("project(llama.cpp)\n")
    (directory / "ggml/CMakeLists.txt").write_text(ggml)
    (directory / "ggml/src/ggml-cuda/CMakeLists.txt").write_text("# kernels\n")
    return directory


def test_definitions_are_unchanged_for_a_tree_that_compiles_single_pairs(tmp_path: Path) -> None:
    assert definitions_for(tree(tmp_path, AFTER), REQUESTED) == REQUESTED


def test_a_tree_without_single_pairs_compiles_all_pairs(tmp_path: Path) -> None:
    assert definitions_for(tree(tmp_path, BEFORE), REQUESTED) == {
        "GGML_CUDA": "ON",
        "GGML_NATIVE": "OFF",
        "GGML_CUDA_FA_ALL_QUANTS": "ON",
    }


def test_a_tree_with_neither_option_is_refused(tmp_path: Path) -> None:
    with pytest.raises(JobFailedError, match="declare cache types f16 or q8_0, or a newer commit"):
        definitions_for(tree(tmp_path, "option(SYCL_GGML_CUDA_FA_ALL_QUANTS_X)\n"), REQUESTED)


def test_definitions_without_pairs_are_unchanged(tmp_path: Path) -> None:
    assert definitions_for(tmp_path, {"GGML_CUDA": "ON"}) == {"GGML_CUDA": "ON"}


@pytest.fixture
def repository(tmp_path: Path) -> tuple[str, str]:
    """A git repository of three commits; its URL, and the last commit."""
    path = tmp_path / "llama.cpp"
    git = ["git", "-C", str(path), "-c", "user.name=x", "-c", "user.email=x@example.org"]
    path.mkdir()
    subprocess.run([*git, "init", "--quiet"], check=True)
    for number in range(3):
        subprocess.run([*git, "commit", "--quiet", "--allow-empty", "--message", str(number)], check=True)
    head = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
    subprocess.run([*git, "config", "uploadpack.allowAnySHA1InWant", "true"], check=True)
    return f"file://{path}", head


def test_the_build_number_is_the_number_of_commits(repository: tuple[str, str]) -> None:
    url, head = repository
    assert build_number(url, head) == 0, "this server would send all files with the commits"
    subprocess.run(["git", "-C", url.removeprefix("file://"), "config", "uploadpack.allowFilter", "true"], check=True)
    assert build_number(url, head) == 3
    assert build_number(url, "0" * 40) == 0
    assert build_number("file:///no/such/repository", head) == 0


def test_the_number_of_the_fetched_source_is_used(tmp_path: Path) -> None:
    definitions = {"LLAMA_BUILD_NUMBER": "0", "GGML_CUDA": "ON"}
    assert numbered(definitions, tmp_path) == definitions
    (tmp_path / "source.number").write_text("8149")
    assert numbered(definitions, tmp_path) == {"LLAMA_BUILD_NUMBER": "8149", "GGML_CUDA": "ON"}


# As llama.cpp's own tools/fit-params/README.md prints it, shortened.
SYSTEM_INFO = (
    "0.00.1 I build: 8149\n"
    "system_info: n_threads = 16 (n_threads_batch = 16) / 32 | CUDA : ARCHS = 890 | USE_GRAPHS = 1 | "
    "CPU : SSE3 = 1 | AVX2 = 1 | REPACK = 1 | \nmore"
)


def test_features_leave_thread_counts_out() -> None:
    assert features_of(SYSTEM_INFO) == [
        "CUDA : ARCHS = 890",
        "CUDA : USE_GRAPHS = 1",
        "CPU : SSE3 = 1",
        "CPU : AVX2 = 1",
        "CPU : REPACK = 1",
    ]
    assert features_of("nothing of the kind") == []
