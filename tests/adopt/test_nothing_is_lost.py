"""Each flag and variable of an input is rendered again, or a note names it."""

from __future__ import annotations

from pathlib import Path

import pytest
from llamarig.adopt.adopted_model import Adopted, Known, adopted_model
from llamarig.adopt.input_format import launches_of_text
from llamarig.adopt.launch import LLAMA_SERVER, Launch
from llamarig.adopt.older_flags import DROPPED, OLDER_VARIABLES, RENAMED
from llamarig.adopt.options import Given, given_options
from llamarig.adopt.pinned_flags import PINNED_ENVIRONMENT, PINNED_OPTIONS, Option
from llamarig.declare.risky_flags import flag_of
from llamarig.render.server_arguments import ModelFiles, server_arguments

from tests.adopt.golden import CASES
from tests.render.golden_units import OPTIONS, PINNED

VALUES = {
    "--override-tensor": "exps=CPU",
    "--chat-template-kwargs": '{"a": 1}',
    "--flash-attn": "off",
    "--fit": "off",
    "--host": "192.168.1.2",
    "--samplers": "top_k;temperature",
    "--spec-type": "ngram-mod",
    "--cache-type-k": "q8_0",
    "--cache-type-v": "q8_0",
    "--spec-draft-type-k": "q8_0",
    "--spec-draft-type-v": "q8_0",
    "--split-mode": "none",
    "--ctx-size": "5000",
    "--fit-ctx": "5000",
    "--reasoning": "on",
    "--reasoning-format": "none",
    "--reasoning-effort": "low",
    "--pooling": "mean",
    "--load-mode": "none",
    "--rope-scaling": "linear",
    "--api-key-file": "/etc/key",
    "--ssl-key-file": "/etc/tls-key",
    "--ssl-cert-file": "/etc/tls-cert",
    "--api-prefix": "/llama",
    "--cors-origins": "https://chat.lan",
    "--hf-repo": "owner/name:Q8_0",
    "--batch-size": "1024",
    "--sampler-seq": "kt",
    "--model": "/m/m-Q8_0.gguf",
}
BESIDE = {"--n-cpu-ffn": ["-ngl", "99"], "--parallel": [], "--pooling": ["--embeddings"]}
BESIDE |= {f"--image-{end}-tokens": ["--mmproj", "/m/mmproj.gguf"] for end in ("min", "max")}
"""Option -> others that it is read with."""


OPTIONS_BY_NAME: list[Option] = sorted(set(PINNED_OPTIONS.values()), key=lambda option: option.name)


def adopted(words: list[str], environment: dict[str, str] | None = None) -> Adopted:
    return adopted_model(Launch(tuple(words), LLAMA_SERVER, environment or {}), Known())


def rendered(one: Adopted) -> set[str]:
    """The options that the declaration becomes, by their names, and the variables of its unit."""
    assert one.model is not None, one.notes
    model = one.model
    files = ModelFiles("/m", model.mmproj, model.draft)
    flags = PINNED | {"--model-draft"}
    credentials = {
        field: path
        for field in ("api_key_file", "tls_certificate_file", "tls_key_file")
        if (path := getattr(model.serve, field))
    }
    words = server_arguments(model, files, flags, credentials)
    return {PINNED_OPTIONS[word].name for word in words if word in PINNED_OPTIONS} | set(model.serve.environment)


SAME = {"--draft": "--spec-draft-n-max", "--draft-min": "--spec-draft-n-min", "--mmproj-url": "--mmproj"}
SAME |= {"--sampler-seq": "--samplers", "--draft-max": "--spec-draft-n-max", "--spec-default": "--spec-type"}
"""Option -> the one that the declaration of it becomes."""


def is_kept(given: Given, one: Adopted) -> bool:
    name = PINNED_OPTIONS[given.flag].name if given.flag in PINNED_OPTIONS else given.flag
    return SAME.get(name, name) in rendered(one) or any(given.spelling in note.about for note in one.notes)


def test_the_pinned_options_are_those_of_its_help() -> None:
    assert {option.spellings for option in PINNED_OPTIONS.values()} == {tuple(spellings) for spellings in OPTIONS}


@pytest.mark.parametrize("option", OPTIONS_BY_NAME, ids=lambda one: one.name)
def test_no_option_of_the_pinned_build_is_lost(option: Option) -> None:
    value = VALUES.get(option.name, "2")
    words = [option.name, *[value] * option.values, *BESIDE.get(option.name, [])]
    model = [] if option.name in ("--model", "--hf-repo") else ["-m", "/m/m-Q8_0.gguf"]
    one = adopted([*model, *words])
    given = Given(option.name, (value,) * option.values)
    if option.name in ("--model", "--hf-repo", "--hf-file"):
        assert one.model is not None
        assert one.model.repo in ("OWNER/REPOSITORY", "owner/name")
    else:
        assert is_kept(given, one), one.notes
    if option.negation:
        assert is_kept(Given(option.negation), adopted(["-m", "/m/m-Q8_0.gguf", option.negation]))


@pytest.mark.parametrize("variable", sorted({*PINNED_ENVIRONMENT, *OLDER_VARIABLES}))
def test_no_variable_of_the_pinned_build_is_lost(variable: str) -> None:
    option = PINNED_ENVIRONMENT.get(variable)
    value = "1" if option is None or not option.values else VALUES.get(option.name, "2")
    beside = BESIDE.get(option.name, []) if option else []
    model = [] if option and option.name in ("--model", "--hf-repo") else ["-m", "/m/m-Q8_0.gguf"]
    one = adopted([*model, *beside], {variable: value})
    flag = option.name if option else OLDER_VARIABLES[variable]
    assert flag in ("--model", "--hf-repo", "--hf-file") or is_kept(Given(flag, variable=variable), one), one.notes


@pytest.mark.parametrize("flag", sorted({*DROPPED, *RENAMED}))
def test_each_flag_of_an_older_build_is_named(flag: str) -> None:
    one = adopted(["-m", "/m/m-Q8_0.gguf", flag, "2"])
    assert any(note.about.startswith(flag) for note in one.notes), one.notes


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_no_flag_of_a_case_is_lost(case: Path) -> None:
    found = launches_of_text(case.read_text(), case.name, lambda name: None)
    for launch in found.launches:
        if launch.program != LLAMA_SERVER or not any("gguf" in word or "-hf" in word for word in launch.words):
            continue
        one = adopted_model(launch, Known())
        options, _ = given_options(launch.words, launch.environment)
        lost = [given.written for given in options if not is_kept(given, one)]
        files = {"--model", "-m", "-hf", "--hf-repo", "--hf-file"}
        replaced = {"--rope-scaling", "--rope-freq-scale", "-cmoe", "--cpu-moe", "-ts", "--tensor-split"}
        assert [text for text in lost if text.split()[0] not in files | replaced] == []


def test_an_unknown_flag_is_named() -> None:
    one = adopted(["-m", "/m/m-Q8_0.gguf", "--never-heard-of", "7"])
    assert [note.text for note in one.notes if note.about == "--never-heard-of 7"] == [
        "dropped: the pinned llama.cpp has no such flag, and none in its place is known here"
    ]


def test_underscores_are_dashes_as_for_llama_server() -> None:
    assert flag_of("--top_k") == "--top-k"
    one = adopted(["-m", "/m/m-Q8_0.gguf", "--top_k", "7"])
    assert one.model is not None
    assert one.model.serve.sampling.top_k == 7
