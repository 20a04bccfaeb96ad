"""The number of layers that a unit asks to be on GPUs, by the header of its model on the box."""

from __future__ import annotations

import json
from typing import Any

import pytest
from llamarig.engine.item import Query, query
from llamarig.facts.capacity import Capacity
from llamarig.facts.model_headers import ModelHeaders
from llamarig.facts.model_store import ModelStore
from llamarig.facts.releases import Releases
from llamarig.items.model_headers import served_files
from llamarig.items.model_units import ServedModels, unit_query, wanted_units
from llamarig.items.releases import release_directories
from llamarig.render.model_paths import target

from tests.items.converged_box import LOCKED, Box, control_machine, release_output, store_output
from tests.placement.cuda_rig import rig

EVERYTHING: tuple[dict[str, Any], ...] = (
    {"kind": "all-on-gpu"},
    {"kind": "cpu-moe", "layers": 4},
    {"kind": "override", "rules": ["exps=CPU"]},
)


def box(layers: int | None, placement: dict[str, Any], *, store: str = "", backend: str = "cuda") -> Box:
    """A box with a model of so many layers; None: its header cannot be read."""
    of = rig({"placement": placement, "load_mode": "mmap"}, backend=backend)
    shards = [target(LOCKED, shard) for shard in LOCKED.shards]
    metadata = {"general.architecture": "llama", "llama.block_count": layers}
    tensors = [["blk.0.ffn_up_exps.weight", [2, 3], "F32", 24]]
    lines = [
        json.dumps({"path": path, "tensors": tensors, "metadata": metadata, "length": 1, "sha256": "0" * 64})
        for path in shards
    ]
    outputs: dict[Query[Any], str] = {
        query(Capacity): "MemTotal:       65536000 kB\nkernel 6.12.0\ncpus 0-15",
        query(Releases, directories=release_directories(of)): "\n".join(map(release_output, release_directories(of))),
        query(ModelStore): store or store_output([LOCKED]),
        unit_query(of): "",
    }
    if layers is not None:
        outputs[query(ModelHeaders, paths=sorted(shards))] = "\n".join(lines)
    return Box(of, control_machine(of), outputs)


def on_gpus(there: Box) -> str:
    """What the unit's command line asks for."""
    (wanted,) = wanted_units(there.rig, there.seen(ServedModels()))
    return wanted.arguments[wanted.arguments.index("--n-gpu-layers") + 1]


@pytest.mark.parametrize("placement", EVERYTHING)
def test_all_layers_of_a_model_with_more_than_98_are_on_gpus(placement: dict[str, Any]) -> None:
    assert on_gpus(box(126, placement)) == "127"
    assert on_gpus(box(99, placement)) == "100"


@pytest.mark.parametrize("placement", EVERYTHING)
def test_a_unit_of_a_model_with_fewer_stays_as_an_earlier_version_wrote_it(placement: dict[str, Any]) -> None:
    assert on_gpus(box(48, placement)) == "99"
    assert on_gpus(box(98, placement)) == "99"
    assert on_gpus(box(None, placement)) == "99", "a header that cannot be read"
    replaced = store_output([LOCKED]).replace("0.000000005", "0.000000006")
    assert on_gpus(box(126, placement, store=replaced)) == "99", "another file under that name"


def test_a_declared_number_is_taken() -> None:
    assert on_gpus(box(126, {"kind": "override", "rules": ["exps=CPU"], "gpu_layers": 99})) == "99"


def test_no_header_is_read_for_a_build_without_a_gpu() -> None:
    of = rig({"placement": EVERYTHING[0]}, backend="cpu")
    here = control_machine(of)
    assert ModelHeaders not in [each.fact for each in ServedModels().queries(of, here)]
    there = box(126, EVERYTHING[0], backend="cpu")
    assert served_files(there.rig, there.seen(ServedModels()), there.rig.models[0], LOCKED).positions == 0
