"""The preset file holds the same arguments as the units; what its parser would misread is refused."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from llamarig.declare.model import Model
from llamarig.declare.rig import Rig
from llamarig.render.presets import PresetError, preset_text
from llamarig.render.server_arguments import ModelFiles, server_arguments

from tests.render.golden_units import PINNED, files_of, rigs


def model(**serve: Any) -> Model:
    base = {"name": "m", "repo": "o/r", "quant": "Q8_0", "build": "b"}
    return Model.model_validate({**base, "serve": {"port": 8080, "context": 4096, **serve}})


def text(declared: Model) -> str:
    return preset_text(
        [(declared, server_arguments(declared, ModelFiles("/m.gguf"), PINNED, {"api_key_file": "/k"}))], "m"
    )


def test_flags_become_keys_and_switches_become_true() -> None:
    lines = text(
        model(warmup=False, sampling={"seed": -1}, alias="org/m", host="0.0.0.0", api_key_file="/k")
    ).splitlines()
    assert {"[m]", "alias = org/m", "model = /m.gguf", "ctx-size = 4096", "no-warmup = true", "seed = -1"} <= set(lines)
    assert "load-on-startup = true" in lines


def test_flags_that_the_router_sets_are_left_out() -> None:
    written = text(model(host="0.0.0.0", api_key_file="/k"))
    assert not [key for key in ("\nhost", "\nport", "\nalias", "api-key") if key in written]


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        (("--reasoning-budget-message", "enough #1"), "cannot be written to a preset file"),
        (("--lora", "/a.gguf", "--lora", "/b.gguf"), "has --lora more than once"),
        (("--grammar-file", "/a;b"), "; # and line breaks end a value"),
    ],
)
def test_a_value_that_the_parser_would_misread_is_refused(extra: tuple[str, ...], words: str) -> None:
    with pytest.raises(PresetError, match="model 'm'") as refused:
        text(model(extra=extra))
    assert words in str(refused.value)


def read(ini: str) -> dict[str, dict[str, str]]:
    """Parse a file as common/preset.cpp does, without comments after values."""
    sections: dict[str, dict[str, str]] = {}
    for line in ini.split("\n"):
        if line.startswith("["):
            section = sections.setdefault(line.strip("[]"), {})
        elif line and not line.startswith(";") and " = " in line and sections:
            key, _, value = line.partition(" = ")
            section[key] = value
    return sections


@given(st.lists(st.text(st.characters(exclude_categories=["C"]), min_size=1), min_size=1, max_size=3))
def test_every_value_that_is_not_refused_is_read_back(values: list[str]) -> None:
    words = [word for index, value in enumerate(values) for word in (f"--flag-{chr(97 + index)}", f"v{value}")]
    try:
        found = read(preset_text([(model(), words)], ""))["m"]
    except PresetError:
        assert any(set(";#") & set(value) or value != value.rstrip(" \t") for value in values)
        return
    assert found == {f"flag-{chr(97 + index)}": f"v{value}" for index, value in enumerate(values)}


@pytest.mark.parametrize("group", rigs())
def test_every_profile_can_be_written(group: str) -> None:
    rig = rigs()[group]
    models = [(item, server_arguments(item, files_of(item), PINNED)) for item in rig.models]
    sections = read(preset_text(models, rig.default_model.name))
    assert list(sections) == [item.name for item in rig.models]
    assert [name for name, keys in sections.items() if "load-on-startup" in keys] == [rig.default_model.name]


def test_presets_of_an_unused_build_are_refused() -> None:
    build = {"name": "b", "backend": "cpu"}
    rig = {"builds": [build], "models": [model().to_json()]}
    assert Rig.model_validate({**rig, "presets": "b"}).presets == "b"
    with pytest.raises(ValueError, match="presets = 'c' is not the build of any model: name one of b"):
        Rig.model_validate({**rig, "presets": "c"})
