"""What speculation adds to a dry run, compared with what the pinned llama-server measured for itself.

data/qwen36_mtp.txt is the output of llama-fit-params for the model of mtp_models.py on two simulated cards (context
32768, ubatch 512, split 20,22, experts of layers 3 to 19 and 24 to 39 in RAM). With the same flags, --fit on and
--spec-type draft-mtp, llama-server's log had the numbers of SERVER; tests/box/test_mtp_layers.py runs it.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from llamarig.declare.model import Model
from llamarig.placement.dry_run import measured_on_last_arguments, parse_prediction
from llamarig.placement.model_layers import layer_of
from llamarig.placement.plan_request import PlanRequest
from llamarig.placement.speculation_memory import (
    dependent_draft_mib,
    has_second_context,
    needs_its_model,
    speculation_settings,
    with_speculation,
)
from llamarig.placement.staleness import CurrentInputs, plan_flags, staleness
from llamarig.remote.shared.gguf_header import Header, Tensor

from tests.placement.example_models import dry_run_output, model
from tests.placement.loader_shapes import header_of, write_head
from tests.placement.mtp_models import MIB, header, trunk_only
from tests.placement.test_mtp_layers import planned
from tests.render.golden_units import PINNED

FOUND = parse_prediction(dry_run_output("qwen36_mtp"), "a dry run")
SERVER = {"CUDA0": (1946, 445, 0), "CUDA1": (3165, 445 + 64, 80), "Host": (15584, 0, 40)}
"""MiB of weights, of caches and states, and of the second context's compute buffers."""
MTP: dict[str, Any] = {"types": ["draft-mtp"]}


def served(**speculation: Any) -> Model:
    return model(context=32768, ubatch=512, placement={"kind": "auto"}, speculation={**MTP, **speculation})


def test_built_in_layers_take_weights_a_cache_and_buffers() -> None:
    with_it = with_speculation(FOUND, served(), header("qwen36_mtp"))
    for before, after in zip((*FOUND.gpus, FOUND.host), (*with_it.gpus, with_it.host), strict=True):
        weights, context, compute = SERVER[after.name]
        assert abs(after.model_mib - weights) <= 1, after.name
        assert 0 <= after.context_mib - context <= 2, after.name
        assert compute <= after.compute_mib - before.compute_mib <= before.compute_mib, after.name
    assert with_it.speculation_mib[0] == with_it.totals[0] - FOUND.totals[0] > 0
    assert sum(with_it.layer_state.values()) == pytest.approx(4 * 62.81)
    assert sum(with_it.layer_context.values()) == pytest.approx(640 + 4 * 62.81)


def test_without_draft_mtp_nothing_is_added() -> None:
    assert with_speculation(FOUND, model(), header("qwen36_mtp")) == FOUND
    ngram = model(speculation={"types": ["ngram-mod"]})
    assert with_speculation(FOUND, ngram, header("qwen36_mtp")) == FOUND


def test_the_second_cache_has_types_of_its_own() -> None:
    half = with_speculation(FOUND, served(draft_cache_type_k="q8_0", draft_cache_type_v="q8_0"), header("qwen36_mtp"))
    whole = with_speculation(FOUND, served(), header("qwen36_mtp"))
    assert whole.gpus[1].context_mib - half.gpus[1].context_mib == 64 - 34
    assert whole.gpus[0] == half.gpus[0]


def test_each_drafted_token_has_a_state() -> None:
    (one, _), (five, _) = (
        with_speculation(FOUND, served(draft_max=count), header("qwen36_mtp")).gpus for count in (1, 5)
    )
    assert (one.context_mib - 351, five.context_mib - 351) == (32, 158)
    next_one = replace(header("qwen36_mtp"), metadata={"general.architecture": "qwen3next"})
    assert with_speculation(FOUND, served(), next_one).gpus[0].context_mib == 351, "it keeps one state"


def test_a_draft_file_has_a_context_of_its_own_and_the_model_loads_its_layers_all_the_same() -> None:
    declared = served().model_copy(update={"draft": "mtp-m.gguf"})
    found = with_speculation(FOUND, declared, header("qwen36_mtp"))
    assert found.gpus[1].model_mib == 3166
    assert found.gpus[1].compute_mib == FOUND.gpus[1].compute_mib
    assert not has_second_context(declared, header("qwen36_mtp"))


def test_a_draft_file_that_has_only_these_layers() -> None:
    """llama-fit-params of the pinned commit ends with a segmentation fault on such a file."""
    whole = header("qwen36_mtp")
    kept = [one for one in whole.tensors if layer_of(one.name) in (None, 40)]
    head = replace(whole, tensors=tuple(kept))
    assert needs_its_model(head)
    assert not needs_its_model(whole)
    assert not needs_its_model(trunk_only("qwen36_mtp"))
    assert not needs_its_model(replace(whole, tensors=(*kept, whole.tensors[1])))
    declared = served().model_copy(update={"draft": "mtp-m.gguf"})
    output = sum(one.size for one in kept if one.name.startswith("output"))
    # The weights of SERVER's second device more than without, 64 MiB of cache, and the compute buffers once more.
    expected = (3165 - 2644) + output / MIB + 64 + FOUND.gpus[-1].compute_mib
    first, last = dependent_draft_mib(FOUND, declared, head)
    assert first == 0
    assert last == pytest.approx(expected, abs=2)
    in_ram = served(draft_gpu_layers=0).model_copy(update={"draft": "mtp-m.gguf"})
    assert dependent_draft_mib(FOUND, in_ram, head) == (0, 0)


