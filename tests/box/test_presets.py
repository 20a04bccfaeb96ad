"""The preset file is read by the pinned llama-server as declared, and a server in router mode serves from it."""

from __future__ import annotations

import json
import shlex
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from llamarig.render.presets import preset_text
from llamarig.render.server_arguments import server_arguments

from tests.box.deployment import Deployment, wait_for
from tests.box.paths import ADDRESS
from tests.box.rehearse import chat
from tests.render.golden_units import OPTIONS, PINNED, files_of, rigs

pytestmark = pytest.mark.box

SET_BY_ROUTER = ("--host", "--port", "--alias")
SERVER = "$(ls -d /opt/llamarig/llama.cpp/*/bin/llama-server | head -n 1)"


@contextmanager
def router(deployment: Deployment, preset: str) -> Iterator[str]:
    """Run llama-server in router mode on the box and yield its address."""
    port = deployment.box.port + 8
    command = f"exec {SERVER} --models-preset {preset} --models-max 1 --host {ADDRESS} --port {port}"
    deployment.shell(f"systemd-run --quiet --unit=router --setenv=HOME=/tmp sh -c {shlex.quote(command)}")
    health = f"curl -s -o /dev/null --noproxy '*' {ADDRESS}:{port}/health && echo up; true"
    try:
        wait_for(lambda: deployment.shell(health) == "up", "the router")
        yield f"http://{ADDRESS}:{port}"
    finally:
        deployment.shell("systemctl stop router; systemctl reset-failed router 2>/dev/null; true")


def models_of(address: str) -> dict[str, dict[str, Any]]:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(f"{address}/models", timeout=30) as response:
        return {item["id"]: item for item in json.load(response)["data"]}


def options(arguments: list[str]) -> set[tuple[int, bool, str]]:
    """Normalise arguments to (index of the option in --help, whether negated, value); without the router's options."""
    option_of = {spelling: index for index, option in enumerate(OPTIONS) for spelling in option}
    found = set()
    for index, word in enumerate(arguments):
        if word in option_of and word not in SET_BY_ROUTER:
            following = arguments[index + 1 : index + 2]
            value = following[0] if following and following[0] not in option_of else ""
            found.add((option_of[word], word.startswith("--no-"), value))
    return found


def test_llama_server_reads_the_presets_of_every_profile_as_declared(deployment: Deployment) -> None:
    models = [
        (model, server_arguments(model, files_of(model), PINNED)) for rig in rigs().values() for model in rig.models
    ]
    deployment.write("/run/profiles.ini", preset_text(models, ""))
    with router(deployment, "/run/profiles.ini") as address:
        found = models_of(address)
    assert found.keys() == {model.name for model, _ in models}
    for model, arguments in models:
        assert options(found[model.name]["status"]["args"]) == options(arguments), model.name
    assert found["qwen3-coder-mxfp4"]["aliases"] == ["unsloth/Qwen3-Coder-Next"]


@pytest.mark.parametrize("line", ["no-mmap = true", "ctx-sizes = 4096"])
def test_llama_server_rejects_an_invalid_preset(deployment: Deployment, line: str) -> None:
    deployment.write("/run/broken.ini", f"[m]\nmodel = /m.gguf\n{line}\n")
    command = f"timeout 30 {SERVER} --models-preset /run/broken.ini --port {deployment.box.port + 8}"
    assert "not recognized in preset" in deployment.shell(f"{command} 2>&1; test $? = 1")


def test_a_declared_preset_file_is_written_once_and_a_router_serves_from_it(
    variant: Deployment, deployment: Deployment
) -> None:
    variant.rig["presets"] = "cpu"
    try:
        first = variant.run()
        assert (first.code, first.changed) == (0, ["Model presets"]), str(first)
        assert variant.run().changed == []
        with router(variant, "/etc/llamarig/presets/cpu.ini") as address:
            wait_for(lambda: models_of(address)["tiny"]["status"]["value"] == "loaded", "the model loaded on startup")
            assert chat(address, "Who are you?", model="tiny")
    finally:
        variant.shell("rm -rf /etc/llamarig/presets")
    assert deployment.run().changed == []
