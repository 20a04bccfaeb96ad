"""Builds that do not match the box's cards are refused; a box without a driver gets a warning."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from llamarig import declare as d
from llamarig.declare.rig import Rig
from llamarig.engine.control_machine import ControlMachine
from llamarig.engine.item import Difference, Query, Seen, query
from llamarig.facts.gpus import Gpus, GpuState
from llamarig.items.graphics_cards import SupportedCards

H200 = (Path(__file__).parents[1] / "facts/data/gpu/h200_two_idle.txt").read_text()
STATE = Gpus().process(H200.splitlines())
NO_DRIVER = GpuState(problem="nvidia-smi is not installed")


def rig(*architectures: str, backend: Any = "cuda") -> Rig:
    cuda: dict[str, Any] = {"cuda_toolkit": "13.0", "architectures": architectures} if backend == "cuda" else {}
    build = d.build(name="b", backend=backend, **cuda)
    serve = d.serve(port=8080, context=4096)
    return Rig.model_validate(
        d.rig(builds=[build], models=[d.model(name="m", repo="o/r", quant="Q6", build="b", serve=serve)])
    )


def seen(state: GpuState) -> Seen:
    values: dict[Query[Any], Any] = {query(Gpus): state}
    return Seen("box", ControlMachine(), values)


def differences(of: Rig, state: GpuState) -> list[Difference]:
    return SupportedCards().differences(of, seen(state))


def test_cards_with_code_in_the_build() -> None:
    assert differences(rig("90-real"), STATE) == []


def test_a_card_without_code_in_the_build_is_refused() -> None:
    found = differences(rig("89-real"), STATE)
    assert found
    assert not any(one.by_deploy for one in found)


def test_without_a_driver_the_build_is_made_for_later() -> None:
    assert differences(rig("90-real"), NO_DRIVER) == []
    (note,) = SupportedCards().notes(rig("90-real"), seen(NO_DRIVER))
    assert "nvidia-smi is not installed" in note


def test_a_working_driver_is_worth_no_note() -> None:
    assert list(SupportedCards().notes(rig("90-real"), seen(STATE))) == []


def test_a_build_for_the_boxs_own_cards_needs_them_to_be_known() -> None:
    (unknown,) = differences(rig(), NO_DRIVER)
    assert "install the NVIDIA driver, or declare its architectures" in unknown.refusal
    (again,) = differences(rig(), replace(STATE))
    assert "deploy again" in again.refusal


def test_without_a_cuda_build_no_card_is_read() -> None:
    item, of = SupportedCards(), rig(backend="cpu")
    assert list(item.queries(of, ControlMachine())) == []
    assert item.differences(of, Seen("box", ControlMachine(), {})) == []
    assert list(item.notes(of, Seen("box", ControlMachine(), {}))) == []
