"""Selection of a model's files: one complete shard set, and no vision projector, draft head or importance matrix."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from llamarig.records.shard_sets import NoSuchFilesError, companion, of_quant, shard_sets

QUANTS = ("Q8_0", "q8_0", "UD-Q4_K_XL", "Q4_K_M", "IQ4_XS", "i1-Q6_K", "F16", "f16", "BF16", "F32", "MXFP4", "mxfp4")
FOLDERS = st.sampled_from(("", "gguf/", "UD-Q4_K_XL/", "a/b/"))
ENDINGS = st.sampled_from((".gguf", "-00001-of-00001.gguf"))
MODELS = (
    "m",
    "Qwen3.6-27B",
    "Orn-9B",
    "gem-12B-it",
    "smtp-helper",
    "Llama-smtp-3B",
    "Qwopus3.5-9B-Coder-MTP",
    "Assistant-Pirate-7B",
    "Pirate-Assistant",
    "my-assistant-7B",
    "assistant",
    "assistants-3B",
    "m-imatrix",
    "imatrixed-not",
    "eagle3000-7B",
)


@st.composite
def letters(draw: st.DrawFn, word: str) -> str:
    """A word in some mix of small and capital letters."""
    return "".join(letter.upper() if draw(st.booleans()) else letter for letter in word)


@st.composite
def projectors(draw: st.DrawFn) -> str:
    model, quant = draw(st.sampled_from(MODELS)), draw(st.sampled_from(QUANTS))
    mmproj = draw(letters("mmproj"))
    return draw(
        st.sampled_from(
            [
                f"{mmproj}-{quant}",
                f"{mmproj}.{quant}",
                f"{mmproj}-{model}-{quant}",
                f"{model}-{mmproj}-{quant}",
                f"{model}.{mmproj}-{quant}",
                f"{model}.{mmproj}.{quant}",
                f"{model}-{quant}-{mmproj}",
                f"{model}{mmproj}-{quant}",
                f"mm-projector-{quant}",
                f"{model}-vision-encoder-{quant}",
                f"{mmproj}/{model}-{quant}",
                mmproj,
            ]
        )
    )


@st.composite
def draft_heads(draw: st.DrawFn) -> str:
    model, quant = draw(st.sampled_from(MODELS)), draw(st.sampled_from(QUANTS))
    mtp = draw(letters("mtp"))
    return draw(
        st.sampled_from(
            [
                f"{mtp}-{model}-{quant}",
                f"{mtp}-{quant}",
                f"{mtp}/{model}-{quant}",
                f"{mtp}/{model}-MTP-{quant}",
                f"{mtp}/deeper/{model}.{quant}",
                f"{model}-assistant-{quant}",
                f"{model}-assistant.{quant}",
                f"{model}-assistant",
                f"eagle3-{model}-{quant}",
                f"dflash-{model}-{quant}",
                f"{model}-EAGLE3-{quant}",
                f"{model}_eagle3-{quant}",
                f"{model}-DFlash.{quant}",
                f"{model}-{quant}-dspark",
                f"{model}-{mtp}-head-{quant}",
                f"{model}-nextn-only-{quant}",
                f"dflash/{model}-{quant}",
            ]
        )
    )


@settings(deadline=None)
@given(FOLDERS, projectors(), ENDINGS)
def test_projectors_are_recognised_in_any_spelling(folder: str, name: str, ending: str) -> None:
    assert companion(f"{folder}{name}{ending}") == "vision projector"
    assert shard_sets([f"{folder}{name}{ending}"]) == {}


@settings(deadline=None)
@given(FOLDERS, draft_heads(), ENDINGS)
def test_draft_heads_are_recognised_in_any_spelling(folder: str, name: str, ending: str) -> None:
    assert companion(f"{folder}{name}{ending}") == "draft head"
    assert shard_sets([f"{folder}{name}{ending}"]) == {}


@pytest.mark.parametrize(
    "name", ["imatrix/m-Q8_0", "imatrix", "imatrix_unsloth", "imatrix-m", "m-imatrix", "m.imatrix", "a/M.IMATRIX"]
)
def test_importance_matrices_are_recognised(name: str) -> None:
    assert companion(f"{name}.gguf") == "importance matrix"


@settings(deadline=None)
@given(
    FOLDERS,
    st.sampled_from(MODELS),
    st.sampled_from(QUANTS),
    st.sampled_from("-."),
    ENDINGS,
)
def test_models_with_such_letters_in_their_names_are_models(
    folder: str, model: str, quant: str, joint: str, ending: str
) -> None:
    path = f"{folder}{model}{joint}{quant}{ending}"
    assert companion(path) is None
    assert of_quant(quant, [path], "o/r") == [path]
    assert companion(f"{folder}{model}{joint}{quant}-imatrix{ending}") is None, "a model quantized with one"


@settings(deadline=None)
@given(st.sampled_from(QUANTS), st.lists(st.one_of(projectors(), draft_heads()), max_size=6))
def test_a_quant_selects_the_model_and_no_companion(quant: str, beside: list[str]) -> None:
    path = f"{quant}/gem-12B-it-{quant}.gguf"
    paths = [*(f"{name}.gguf" for name in beside), path]
    assert of_quant(quant, paths, "o/r") == [path]


# --- repositories as reported ----------------------------------------------------------------------------------------

ORN = ("Orn-9B.Q4_K_M.gguf", "Orn-9B.Q8_0.gguf", "Orn-9B.mmproj-Q8_0.gguf", "Orn-9B.mmproj-f16.gguf")
QW = (
    "BF16/Qw-27B-BF16-00001-of-00002.gguf",
    "BF16/Qw-27B-BF16-00002-of-00002.gguf",
    "Qw-27B-mmproj-BF16.gguf",
)
GEM = ("gem-12B-it-UD-Q4_K_XL.gguf", "MTP/gem-12B-it-MTP-Q8_0.gguf")


@pytest.mark.parametrize(("quant", "paths", "files"), [("Q8_0", ORN, ORN[1:2]), ("BF16", QW, QW[:2])])
def test_a_model_is_selected_without_its_projector(quant: str, paths: tuple[str, ...], files: tuple[str, ...]) -> None:
    assert of_quant(quant, paths, "o/r") == list(files)


@pytest.mark.parametrize(
    ("quant", "paths", "message"),
    [
        (
            "f16",
            ORN,
            "o/r has f16 only in files that are loaded with a model: Orn-9B.mmproj-f16.gguf (vision projector); its "
            "models are Orn-9B.Q4_K_M, Orn-9B.Q8_0: set quant to the end of one of these names or of its folder, or "
            "list the model's files in files",
        ),
        (
            "Q8_0",
            (*GEM, "mtp-gem-12B-it-Q8_0.gguf"),
            "o/r has Q8_0 only in files that are loaded with a model: MTP/gem-12B-it-MTP-Q8_0.gguf (draft head), "
            "mtp-gem-12B-it-Q8_0.gguf (draft head); its models are gem-12B-it-UD-Q4_K_XL: ",
        ),
        ("F16", ("mmproj-F16.gguf",), "mmproj-F16.gguf (vision projector); it has no GGUF file of a model: "),
        ("Q6_K", ("Q4_K_M/model.gguf", "Q8_0/model.gguf"), "its models are Q4_K_M/model, Q8_0/model: "),
        ("q8_0", ("Q8_0/model.gguf",), "has no quant q8_0; its models are Q8_0/model (in other letter case): "),
        ("Q8_0", ("Q8_0/m-Q4_K_M.gguf",), "has no quant Q8_0; its models are m-Q4_K_M: "),
        ("Q8_0", ("README.md",), "has no quant Q8_0; it has no GGUF file of a model: "),
        ("MXFP4", ("gpt-mxfp4-00001-of-00001.gguf",), "its models are gpt-mxfp4 (in other letter case): "),
    ],
)
def test_no_match_lists_models_and_companions(quant: str, paths: tuple[str, ...], message: str) -> None:
    with pytest.raises(NoSuchFilesError) as refused:
        of_quant(quant, paths, "o/r")
    assert message in str(refused.value)


FOLDERS_OF_QUANTS = ("Q4_K_M/model-00001-of-00002.gguf", "Q4_K_M/model-00002-of-00002.gguf", "Q8_0/model.gguf")
SMOL = "smol-IQ2_KS/G-smol-IQ2_KS-00001-of-00001.gguf"


def test_a_folder_may_name_the_quant() -> None:
    assert of_quant("Q4_K_M", FOLDERS_OF_QUANTS, "o/r") == list(FOLDERS_OF_QUANTS[:2])
    assert of_quant("Q8_0", ["v1/model.gguf", "m-Q8_0/model.gguf"], "o/r") == ["m-Q8_0/model.gguf"]
    with pytest.raises(NoSuchFilesError, match=r"several sets of o/r: Q8_0/a.gguf, Q8_0/b.gguf; name one in files"):
        of_quant("Q8_0", ["Q8_0/a.gguf", "Q8_0/b.gguf"], "o/r")


def test_a_folder_may_name_a_way_of_quantizing_that_is_part_of_the_quant() -> None:
    with pytest.raises(NoSuchFilesError, match="has no quant IQ2_KS; its models are G-smol-IQ2_KS: "):
        of_quant("IQ2_KS", [SMOL], "o/r")
    for quant in ("smol-IQ2_KS", "G-smol-IQ2_KS"):
        assert of_quant(quant, [SMOL], "o/r") == [SMOL]
    for path in ("M-7B-Q8_0/M-7B-Q8_0.gguf", "gemma-Q8_0/gemma-Q8_0.gguf", "M-Q8_0/by-M-Q8_0.gguf"):
        assert of_quant("Q8_0" if "by" not in path else "M-Q8_0", [path], "o/r") == [path]


# --- shard sets ------------------------------------------------------------------------------------------------------

PATHS = [
    "README.md",
    "mmproj-F16.gguf",
    "UD-Q4_K_XL/m-UD-Q4_K_XL-00001-of-00002.gguf",
    "UD-Q4_K_XL/m-UD-Q4_K_XL-00002-of-00002.gguf",
    "m-Q4_K_XL.gguf",
    "m-Q6_K-00001-of-00003.gguf",
    "m-Q6_K-00003-of-00003.gguf",
    "a/m-Q8_0.gguf",
    "b/m-Q8_0.gguf",
]


def test_a_quant_selects_one_complete_set() -> None:
    assert of_quant("UD-Q4_K_XL", PATHS, "o/r") == PATHS[2:4]
    assert of_quant("Q4_K_XL", PATHS, "o/r") == ["m-Q4_K_XL.gguf"]


@pytest.mark.parametrize(
    ("quant", "message"),
    [
        ("Q6_K", "the shard set m-Q6_K is incomplete, missing m-Q6_K-00002-of-00003.gguf"),
        ("Q8_0", "matches several sets of o/r: a/m-Q8_0.gguf, b/m-Q8_0.gguf; name one in files"),
        ("Q5_K_M", "has no quant Q5_K_M; its models are m-UD-Q4_K_XL, "),
    ],
)
def test_a_quant_without_one_complete_set_lists_the_candidates(quant: str, message: str) -> None:
    with pytest.raises(NoSuchFilesError) as refused:
        of_quant(quant, PATHS, "o/r")
    assert message in str(refused.value)


@pytest.mark.parametrize(
    ("names", "sets"),
    [
        # Split again, with the old shards still present.
        (
            ("-00001-of-00002", "-00002-of-00002", "-00001-of-00003", "-00002-of-00003", "-00003-of-00003"),
            "m-Q4-*-of-00002.gguf, m-Q4-*-of-00003.gguf;",
        ),
        (("-00002-of-00002", "-00001-of-00003"), "m-Q4-*-of-00003.gguf (1 of 3 present), m-Q4-*-of-00002.gguf (1 of 2"),
        (("", "-00001-of-00002", "-00002-of-00002"), "m-Q4-*-of-00002.gguf, m-Q4.gguf;"),
        # A stale shard beside the complete file: the owner has to choose.
        (("", "-00002-of-00002"), "m-Q4-*-of-00002.gguf (1 of 2 present), m-Q4.gguf;"),
    ],
)
def test_several_sets_of_one_name_are_listed(names: tuple[str, ...], sets: str) -> None:
    with pytest.raises(NoSuchFilesError) as refused:
        of_quant("Q4", [f"m-Q4{name}.gguf" for name in names], "o/r")
    assert f"matches several sets of o/r: {sets}" in str(refused.value)
