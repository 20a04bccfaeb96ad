"""C++ definitions are found by name, complete and with their `#if`s, and extracted with all that they use."""

from __future__ import annotations

from pathlib import Path

import pytest
from llamarig.remote.build.cpp_definitions import definitions
from llamarig.remote.build.cuda_backend_parts import BACKEND, PARTS, parts_of
from llamarig.remote.shared.job_status import JobFailedError

SOURCE = """\
#pragma once
#include "other.h" // not followed
// a comment with { and "a quote
#define LIMIT 15 \\
    + 1
#ifdef FAST
static int speed(int x) { return 2 * x; }
#elif defined(SLOW)
static int speed(int x) { return x; }
#else
static int speed(int x) { return 0; }
#endif
struct announced;
void announced_too(int x);
struct args {
    bool norm{};
    int  of(int x) const { return x; }
};
enum kind { FIRST = 0, SECOND };
typedef void (* callback_t)(int);
using number = long long;
static constexpr int MOST[2] = { 1, 2 };
template <typename T, int n = 4>
static T twice(T x) { return x + x; }
static const char * brace() {
    // an apostrophe's brace {
    return "}\\"{";
}
#if A
static bool branches(int x) {
#if B
    if (x) {
#else
    if (!x) {
#endif
        return true;
    }
    return '}' == x;
}
#endif
const info & table() { static info all = [] { return info{}; }(); return all; }
static const entries list = {
    /* .first = */ twice,
};
int context::member() { return 1; }
"""


def found() -> dict[str, list[str]]:
    names: dict[str, list[str]] = {}
    for definition in definitions(SOURCE):
        if not definition.declared:
            names.setdefault(definition.name, []).append(definition.text)
    return names


def test_every_definition_is_found() -> None:
    names = ["LIMIT", "speed", "args", "kind", "callback_t", "number", "MOST", "twice", "brace", "branches", "table"]
    assert list(found()) == [*names, "list", "context::member"]


def test_definitions_are_complete() -> None:
    texts = found()
    assert texts["brace"][0].startswith("static const char * brace() {")
    assert texts["brace"][0].endswith('return "}\\"{";\n}')
    assert texts["branches"][0].endswith("return '}' == x;\n}")
    assert texts["args"][0].endswith("};")
    assert texts["table"][0].endswith("return all; }")
    assert texts["twice"][0].startswith("template <typename T")
    assert texts["LIMIT"] == ["#define LIMIT 15 \\\n    + 1"]


def test_alternatives_are_under_their_conditions() -> None:
    speeds = [definition.guarded for definition in definitions(SOURCE) if definition.name == "speed"]
    assert speeds == [
        "#ifdef FAST\nstatic int speed(int x) { return 2 * x; }\n#endif",
        "#ifdef FAST\n#elif defined(SLOW)\nstatic int speed(int x) { return x; }\n#endif",
        "#ifdef FAST\n#elif defined(SLOW)\n#else\nstatic int speed(int x) { return 0; }\n#endif",
    ]


def test_words_of_comments_and_strings_are_left_out() -> None:
    brace = next(definition for definition in definitions(SOURCE) if definition.name == "brace")
    assert brace.words == {"static", "const", "char", "brace", "return"}


def backend(tree: Path, files: dict[str, str]) -> Path:
    (tree / BACKEND).mkdir(parents=True)
    for name, text in files.items():
        (tree / BACKEND / name).write_text(text)
    return tree


def _all_but(name: str) -> str:
    return "".join(f"static void {each}() {{}}\n" for each in PARTS if each != name)


def test_what_is_used_is_extracted_and_nothing_else(tmp_path: Path) -> None:
    optimize = "ggml_backend_cuda_graph_optimize"
    tree = backend(
        tmp_path,
        {
            "ggml-cuda.cu": _all_but(optimize)
            + f"static void {optimize}() {{ match(LIMIT); own(); }}\nstatic void unrelated() {{}}\n",
            "match.cu": "static int helper() { return 1; }\nint match(int n) { return n + helper(); }\n"
            "static __global__ void kernel() {}\n",
            "a.cu": "static int helper() { return 2; }\n",
            "common.cuh": "int match(int n);\n#define LIMIT 3\nvoid own() { kernel<<<1>>>(); }\n",
        },
    )
    text = parts_of(tree, {"own"})
    order = [text.index(part) for part in ("#define LIMIT 3", "return 1;", "int match(int n) {", "match(LIMIT)")]
    assert order[1] < order[2] < order[3]
    assert order[0] < order[3]
    for left_out in ("unrelated", "return 2", "kernel", "void own"):
        assert left_out not in text


@pytest.mark.parametrize("name", PARTS)
def test_a_tree_without_a_part_is_refused(name: str, tmp_path: Path) -> None:
    tree = backend(tmp_path, {"ggml-cuda.cu": _all_but(name)})
    with pytest.raises(JobFailedError, match=f"this commit's CUDA backend has no {name} .*GPUs cannot be simulated"):
        parts_of(tree, ())


def test_a_tree_without_a_cuda_backend_is_refused(tmp_path: Path) -> None:
    with pytest.raises(JobFailedError, match=f"this source tree has no CUDA backend \\({BACKEND}\\)"):
        parts_of(tmp_path, ())
