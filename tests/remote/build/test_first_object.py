"""Which CUDA object a build compiles first. tests/box/test_cuda_build.py compiles it, and lets it fail."""

from __future__ import annotations

from llamarig.remote.build.build_release import first_object

# Lines of `ninja -t targets all` in a build directory of llama.cpp 0c1e570 for CUDA.
TARGETS = """\
ggml/src/ggml-cuda/CMakeFiles/ggml-cuda.dir/add-id.cu.o: CUDA_COMPILER__ggml-cuda_unscanned_Release
ggml/src/ggml-cuda/CMakeFiles/ggml-cuda.dir/acc.cu.o: CUDA_COMPILER__ggml-cuda_unscanned_Release
ggml/src/CMakeFiles/ggml-base.dir/ggml.c.o: C_COMPILER__ggml-base_unscanned_Release
bin/libggml-cuda.so: phony
"""


def test_the_smallest_object_comes_first() -> None:
    assert first_object(TARGETS) == "ggml/src/ggml-cuda/CMakeFiles/ggml-cuda.dir/acc.cu.o"


def test_a_source_without_that_object_has_another_one() -> None:
    name = first_object(TARGETS.replace("/acc.cu.o", "/zero.cu.o"))
    assert name == "ggml/src/ggml-cuda/CMakeFiles/ggml-cuda.dir/add-id.cu.o"


def test_a_build_without_cuda_has_none() -> None:
    assert first_object("ggml/src/CMakeFiles/ggml-base.dir/ggml.c.o: C_COMPILER__ggml-base_unscanned_Release") is None
