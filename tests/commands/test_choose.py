"""tasks/choose.py apart from its dry runs: its options, the line to paste, cards with their memory, download times."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from llamarig import declare as d
from llamarig.commands.choose_text import ChoiceOptions, OptionError, answer, build_name, declaration, template
from llamarig.declare.model import Model
from llamarig.declare.placement import Auto, CpuOnly, Layers
from llamarig.declare.rig import Rig
from llamarig.facts.gpus import Gpu, GpuState
from llamarig.facts.model_store import Store
from llamarig.items.box_for_quants import CUDA_PROCESS_MIB, BoxForQuants, cards_of, rates
from llamarig.placement.quant_choice import QuantRow, QuantShape
from llamarig.placement.quant_memory import AtContext
from llamarig.records.hub_quants import HubQuant
from llamarig.records.model_lock import LockedFile, LockedModel
from llamarig.remote.shared.jobs import JobStatus
from llamarig.survey.serve_settings import settings_of_models

from tests.items.converged_box import cpu_rig
from tests.placement.test_quants import on_gpus, short_of_vram

REPO = "acme/Qwen3-30B-A3B-GGUF"
QUANT = HubQuant(
    "Q4_K_M",
    "Q4_K_M",
    LockedModel(
        repo=REPO, commit="c" * 40, shards=(LockedFile(path="m-Q4_K_M.gguf", size=18_000_000_000, sha256="a" * 64),)
    ),
)


def options(**data: Any) -> ChoiceOptions:
    return ChoiceOptions.of({"repo": REPO, **data})


@pytest.mark.parametrize(
    ("given", "repos"),
    [
        (REPO, (REPO,)),
        ("a/b, c/d,a/b", ("a/b", "c/d")),
        ("https://huggingface.co/unsloth/Qwen3-30B-A3B-GGUF/", ("unsloth/Qwen3-30B-A3B-GGUF",)),
        ("hf.co/a/b", ("a/b",)),
    ],
)
def test_repositories_are_read_as_people_write_them(given: str, repos: tuple[str, ...]) -> None:
    assert options(repo=given).repos == repos


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"repo": None}, "which repository of the Hub? write --data repo=unsloth/Qwen3-30B-A3B-GGUF"),
        ({"repo": "Qwen3"}, "--data repo=Qwen3 is not OWNER/NAME as on the Hub: write --data repo="),
        ({"repo": "a/b/c"}, "--data repo=a/b/c is not OWNER/NAME"),
        ({"context": "64K"}, "--data context=64K is not a number of tokens: write for example context=65536"),
        ({"context": True}, "--data context=True is not a number"),
        ({"context": 10}, "--data context=10 is not a number"),
    ],
)
def test_an_option_that_cannot_be_used_is_named(data: dict[str, Any], words: str) -> None:
    with pytest.raises(OptionError) as refused:
        options(**data)
    assert words in str(refused.value)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"model_name": "m"}, "--data model_name=m is a model of this box already: choose another name"),
        ({"model_name": "Not A Name"}, "--data model_name=Not A Name: "),
        ({"cache_type": "q9"}, "--data cache_type=q9: "),
    ],
)
def test_what_no_declaration_may_have_is_refused(data: dict[str, Any], words: str) -> None:
    with pytest.raises(OptionError) as refused:
        template(cpu_rig(), options(**data), REPO, "cpu", {}, gpus=1)
    assert words in str(refused.value)


def test_the_build_is_the_default_models_or_the_one_that_is_named() -> None:
    assert build_name(cpu_rig(), options()) == "cpu"
    assert build_name(cpu_rig().model_copy(update={"models": ()}), options()) == "cpu"
    with pytest.raises(OptionError, match="--data build=cuda is not a build of this box: name cpu"):
        build_name(cpu_rig(), options(build="cuda"))


def line(rig: Rig, at: AtContext, quant: HubQuant = QUANT, **data: Any) -> str:
    return declaration(rig, template(rig, options(**data), REPO, "cpu", {}, gpus=1), quant, at)


def test_the_line_has_what_models_need_on_this_box() -> None:
    """Else it would have nvidia-smi's order of the cards, and a margin too small for the one with the display."""
    gpus = tuple(f"GPU-{number}0000000-0000-4000-8000-000000000000" for number in (2, 1))
    settings = {"gpus": gpus, "placement": Auto(per_gpu=(384, 1024)), "threads": 6, "cpu_affinity": "0-5"}
    rig = cpu_rig()
    text = declaration(rig, template(rig, options(), REPO, "cpu", settings, gpus=2), QUANT, on_gpus(65536, 48))
    wanted = f'placement=d.auto(per_gpu=(384, 1024)), gpus=("{gpus[0]}", "{gpus[1]}"), threads=6, cpu_affinity="0-5")'
    assert wanted in text
    serve = {**cpu_rig().models[0].serve.model_dump(), **settings}
    same = cpu_rig().model_copy(update={"models": (with_serve(serve),)})
    assert settings_of_models(same, "cpu") == settings
    assert settings_of_models(same, "cuda") is None
    one_card = template(rig, options(), REPO, "cpu", settings, gpus=1).serve.placement
    assert one_card == Auto(), "margins of two cards are none of one"


