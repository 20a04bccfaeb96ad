"""Servers that are placed on a GPU and serve from the CPU."""

from __future__ import annotations

from typing import Any

from llamarig.checks.base import Severity
from llamarig.checks.box import Box

from tests.checks.example_boxes import BOX_B, UNIT_B, B, look, rig, served

LINE = "warning: no usable GPU found, --gpu-layers option will be ignored"
READY: dict[str, Any] = {"listens": ("127.0.0.1:8001",)}


def test_the_log_of_a_running_server_is_evidence_even_if_its_devices_are_open() -> None:
    (finding,) = look("llama.gpu", B, Box(strays=served(**READY, devices=("nvidia0",), no_gpu=LINE)))
    assert (finding.found, finding.severity) == (f"serves from the CPU (its log: {LINE})", Severity.ERROR)
    assert f"systemctl restart {UNIT_B}" in finding.remedy


def test_a_process_without_a_device_is_found_where_the_log_is_gone() -> None:
    (finding,) = look("llama.gpu", B, Box(strays=served(**READY, devices=())))
    assert finding.found == "serves from the CPU (it has no device of a GPU open)"


def test_no_finding_without_evidence() -> None:
    assert look("llama.gpu", B, Box(strays=served(**READY, devices=None))) == [], "devices hidden"
    assert look("llama.gpu", B, Box(strays=served(devices=()))) == [], "it does not listen yet"
    models = [{**each, "serve": {**each["serve"], "placement": {"kind": "cpu-only"}}} for each in BOX_B["models"]]
    assert look("llama.gpu", rig({**BOX_B, "models": models}), Box(strays=served(**READY, devices=()))) == []
