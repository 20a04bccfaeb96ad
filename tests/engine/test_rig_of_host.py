"""Boxes of one inventory that share a build; the cards of each are read once.

pyinfra's own @fake connector stands in for the boxes. nvidia-smi's output is a real card's, with another capability.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from llamarig import declare as d
from llamarig.declare.rig import Rig
from llamarig.engine.rig_of_host import rig_of_host
from llamarig.render.release import release_id
from pyinfra.api.config import Config
from pyinfra.api.connect import connect_all, disconnect_all
from pyinfra.api.exceptions import PyinfraError
from pyinfra.api.host import Host
from pyinfra.api.inventory import Inventory
from pyinfra.api.state import State, StateStage
from pyinfra.context import ctx_config, ctx_host, ctx_inventory, ctx_state

CARD = (Path(__file__).parents[1] / "facts/data/gpu/h200_two_idle.txt").read_text().splitlines()[1]
BIG, SMALL, OTHER = "@fake/big", "@fake/small", "@fake/other"


def box(name: str, *capabilities: str, kv: str = "f16", **build: Any) -> tuple[str, dict[str, Any]]:
    fields = {"name": "cuda", "cuda_toolkit": "13.0", "built_by": BIG, **build}
    serve = d.serve(port=8080, context=4096, cache_type_k=kv, cache_type_v=kv)  # type: ignore[arg-type]
    rig = d.rig(
        builds=[d.build(**fields)],
        models=[d.model(name="m", repo="o/r", quant="Q4_K_M", build="cuda", serve=serve)],
    )
    cards = [CARD.replace(", 9.0,", f", {capability},") for capability in capabilities]
    output = "\n".join(["@@llamarig 0", "== nvidia", *(cards or ["none"]), "", "@@llamarig ok"])
    return name, {"rig": rig, "fake_responses": {"nvidia-smi": output}, "fake_delay": 0, "fake_delay_jitter": 0}


@contextmanager
def connected(boxes: Sequence[tuple[str, dict[str, Any]]], limit: Sequence[str] = ()) -> Iterator[list[Host]]:
    # pyinfra annotates neither of the two.
    inventory, config = Inventory((list(boxes), {})), Config()  # type: ignore[no-untyped-call]
    state = State()
    with ctx_state.use(state), ctx_inventory.use(inventory), ctx_config.use(config):
        hosts = [inventory.get_host(name) for name in limit or [name for name, _ in boxes]]
        state.init(inventory, config, initial_limit=hosts)
        state.set_stage(StateStage.Connect)
        connect_all(state)
        state.set_stage(StateStage.Prepare)
        try:
            yield hosts
        finally:
            disconnect_all(state)


def rig_on(host: Host) -> Rig:
    with ctx_host.use(host):
        return rig_of_host()


def card_reads(host: Host) -> int:
    return sum("nvidia-smi" in str(command) for command in host.connector.executed_commands)  # type: ignore[attr-defined]


def test_a_shared_release_has_one_name_for_the_cards_and_models_of_all() -> None:
    boxes = [box(SMALL, "12.0"), box(BIG, "8.9", kv="q4_1"), box(OTHER, "8.9", "8.6")]
    with connected(boxes) as hosts:
        rigs = [rig_on(host) for host in hosts for _ in range(3)]
        assert {rig.builds[0].architectures for rig in rigs} == {("89-real", "86-real", "120a-real")}
        assert {rig.builds[0].kv_cache_pairs for rig in rigs} == {("q4_1-q4_1",)}
        assert len({release_id(rig.builds[0], rig.models) for rig in rigs}) == 1
        assert [card_reads(host) for host in hosts] == [1, 1, 1]


def test_a_driver_that_hangs_is_one_message_of_the_box_whose_driver_it_is() -> None:
    """Also where another box of the run shares the build, and so needs the architectures of that box's cards."""
    name, data = box(BIG, "8.9")
    hangs = data | {"fake_responses": {"nvidia-smi": "== nvidia\n\n@@question late"}}
    with connected([(name, hangs), box(SMALL, "12.0")]) as hosts:
        for host in hosts:
            with pytest.raises(PyinfraError, match=r"@fake/big: reading its gpus did not end within 60 s.* driver may"):
                rig_on(host)


def test_declared_architectures_need_no_card_to_be_read() -> None:
    boxes = [box(BIG, "8.9", architectures=("89-real",)), box(SMALL, "12.0", architectures=("120a-real",))]
    with connected(boxes, limit=[SMALL]) as (small,):
        assert rig_on(small).builds[0].architectures == ("89-real", "120a-real")
        assert card_reads(small) == 0


def test_a_box_that_is_not_part_of_the_run_is_refused() -> None:
    with connected([box(BIG, "8.9"), box(SMALL, "12.0")], limit=[SMALL]) as (small,):
        with pytest.raises(PyinfraError) as refused:
            rig_on(small)
        for word in (SMALL, "build 'cuda'", f"{BIG} is not part of this run", "declare the build's architectures"):
            assert word in str(refused.value)


def test_a_builder_that_is_in_no_inventory_is_refused() -> None:
    no_box = r"@fake/small: build 'cuda': built_by = 'big\.lan' is not in this inventory"
    with connected([box(SMALL, "12.0", built_by="big.lan")]) as (small,), pytest.raises(PyinfraError, match=no_box):
        rig_on(small)


def test_boxes_that_share_nothing_do_not_read_each_others_cards() -> None:
    with connected([box(BIG, "8.9", built_by=None), box(SMALL, "12.0", built_by=None)]) as (big, small):
        assert rig_on(small).builds[0].architectures == ("120a-real",)
        assert (card_reads(big), card_reads(small)) == (0, 1)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({}, "is in no group that declares a rig"),
        ({"rig": "cpu"}, "rig = 'cpu' is not a declaration"),
        ({"rig": {"builds": []}}, "rig"),
    ],
)
def test_a_host_without_a_valid_rig_is_refused(data: dict[str, Any], words: str) -> None:
    with connected([(SMALL, data)]) as (small,), pytest.raises(PyinfraError) as refused:
        rig_on(small)
    assert SMALL in str(refused.value)
    assert words in str(refused.value)
