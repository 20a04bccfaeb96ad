"""The sentences by which a dry run and a deploy name what becomes of a model's unit."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from llamarig.facts.units import Unit
from llamarig.items.unit_words import started, unit_changes, was_started
from llamarig.render import layout
from llamarig.render.escaping import exec_start, split_exec_start

OLD, NEW = f"{'0c1e570' * 6}-a6a0c45d"[-49:], f"{'4df29be' * 6}-a6a0c45d"[-49:]


def unit(*flags: str, release: str = OLD, more: str = "") -> str:
    program = f"{layout.RELEASES}/{release}/bin/llama-server"
    return f"# Comment.\n[Service]\nExecStart={exec_start([program, *flags])}\n{more}"


CHANGES = {
    "a value": (unit("--ctx-size", "262144"), unit("--ctx-size", "131072"), ["--ctx-size 262144 -> 131072"]),
    "flags come and go": (
        unit("--metrics", "--port", "1"),
        unit("--port", "1", "--ubatch-size", "2048"),
        ["without --metrics", "with --ubatch-size 2048"],
    ),
    "another llama.cpp": (unit(), unit(release=NEW), [f"llama.cpp {OLD[:7]} -> {NEW[:7]}"]),
    "another build of the same": (
        unit(),
        unit(release=f"{OLD[:-8]}ffffffff"),
        [f"another build of llama.cpp {OLD[:7]}"],
    ),
    "another file": (
        unit("--model", "/m/o/r/1/a-Q4.gguf"),
        unit("--model", "/m/o/r/1/a-Q6.gguf"),
        ["model file a-Q4.gguf -> a-Q6.gguf"],
    ),
    "another revision": (
        unit("--model", "/m/o/r/1/a-Q4.gguf"),
        unit("--model", "/m/o/r/2/a-Q4.gguf"),
        ["another revision of a-Q4.gguf"],
    ),
    "a long value": (
        unit("--override-tensor", "x" * 80),
        unit("--override-tensor", "y" * 80),
        ["another --override-tensor"],
    ),
    "a negative value": (unit("--seed", "-1"), unit("--seed", "7"), ["--seed -1 -> 7"]),
    "a limit of the unit": (
        unit(more="MemoryMax=41000M\n"),
        unit(more="MemoryMax=43000M\n"),
        ["MemoryMax 41000M -> 43000M"],
    ),
    "an environment variable": (
        unit(more="Environment=A=1\nEnvironment=B=2\n"),
        unit(more="Environment=A=1\nEnvironment=B=3\n"),
        ["Environment B=2 -> B=3"],
    ),
    "its peers alone": (unit(more="Conflicts=a.service\n"), unit(), ["settings of its unit"]),
}


@pytest.mark.parametrize(("before", "after", "words"), CHANGES.values(), ids=CHANGES.keys())
def test_what_differs_between_two_units(before: str, after: str, words: list[str]) -> None:
    assert unit_changes(before, after) == words


def test_a_restart_says_how_long_the_model_will_be_away_where_that_is_known() -> None:
    assert started(Unit(active="active", away_s=41.3)) == "restarts it (away about 41 s)"
    assert started(Unit(active="active")) == "restarts it"
    assert started(Unit(active="failed")) == "starts it"
    assert started(None, ["gpt-oss"]) == "starts it in place of gpt-oss"


@pytest.mark.parametrize(
    ("will", "message", "did"),
    [
        (
            "m: --ctx-size 2 -> 1; restarts it (away about 40 s)",
            "llamarig-m.service answers; it was away for 38 s",
            "m: --ctx-size 2 -> 1; restarted, away for 38 s",
        ),
        ("m: installs its unit; starts it", "", "m: installed its unit; started"),
        (
            "old: stopped, no longer declared; its unit and its files stay",
            "",
            "old: stopped, no longer declared; its unit and its files stay",
        ),
    ],
)
def test_the_same_sentence_after_the_deploy(will: str, message: str, did: str) -> None:
    assert was_started(will, message) == did


@given(st.lists(st.text(st.characters(min_codepoint=32, max_codepoint=126) | st.just("\t"), min_size=1), min_size=1))
def test_arguments_are_read_back_from_a_unit(arguments: list[str]) -> None:
    assert split_exec_start(exec_start(arguments)) == arguments