def with_serve(serve: dict[str, Any]) -> Model:
    return Model.model_validate({**cpu_rig().models[0].model_dump(), "serve": serve})


def test_cards_are_used_in_the_models_order() -> None:
    cards = tuple(card("RTX", 16000, 15000, f"GPU-{letter}") for letter in "abc")
    found = cards_of(cpu_rig(), CUDA, GpuState(gpus=cards), {"GPU-a": 500}, (60000, 64000), ("GPU-c", "GPU-a"))
    assert [card.free_mib for card in found] == [15000 - CUDA_PROCESS_MIB, 15500 - CUDA_PROCESS_MIB]


def test_the_line_can_be_pasted() -> None:
    text = line(cpu_rig(), on_gpus(65536, 48))
    assert text == (
        f'd.model(name="qwen3-30b-a3b", repo="{REPO}", quant="Q4_K_M", build="cpu", '
        "serve=d.serve(port=8081, context=65536, placement=d.auto())),"
    ), "the model that is there coexists with others, on port 8080"
    pasted: Model = eval(text.removesuffix(","), {"d": d})
    Rig.model_validate(cpu_rig().model_copy(update={"models": (*cpu_rig().models, pasted)}).model_dump())


def test_models_that_exclude_each_other_share_a_port() -> None:
    rig = cpu_rig()
    serve = rig.models[0].serve.model_copy(update={"coexists": False, "port": 9000})
    apart = rig.model_copy(update={"models": (rig.models[0].model_copy(update={"serve": serve}),)})
    assert "d.serve(port=9000, " in line(apart, on_gpus(65536, 48))
    assert "d.serve(port=8080, " in line(rig.model_copy(update={"models": ()}), on_gpus(65536, 48))


def test_the_line_has_what_was_counted_with() -> None:
    """Another type of cache, a smaller prompt cache, files in place of a quant, a processor alone."""
    at = replace(on_gpus(32768, 48), placement=CpuOnly(), cache_ram_mib=1792)
    text = line(cpu_rig(), at, replace(QUANT, quant=None), cache_type="q8_0", model_name="mine")
    assert text.startswith(f'd.model(name="mine", repo="{REPO}", files=("m-Q4_K_M.gguf",), ')
    assert (
        'context=32768, cache_type_k="q8_0", cache_type_v="q8_0", cache_ram_mib=1792, placement=d.cpu_only())),' in text
    )
    model: Model = eval(text.removesuffix(","), {"d": d})
    assert model.serve.cache_ram_mib == 1792


def test_a_repository_of_which_nothing_fits_says_by_how_much() -> None:
    rig = cpu_rig()
    shape = QuantShape(48, has_experts=True, bits=5.0)
    rows = [QuantRow("Q4_K_M", QUANT.size, shape, (short_of_vram(32768, 1536),))]
    found = answer(rig, template(rig, options(), REPO, "cpu", {}, gpus=1), [QUANT], rows, ["RTX 4090"])
    assert found.headline == (
        f"{REPO}: no quant fits; the smallest, Q4_K_M, does not fit with 32K: RTX 4090 1.5 GiB short"
    )
    assert found.paste == ""