def test_the_head_of_another_kind_of_model(tmp_path: Path) -> None:
    """SERVER of "nextn without tensors" with this draft took 520.83 MiB of weights for it."""
    head = header_of(write_head(tmp_path / "head.gguf"))
    assert needs_its_model(head)
    first, last = dependent_draft_mib(FOUND, served(), head)
    assert first == 0
    assert last == pytest.approx(520.83 + 64 + FOUND.gpus[-1].compute_mib, abs=2)


def test_its_model_is_measured_on_the_last_gpu() -> None:
    """Also one with auto(), whose placement is not known yet."""
    words = measured_on_last_arguments(served(), "/m.gguf", PINNED, 2, ["CUDA0", "CUDA1"])
    assert " ".join(words).count("--tensor-split 0,1") == 1
    assert "--override-tensor" not in words
    assert words.count("--n-gpu-layers") == words.count("--fit") == 1


def test_a_draft_that_shares_the_cache_of_its_model() -> None:
    """Gemma 4's: which of the GPUs hold its four layers is not known before the model is planned."""
    tensors = tuple(Tensor(f"blk.{layer}.ffn_up.weight", (8, 8), "F16", 10 * MIB) for layer in range(4))
    embedding = Tensor("token_embd.weight", (8, 8), "F16", 100 * MIB)
    counts = {"gemma4-assistant.block_count": 4, "gemma4-assistant.nextn_predict_layers": 4}
    draft = Header((embedding, *tensors), {"general.architecture": "gemma4-assistant", **counts})
    assert needs_its_model(draft)
    expected = 4 * 10 + 100 + FOUND.gpus[-1].compute_mib  # the embedding is the output, too
    assert dependent_draft_mib(FOUND, served(), draft) == (expected, expected)


def test_eagle3_has_a_cache_of_its_own() -> None:
    tensors = (Tensor("blk.0.ffn_up.weight", (8, 8), "F16", 10 * MIB), Tensor("output.weight", (8, 8), "F16", 5 * MIB))
    draft = Header(tensors, {"general.architecture": "eagle3", "eagle3.block_count": 1})
    expected = 10 + 5 + 64 + FOUND.gpus[-1].compute_mib
    assert dependent_draft_mib(FOUND, served(), draft) == (expected, expected)
    assert not needs_its_model(replace(draft, metadata={"general.architecture": "llama", "llama.block_count": 1}))


def test_a_file_without_these_tensors_adds_states_only() -> None:
    found = with_speculation(FOUND, served(), trunk_only("qwen36_mtp"))
    assert [row.model_mib for row in found.gpus] == [row.model_mib for row in FOUND.gpus]
    assert [row.compute_mib for row in found.gpus] == [row.compute_mib for row in FOUND.gpus]


def test_where_the_log_names_no_devices_the_last_gpu_in_use_has_them() -> None:
    """The log of another llama.cpp."""
    silent = replace(FOUND, layer_devices={})
    assert with_speculation(silent, served(), header("qwen36_mtp")).gpus[1].model_mib == 3166


def test_a_plan_leaves_room_for_it() -> None:
    free = (9000, 7000)
    plain = planned(header("qwen36_mtp"), free)
    with_it = planned(header("qwen36_mtp"), free, speculation=MTP)
    assert sum(with_it.placement.gpu) < sum(plain.placement.gpu)
    assert [row.total_mib <= mib for row, mib in zip(with_it.gpus, free, strict=True)] == [True, True]
    assert any("multi-token prediction is counted with its weights" in note for note in with_it.notes)
    assert not any("multi-token" in note for note in plain.notes)


def test_a_plan_made_without_it_is_out_of_date() -> None:
    assert speculation_settings(served(draft_max=5)) == ("speculation=draft-mtp", "draft_max=5")
    assert speculation_settings(model(speculation={"types": ["ngram-mod"]})) == ()
    plan = planned(header("qwen36_mtp"), (9000, 7000))
    now = CurrentInputs(plan.belongs.shards, "r", plan_flags(served(), PINNED))
    (change,) = staleness(plan, now)
    assert "speculation=draft-mtp is new" in change


def test_every_dry_run_of_a_model_counts_it() -> None:
    """Of a planned one and of a declared one."""
    request = PlanRequest(served(), PINNED, header("qwen36_mtp"), "/m", None, False, planned_inputs(), 0)
    assert request.prediction(dry_run_output("qwen36_mtp")).gpus[1].model_mib == 3166


def planned_inputs() -> Any:
    return planned(header("qwen36_mtp"), (9000, 7000)).belongs
