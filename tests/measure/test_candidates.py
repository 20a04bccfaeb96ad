"""Which settings are tried for a model on a box, and how what gained is put together."""

from __future__ import annotations

from typing import Any, Literal

import pytest
from llamarig import declare as d
from llamarig.declare.rig import Rig
from llamarig.measure.candidates import Box, candidates, combined, cpu_list
from llamarig.records.tuning import with_settings

COMMIT = "0c1e57098bba43ac29e6e3b677cdceebdd22334f"
DESKTOP = Box(online=16, cores=8, first=frozenset(range(0, 16, 2)), huge_pages="madvise")
HYBRID = Box(online=24, cores=16, fast_cores=8, first=frozenset(range(24)), fast=frozenset(range(16)))
KEPT = ("context", "parallel", "cache_type_k", "cache_type_v", "placement", "gpus", "split_mode")


def rig_of(backend: Literal["cuda", "cpu"] = "cuda", **serve: Any) -> Rig:
    toolkit = "13.0" if backend == "cuda" else None
    declared = d.rig(
        builds=[
            d.build(name="main", source=d.git_source(commit=COMMIT), backend=backend, cuda_toolkit=toolkit),
            d.build(name="vulkan", source=d.git_source(commit=COMMIT), backend="vulkan"),
        ],
        models=[
            d.model(
                name="m",
                repo="a/b",
                quant="Q4_K_M",
                build="main",
                workload=d.workload(preset="agent"),
                serve=d.serve(**{"port": 8080, "context": 32768, "placement": d.auto(), **serve}),
            )
        ],
    )
    return Rig.model_validate(declared)


def tried(rig: Rig, box: Box = DESKTOP, builds: tuple[str, ...] = ()) -> dict[str, list[Any]]:
    """Knob -> the values of its first setting."""
    found: dict[str, list[Any]] = {}
    for one in candidates(rig, rig.models[0], box, builds):
        found.setdefault(one.knob, []).append(next(iter(one.settings.values())))
    return found


def test_what_the_owner_has_decided_is_never_touched() -> None:
    for rig in (rig_of(), rig_of(speculation=d.speculation(types=("ngram-mod",)))):
        for one in candidates(rig, rig.models[0], HYBRID, ["vulkan"]):
            changed = with_settings(rig.models[0], one.settings)
            assert all(getattr(changed.serve, name) == getattr(rig.models[0].serve, name) for name in KEPT), one
            assert (changed.repo, changed.quant, changed.draft) == ("a/b", "Q4_K_M", None)


@pytest.mark.parametrize("box", [DESKTOP, HYBRID, Box(online=1, cores=1), Box(online=32, cores=32)])
def test_never_every_processor(box: Box) -> None:
    found = tried(rig_of(threads=3), box)
    counts = [*found.get("threads", []), *found.get("threads_batch", [])]
    assert all(1 <= count <= max(1, box.online - 1) for count in counts)


def test_of_a_hybrid_processor_the_fast_cores_are_tried() -> None:
    found = tried(rig_of(threads=12), HYBRID)
    assert 8 in found["threads"]
    assert found["cpu_affinity"] == ["0-15"]


def test_what_is_declared_already_is_not_tried() -> None:
    rig = rig_of(ubatch=2048, threads=8)
    for one in candidates(rig, rig.models[0], DESKTOP):
        assert with_settings(rig.models[0], one.settings) != rig.models[0], one


def test_a_ubatch_made_tiny_has_larger_ones_to_be_tried() -> None:
    assert {64, 128, 512, 2048} <= set(tried(rig_of(ubatch=32, batch=32))["ubatch"])


def test_a_batch_is_at_least_one_ubatch() -> None:
    for one in candidates(rig_of(ubatch=2048), rig_of(ubatch=2048).models[0], DESKTOP):
        settings = with_settings(rig_of(ubatch=2048).models[0], one.settings).serve
        assert settings.batch >= settings.ubatch


def test_offload_is_tried_only_where_weights_may_be_in_ram_and_a_gpu_computes() -> None:
    assert {"op_offload", "min_batch", "load_mode", "graphs", "huge_pages"} <= tried(rig_of()).keys()
    on_gpu = tried(rig_of(placement=d.all_on_gpu()))
    assert not {"op_offload", "min_batch", "load_mode", "huge_pages"} & on_gpu.keys()
    on_cpu = tried(rig_of(backend="cpu", placement=d.cpu_only()))
    assert not {"op_offload", "min_batch", "graphs"} & on_cpu.keys()


def test_cheap_candidates_come_before_those_that_need_dry_runs() -> None:
    knobs = list(tried(rig_of(), builds=("vulkan",)))
    assert knobs.index("threads") < knobs.index("load_mode") < knobs.index("ubatch") < knobs.index("build")


def test_multi_token_prediction_is_tried_where_the_file_has_it() -> None:
    kinds = [value["types"] for value in tried(rig_of())["speculation"]]
    assert kinds == [["ngram-mod"], ["ngram-simple"]]
    with_mtp = Box(online=16, cores=8, predicts=True)
    assert ["draft-mtp"] in [value["types"] for value in tried(rig_of(), with_mtp)["speculation"]]


def test_declared_speculation_is_tried_without() -> None:
    assert tried(rig_of(speculation=d.speculation(types=("ngram-mod",))))["speculation"] == [None]


def test_the_best_of_each_knob_is_put_together() -> None:
    rig = rig_of()
    of_name = {one.name: one for one in candidates(rig, rig.models[0], DESKTOP)}
    best = [(of_name["threads 4"], 0.05), (of_name["ubatch 1024"], 0.2), (of_name["ubatch 2048"], 0.3)]
    together, alone = combined(rig.models[0], best)
    assert together.settings == {"ubatch": 2048, "threads": 4}
    assert alone.name == "ubatch 2048"
    assert combined(rig.models[0], best[:1]) == [of_name["threads 4"]]
    assert combined(rig.models[0], []) == []


def test_without_offload_its_threshold_is_left_out() -> None:
    rig = rig_of()
    of_name = {one.name: one for one in candidates(rig, rig.models[0], DESKTOP)}
    best = [(of_name["op_offload off"], 0.2), (of_name["GGML_OP_OFFLOAD_MIN_BATCH 512"], 0.1)]
    assert combined(rig.models[0], best)[0].settings == {"op_offload": False}


def test_cpus_are_written_as_systemd_reads_them() -> None:
    assert cpu_list({0, 1, 2, 5, 7, 8}) == "0-2,5,7-8"
    assert cpu_list({3}) == "3"
