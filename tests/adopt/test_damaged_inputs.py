"""No input, however damaged, ends with a traceback, or with Python that does not compile."""

from __future__ import annotations

import warnings

from hypothesis import given, settings
from hypothesis import strategies as st
from llamarig.adopt.adopted_model import Adopted, Known, adopted_model
from llamarig.adopt.input_format import launches_of_text
from llamarig.adopt.launch import Found, Launch
from llamarig.adopt.older_flags import DROPPED, RENAMED
from llamarig.adopt.pinned_flags import PINNED_ENVIRONMENT, PINNED_OPTIONS
from llamarig.adopt.report import declaration_text, notes_text
from llamarig.adopt.router import with_models

from tests.adopt.golden import CASES

TEXTS = [(case.name, case.read_bytes().decode()) for case in CASES]
CHARACTERS = "'\"\\${}()[]:-\n ,=;#|&<>%x0"
FLAGS = sorted({*PINNED_OPTIONS, *DROPPED, *RENAMED})
VALUES = (
    *(
        "0",
        "-1",
        "1",
        "99",
        "x",
        "",
        "a,b",
        "1,2",
        "0.5",
        "[]",
        "{}",
        "true",
        "²",
        "nan",
        "inf",
        "1e999",
        "9" * 400,
        "é",
    ),
    *(
        "a=b",
        "CPU",
        "exps=CPU",
        "(=CPU",
        "/x/y.gguf",
        "-x",
        "$(z)",
        "${q}",
        "'",
        '"',
        "\\",
        "%h",
        "\x00",
        "none",
        "auto",
    ),
)
VARIABLES = sorted({*PINNED_ENVIRONMENT, "CUDA_VISIBLE_DEVICES", "GGML_X", "LLAMA_ARG_NO_MMAP"})


def printed(found: Found, layers: int | None) -> None:
    """Print everything of an input, as `llamarig adopt` does."""
    adopted: list[Adopted] = []
    for launch in found.launches:
        adopted.append(adopted_model(launch, Known(layers=layers), {one.name for one in adopted}))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        list(notes_text(adopted, found.notes, [None] * len(adopted)))
    compile(declaration_text(adopted), "printed", "exec")


@settings(deadline=None, max_examples=200)
@given(data=st.data(), layers=st.sampled_from([None, 48]))
def test_a_damaged_file(data: st.DataObject, layers: int | None) -> None:
    name, text = data.draw(st.sampled_from(TEXTS))
    characters = list(text)
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.integers(0, len(characters) - 1))
        characters[at : at + data.draw(st.integers(0, 2))] = data.draw(st.text(CHARACTERS, max_size=2))
    printed(with_models(launches_of_text("".join(characters), name, lambda path: None), lambda path: None), layers)


@settings(deadline=None, max_examples=300)
@given(
    words=st.lists(st.sampled_from([*FLAGS, *VALUES, *VALUES]), max_size=14),
    environment=st.dictionaries(st.sampled_from(VARIABLES), st.sampled_from(VALUES), max_size=3),
    layers=st.sampled_from([None, 48]),
)
def test_any_flags_and_values(words: list[str], environment: dict[str, str], layers: int | None) -> None:
    printed(Found((Launch(tuple(words), environment=environment),)), layers)