def test_what_fits_is_said_with_the_rule() -> None:
    rig = cpu_rig()
    shape = QuantShape(48, has_experts=True, bits=5.0)
    rows = [QuantRow("Q4_K_M", QUANT.size, shape, (on_gpus(32768, 40), on_gpus(65536, 38)))]
    found = answer(rig, template(rig, options(), REPO, "cpu", {}, gpus=1), [QUANT], rows, ["RTX 4090"])
    assert found.headline == f"{REPO}: Q4_K_M with a context of 64K, 38 of 48 layers whole on the GPUs"
    assert found.lines[-1].startswith("* chosen: the largest quant with every layer whole on the GPUs, if ")
    assert "context=65536" in found.paste
    assert isinstance(rows[0].at[0].placement, Layers)


# --- what a box has ---------------------------------------------------------------------------------------------------


def card(name: str, total: int, free: int, uuid: str = "GPU-1", **fields: Any) -> Gpu:
    return Gpu(0, uuid, name, total, free, "8.9", "580", "", **fields)


CUDA = d.build(name="cuda", cuda_toolkit="13.5")


def test_what_models_hold_that_would_be_stopped_is_free() -> None:
    state = GpuState(gpus=(card("NVIDIA GeForce RTX 4090", 24564, 900),))
    (found,) = cards_of(cpu_rig(), CUDA, state, {"GPU-1": 23000}, (60000, 64000))
    assert (found.name, found.free_mib) == ("NVIDIA GeForce RTX 4090", 23900 - CUDA_PROCESS_MIB)
    (held,) = cards_of(cpu_rig(), CUDA, state, {}, (60000, 64000))
    assert held.free_mib == 900 - CUDA_PROCESS_MIB


def test_graphics_of_the_processor_count_only_where_there_is_no_card() -> None:
    igpu = card("AMD Radeon Graphics", 512, 500, integrated=True)
    discrete = card("RX 7900 XT", 20464, 19900)
    vulkan = d.build(name="vulkan", backend="vulkan")
    assert [one.name for one in cards_of(cpu_rig(), vulkan, GpuState(amd=(igpu, discrete)), {}, (60000, 64000))] == [
        "RX 7900 XT"
    ]
    (shared,) = cards_of(cpu_rig(), vulkan, GpuState(amd=(igpu,)), {}, (60000, 64000))
    # The RAM, less the reserve of the system and the prompt cache.
    assert (shared.total_mib, shared.free_mib) == (64000, 60000 - 4096 - 8192)


def test_a_build_for_the_processor_has_no_cards() -> None:
    state = GpuState(gpus=(card("RTX 4090", 24564, 24000),))
    assert cards_of(cpu_rig(), cpu_rig().builds[0], state, {}, (60000, 64000)) == ()


def box(last: JobStatus | None = None) -> BoxForQuants:
    return BoxForQuants("box", cpu_rig().builds[0], stored=Store(), last_download=last)


FETCHED = JobStatus(state="done", unit="bytes", done=4_100_000_000, total=4_100_000_000, step_started=10.0, ended=110.0)


@pytest.mark.parametrize(
    ("limit", "last", "said"),
    [
        (None, None, "downloads at 100 MB/s, assumed: none has been measured"),
        (None, FETCHED, "downloads at 41 MB/s, as measured with the last one"),
        (20.0, FETCHED, "downloads at 20 MB/s, the declared limit"),
        (200.0, FETCHED, "downloads at 41 MB/s, as measured with the last one"),
        (200.0, None, "downloads at 200 MB/s, the declared limit"),
        (None, replace(FETCHED, done=1000), "downloads at 100 MB/s, assumed: none has been measured"),
    ],
)
def test_the_rate_of_a_download_is_declared_or_measured_or_said_to_be_assumed(
    limit: float | None, last: JobStatus | None, said: str
) -> None:
    rig = cpu_rig()
    rig = rig.model_copy(update={"hub": rig.hub.model_copy(update={"max_mb_s": limit})})
    rate, words = rates(rig, box(last))
    assert words == said
    assert box().download_s(QUANT, rate) == pytest.approx(18e9 / rate / 1e6)
