"""Arguments of llama-server: what a declared field is rendered to, for each generation of builds."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import pytest
from llamarig.declare.flags import owned_flags, rows
from llamarig.declare.model import Model
from llamarig.declare.placement import Fit
from llamarig.declare.serve import Serve
from llamarig.render.build_flags import FlagRefusedError
from llamarig.render.server_arguments import ModelFiles, server_arguments
from llamarig.render.unit_text import credentials_in_unit

from tests.render.golden_units import PINNED, rigs

MARCH = PINNED - {"-lm", "--load-mode", "--ui", "--no-ui"} | {"--mmap", "--no-mmap", "--mlock", "--direct-io"}
"""As a build of March 2026: switches instead of --load-mode, and the old name of the web UI."""
SUMMER = PINNED | {"--mmap", "--no-mmap", "--mlock"}
"""b10114 to b10874: both spellings, of which the last one on the command line took effect."""

PROFILES = [
    pytest.param(group, model, id=f"{group}-{model.name}") for group, rig in rigs().items() for model in rig.models
]


def _model(**serve: Any) -> Model:
    return Model(name="m", repo="o/r", quant="Q4_K_M", build="b", serve=Serve(**{"port": 1, "context": 4096, **serve}))


def _arguments(model: Model, flags: Collection[str]) -> list[str]:
    mmproj = f"/models/{model.mmproj}" if model.mmproj else None
    return server_arguments(
        model, ModelFiles(model="/models/first.gguf", mmproj=mmproj), flags, credentials_in_unit(model)
    )


def _lines(arguments: list[str]) -> list[str]:
    """One line per flag, with its value."""
    lines: list[str] = []
    for argument in arguments:
        if argument.startswith("--"):
            lines.append(argument)
        else:
            lines[-1] += f" {argument}"
    return lines


@pytest.mark.parametrize(("group", "model"), PROFILES)
def test_the_pinned_build_has_every_flag_of_a_profile(group: str, model: Model) -> None:
    rendered = {line.split()[0] for line in _lines(_arguments(model, PINNED))}
    assert rendered <= PINNED


@pytest.mark.parametrize(("group", "model"), PROFILES)
def test_a_build_of_march_has_every_flag_of_a_profile(group: str, model: Model) -> None:
    rendered = {line.split()[0] for line in _lines(_arguments(model, MARCH))}
    assert rendered <= MARCH
    assert {"--no-mmap", "--mlock"} <= rendered or model.serve.load_mode == "auto"


@pytest.mark.parametrize(("group", "model"), PROFILES)
def test_every_rendered_flag_is_owned(group: str, model: Model) -> None:
    # These two are llama.cpp's defaults; an owner may turn them round with extra.
    defaults = {"--jinja", "--no-context-shift"}
    rendered = {line.split()[0] for line in _lines(_arguments(model, PINNED))}
    assert rendered - defaults - set(owned_flags(rows(Model))) == set()


@pytest.mark.parametrize(
    ("mode", "pinned", "march"),
    [
        ("auto", [], []),
        ("none", ["--load-mode none"], ["--no-mmap"]),
        ("mmap", ["--load-mode mmap"], []),
        ("mlock", ["--load-mode mlock"], ["--no-mmap", "--mlock"]),
        ("mmap+mlock", ["--load-mode mmap+mlock"], ["--mlock"]),
        ("dio", ["--load-mode dio"], ["--direct-io"]),
    ],
)
def test_load_mode_in_the_spelling_of_the_build(mode: str, pinned: list[str], march: list[str]) -> None:
    spellings = ("--load-mode", "--no-mmap", "--mmap", "--mlock", "--direct-io")
    for flags, expected in ((PINNED, pinned), (MARCH, march)):
        lines = _lines(_arguments(_model(load_mode=mode), flags))
        assert [line for line in lines if line.startswith(spellings)] == expected


@pytest.mark.parametrize("mode", ["mlock", "mmap+mlock"])
def test_mlock_is_refused_where_it_is_ambiguous(mode: str) -> None:
    with pytest.raises(FlagRefusedError, match=r"load_mode = 'm.*is ambiguous for this build.*choose a build"):
        _arguments(_model(load_mode=mode), SUMMER)
    assert "--load-mode none" in _lines(_arguments(_model(load_mode="none"), SUMMER))


@pytest.mark.parametrize(
    ("missing", "serve", "field"),
    [
        ("--fit", {"placement": Fit()}, "placement"),
        ("--fit", {}, "placement"),
        ("--ctx-checkpoints", {"context_checkpoints": 4}, "context_checkpoints"),
        ("--cache-ram", {"cache_ram_mib": 0}, "cache_ram_mib"),
        ("--no-warmup", {"warmup": False}, "warmup"),
        ("--metrics", {"metrics": True}, "metrics"),
        ("--rope-scale", {"yarn_scale": 2.0}, "yarn_scale"),
        ("--ctx-size", {}, "context"),
    ],
)
def test_a_flag_the_build_lacks_is_refused(missing: str, serve: dict[str, Any], field: str) -> None:
    with pytest.raises(FlagRefusedError, match=rf"^{field} needs {missing}, .*choose another build"):
        _arguments(_model(**serve), PINNED - {missing})


def test_explicit_defaults_are_left_out_where_the_build_lacks_the_flag() -> None:
    defaults = {"--jinja", "--no-context-shift", "--no-ui", "--no-webui"}
    assert not defaults & set(_arguments(_model(), PINNED - defaults))


def test_the_web_ui_is_switched_off_by_either_name() -> None:
    assert "--no-ui" in _arguments(_model(), PINNED)
    assert "--no-webui" in _arguments(_model(), MARCH)
    assert not {"--no-ui", "--no-webui"} & set(_arguments(_model(web_ui=True), PINNED))


CORS = {"--cors-origins", "--cors-credentials", "--no-cors-credentials"}


def test_web_pages_of_other_sites_are_shut_out_unless_declared() -> None:
    def cors(model: Model, flags: Collection[str]) -> list[str]:
        return [line for line in _lines(_arguments(model, flags)) if line.split()[0] in CORS]

    assert cors(_model(), PINNED) == ["--cors-origins localhost", "--no-cors-credentials"]
    declared = _model(cors_origins=("https://chat.lan:3000",))
    assert cors(declared, PINNED) == ["--cors-origins https://chat.lan:3000", "--no-cors-credentials"]
    assert cors(_model(), PINNED - CORS) == []
    with pytest.raises(FlagRefusedError, match="cors_origins needs --cors-origins"):
        cors(declared, PINNED - CORS)


def test_yarn_is_rendered_with_its_scale() -> None:
    lines = _lines(_arguments(_model(yarn_scale=2.0, yarn_original_context=262144), PINNED))
    assert {"--rope-scaling yarn", "--rope-scale 2", "--yarn-orig-ctx 262144"} <= set(lines)


def test_extra_arguments_are_last_and_unchanged() -> None:
    assert _arguments(_model(extra=("--poll", "25 %h")), PINNED)[-2:] == ["--poll", "25 %h"]


def test_the_api_key_is_passed_as_a_file() -> None:
    arguments = server_arguments(
        _model(), ModelFiles("/m.gguf"), PINNED, {"api_key_file": "/run/credentials/u/api-key"}
    )
    assert arguments[arguments.index("--api-key-file") + 1] == "/run/credentials/u/api-key"
    assert "--api-key" not in arguments


def test_image_tokens_need_a_projector() -> None:
    serve = {"port": 1, "context": 4096, "image_min_tokens": 64, "image_max_tokens": 1024}
    model = {"name": "m", "repo": "o/r", "quant": "Q4_K_M", "build": "b", "serve": serve}
    lines = _lines(_arguments(Model.model_validate({**model, "mmproj": "p.gguf"}), PINNED))
    assert {"--mmproj /models/p.gguf", "--image-min-tokens 64", "--image-max-tokens 1024"} <= set(lines)
    with pytest.raises(ValueError, match="image_min_tokens is read only for images: declare the model's mmproj"):
        Model.model_validate(model)


def test_the_draft_model_is_passed() -> None:
    arguments = server_arguments(_model(), ModelFiles("/m.gguf", draft="/d.gguf"), PINNED)
    assert arguments[arguments.index("--model-draft") + 1] == "/d.gguf"


@pytest.mark.parametrize(
    ("serve", "lines"),
    [
        ({"speculation": {"types": ["ngram-mod"]}}, ["--spec-type ngram-mod"]),
        (
            {"speculation": {"types": ["ngram-mod"], "ngram_size": 24, "ngram_mod_min": 48, "ngram_mod_max": 64}},
            [
                "--spec-type ngram-mod",
                "--spec-ngram-mod-n-match 24",
                "--spec-ngram-mod-n-min 48",
                "--spec-ngram-mod-n-max 64",
            ],
        ),
        (
            {"speculation": {"types": ["ngram-map-k4v"], "ngram_size": 8, "ngram_draft": 8, "ngram_min_hits": 2}},
            [
                "--spec-type ngram-map-k4v",
                "--spec-ngram-map-k4v-size-n 8",
                "--spec-ngram-map-k4v-size-m 8",
                "--spec-ngram-map-k4v-min-hits 2",
            ],
        ),
        ({"speculation": {"types": ["draft-mtp"], "draft_max": 2}}, ["--spec-type draft-mtp", "--spec-draft-n-max 2"]),
        ({"sleep_idle_s": 900}, ["--sleep-idle-seconds 900"]),
        ({"reasoning": "off"}, ["--reasoning off"]),
        ({"reasoning_budget": -1, "reasoning_effort": "high"}, ["--reasoning-effort high", "--reasoning-budget -1"]),
        ({"reasoning_format": "deepseek"}, ["--reasoning-format deepseek"]),
        ({"slots": False}, ["--no-slots"]),
        ({"kv_unified": True}, ["--kv-unified"]),
        ({"kv_unified": False}, ["--no-kv-unified"]),
        ({"slot_prompt_similarity": 0.5}, ["--slot-prompt-similarity 0.5"]),
        ({"checkpoint_min_step": 4096}, ["--checkpoint-min-step 4096"]),
        ({"rope_freq_base": 5e6, "rope_freq_scale": 0.5}, ["--rope-freq-base 5000000", "--rope-freq-scale 0.5"]),
        ({"op_offload": False, "mmproj_offload": False}, ["--no-op-offload", "--no-mmproj-offload"]),
        ({"log_verbosity": 4}, ["--verbosity 4"]),
        ({"sampling": {"frequency_penalty": 0.5}}, ["--frequency-penalty 0.5"]),
        (
            {"sampling": {"repeat_last_n": 256, "typical_p": 0.9, "top_n_sigma": 1.5}},
            ["--repeat-last-n 256", "--typical-p 0.9", "--top-n-sigma 1.5"],
        ),
        (
            {"sampling": {"xtc_probability": 0.5, "xtc_threshold": 0.2, "samplers": ["top_k", "temperature"]}},
            ["--xtc-probability 0.5", "--xtc-threshold 0.2", "--samplers top_k;temperature"],
        ),
        (
            {"sampling": {"dry_multiplier": 0.8, "dry_base": 1.75, "dry_allowed_length": 2, "dry_penalty_last_n": 512}},
            ["--dry-multiplier 0.8", "--dry-base 1.75", "--dry-allowed-length 2", "--dry-penalty-last-n 512"],
        ),
        (
            {"sampling": {"dynatemp_range": 0.5, "dynatemp_exponent": 1.0}},
            ["--dynatemp-range 0.5", "--dynatemp-exp 1"],
        ),
        (
            {"yarn_scale": 2.0, "yarn_ext_factor": 0.0, "yarn_attn_factor": 1.0, "yarn_beta_slow": 1.0},
            [
                "--rope-scaling yarn",
                "--rope-scale 2",
                "--yarn-ext-factor 0",
                "--yarn-attn-factor 1",
                "--yarn-beta-slow 1",
            ],
        ),
        ({"yarn_scale": 4.0, "yarn_beta_fast": 32.0}, ["--rope-scaling yarn", "--rope-scale 4", "--yarn-beta-fast 32"]),
        ({"swa_full": True, "kv_offload": False}, ["--swa-full", "--no-kv-offload"]),
        ({"cache_reuse": 256, "max_tokens": 8192}, ["--cache-reuse 256", "--n-predict 8192"]),
        ({"reasoning_preserve": False}, ["--no-reasoning-preserve"]),
        (
            {"chat_template_kwargs": {"enable_thinking": False, "effort": "high"}},
            ['--chat-template-kwargs {"enable_thinking": false, "effort": "high"}'],
        ),
        (
            {"chat_template_kwargs": {"tools": {"names": ["a", "b\nc"], "depth": None}}},
            ['--chat-template-kwargs {"tools": {"names": ["a", "b\\nc"], "depth": null}}'],
        ),
        ({"request_timeout_s": 600}, ["--timeout 600"]),
        ({"gpus": ["Vulkan1", "Vulkan0"]}, ["--device Vulkan1,Vulkan0"]),
        ({"task": "embeddings", "pooling": "cls"}, ["--embeddings", "--pooling cls"]),
        ({"task": "rerank"}, ["--rerank"]),
        ({"api_prefix": "/llama"}, ["--api-prefix /llama"]),
        (
            {"tls_certificate_file": "/c", "tls_key_file": "/k"},
            [
                "--ssl-cert-file /run/credentials/llamarig-m.service/tls-certificate",
                "--ssl-key-file /run/credentials/llamarig-m.service/tls-key",
            ],
        ),
        ({"gpus": ["GPU-11111111-2222-3333-4444-555555555555"]}, []),
    ],
)
def test_a_field_is_rendered_only_where_declared(serve: dict[str, Any], lines: list[str]) -> None:
    plain = _lines(_arguments(_model(), PINNED))
    assert [line for line in _lines(_arguments(_model(**serve), PINNED)) if line not in plain] == lines


def test_a_build_without_spec_type_supports_only_a_draft_model() -> None:
    before = MARCH - {flag for flag in MARCH if flag.startswith("--spec")}
    draft = {"types": ["draft-simple"], "draft_max": 16, "draft_p_min": 0.8}
    model = Model(
        name="m",
        repo="o/r",
        quant="Q4_K_M",
        draft="d.gguf",
        build="b",
        serve=Serve.model_validate({"port": 1, "context": 4096, "speculation": draft}),
    )
    lines = _lines(server_arguments(model, ModelFiles("/m.gguf", draft="/d.gguf"), before))
    assert {"--model-draft /d.gguf", "--draft-max 16", "--draft-p-min 0.8"} <= set(lines)
    assert not any(line.startswith("--spec") for line in lines)
    with pytest.raises(FlagRefusedError, match=r"speculation\.types needs --spec-type"):
        _arguments(_model(speculation={"types": ["ngram-mod"]}), before)
