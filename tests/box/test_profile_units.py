"""The unit of every profile before the box's own systemd and the pinned llama-server's own parser."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from llamarig.items.wanted_unit import Wanted

from tests.box.deployment import Deployment
from tests.render.golden_units import units

pytestmark = pytest.mark.box

PROFILES = [pytest.param(wanted, id=name) for name, wanted in units()]
KEY = "/run/test-key"


@pytest.fixture(scope="module")
def release(first_run: tuple[Deployment, object]) -> str:
    """The release that serves the box's model: the pinned commit, built for CPUs.

    Other tests leave further releases beside it, so it is read from the unit.
    """
    unit = first_run[0].shell("systemctl cat llamarig-tiny.service")
    found = re.search(r"/opt/llamarig/llama\.cpp/[^/\s]+(?=/bin/llama-server)", unit)
    assert found, unit
    return found[0]


@pytest.fixture
def placed(deployment: Deployment, request: pytest.FixtureRequest, release: str) -> Iterator[str]:
    """A profile's unit file on the box, with the release that the box has; it is not known to systemd."""
    wanted: Wanted = request.param
    directory = Path("/run/profile-units")
    text = re.sub(r"/opt/llamarig/llama\.cpp/\S+?/bin", f"{release}/bin", wanted.text)
    deployment.shell(f"mkdir -p {directory}; cat >{directory}/{wanted.unit} <<'END'\n{text}\nEND")
    yield f"{directory}/{wanted.unit}"
    deployment.shell(f"rm -r {directory}")


@pytest.mark.parametrize("placed", PROFILES, indirect=True)
def test_systemd_verifies_a_profiles_unit(deployment: Deployment, placed: str) -> None:
    assert deployment.shell(f"systemd-analyze verify --recursive-errors=no {placed} 2>&1") == ""


@pytest.mark.parametrize("placed", PROFILES, indirect=True)
def test_a_gpu_units_exposure_is_low(deployment: Deployment, placed: str) -> None:
    assert exposure(deployment, f"--offline=true {placed}") <= 2.5


def test_a_cpu_units_exposure_is_lower(deployment: Deployment) -> None:
    assert exposure(deployment, "llamarig-tiny.service") <= 1.5


def test_the_liveness_probe_is_hardened_too(deployment: Deployment) -> None:
    assert deployment.shell("systemd-analyze verify /etc/systemd/system/llamarig_liveness.* 2>&1") == ""
    assert exposure(deployment, "llamarig_liveness.service") <= 2.5


def exposure(deployment: Deployment, unit: str) -> float:
    output = deployment.shell(f"systemd-analyze security --no-pager {unit} 2>&1 | tail -n 1")
    found = re.search(r"Overall exposure level for .*: ([\d.]+)", output)
    assert found, output
    return float(found[1])


@pytest.mark.parametrize("wanted", PROFILES)
def test_llama_servers_own_parser_takes_a_profiles_command_line(
    deployment: Deployment, release: str, wanted: Wanted
) -> None:
    arguments = [
        KEY if argument == wanted.model.serve.api_key_file or argument.startswith("/run/credentials/") else argument
        for argument in wanted.arguments[1:]
    ]
    command = shlex.join([f"{release}/bin/llama-server", *arguments, "--help"])
    deployment.shell(f"echo key >{KEY}; {command} >/dev/null")


@pytest.mark.parametrize(
    "arguments", [["--no-mmap"], ["--ctx-size", "many"], ["--override-tensor", "exps=CUDA7"], ["--spec-type", "magic"]]
)
def test_the_parser_would_have_refused(deployment: Deployment, release: str, arguments: list[str]) -> None:
    command = shlex.join([f"{release}/bin/llama-server", *arguments, "--help"])
    assert deployment.shell(f"{command} >/dev/null 2>&1; echo $?") == "1"
