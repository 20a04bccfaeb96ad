"""The unit of every profile is accepted by the box's systemd and by the argument parser of the pinned llama-server."""

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
def release(converged: Deployment) -> str:
    """The release that serves the box's model: the pinned commit, built for CPUs.

    Read from the unit, because other tests leave further releases on the box.
    """
    unit = converged.shell("systemctl cat llamarig-tiny.service")
    found = re.search(r"/opt/llamarig/llama\.cpp/[^/\s]+(?=/bin/llama-server)", unit)
    assert found, unit
    return found[0]


@pytest.fixture
def unit_file(deployment: Deployment, request: pytest.FixtureRequest, release: str) -> Iterator[str]:
    """Path of a profile's unit file on the box, with the box's release, outside of systemd's unit directories."""
    wanted: Wanted = request.param
    directory = Path("/run/profile-units")
    text = re.sub(r"/opt/llamarig/llama\.cpp/\S+?/bin", f"{release}/bin", wanted.text)
    deployment.shell(f"mkdir -p {directory}; cat >{directory}/{wanted.unit} <<'END'\n{text}\nEND")
    yield f"{directory}/{wanted.unit}"
    deployment.shell(f"rm -r {directory}")


@pytest.mark.parametrize("unit_file", PROFILES, indirect=True)
def test_systemd_accepts_a_profiles_unit(deployment: Deployment, unit_file: str) -> None:
    assert deployment.shell(f"systemd-analyze verify --recursive-errors=no {unit_file} 2>&1") == ""


@pytest.mark.parametrize("unit_file", PROFILES, indirect=True)
def test_the_exposure_of_a_gpu_unit_is_at_most_1_7(deployment: Deployment, unit_file: str) -> None:
    # systemd-analyze takes a unit without default dependencies for one of the early boot, and then leaves out four
    # settings ("not appropriate"). The unit has them, and depends on what units do by default.
    deployment.shell(f"grep -q '^ProtectSystem=strict' {unit_file} && sed -i '/^DefaultDependencies=no/d' {unit_file}")
    assert exposure(deployment, f"--offline=true {unit_file}") <= 1.7


def test_the_exposure_of_a_cpu_unit_is_at_most_1_5(deployment: Deployment) -> None:
    assert exposure(deployment, "llamarig-tiny.service") <= 1.5


def test_the_exposure_of_the_liveness_probe_is_at_most_2_5(deployment: Deployment) -> None:
    assert deployment.shell("systemd-analyze verify /etc/systemd/system/llamarig_liveness.* 2>&1") == ""
    assert exposure(deployment, "llamarig_liveness.service") <= 2.5


def exposure(deployment: Deployment, unit: str) -> float:
    """Overall exposure level of a unit by `systemd-analyze security`: 0 (sandboxed) to 10."""
    output = deployment.shell(f"systemd-analyze security --no-pager {unit} 2>&1 | tail -n 1")
    found = re.search(r"Overall exposure level for .*: ([\d.]+)", output)
    assert found, output
    return float(found[1])


@pytest.mark.parametrize("wanted", PROFILES)
def test_llama_server_accepts_a_profiles_command_line(deployment: Deployment, release: str, wanted: Wanted) -> None:
    arguments = [
        KEY if argument == wanted.model.serve.api_key_file or argument.startswith("/run/credentials/") else argument
        for argument in wanted.arguments[1:]
    ]
    command = shlex.join([f"{release}/bin/llama-server", *arguments, "--help"])
    deployment.shell(f"echo key >{KEY}; {command} >/dev/null")


# Shows that the test above would find a wrong flag: llama-server parses all flags even with --help.
@pytest.mark.parametrize(
    "arguments", [["--no-mmap"], ["--ctx-size", "many"], ["--override-tensor", "exps=CUDA7"], ["--spec-type", "magic"]]
)
def test_llama_server_rejects_an_invalid_command_line(
    deployment: Deployment, release: str, arguments: list[str]
) -> None:
    command = shlex.join([f"{release}/bin/llama-server", *arguments, "--help"])
    assert deployment.shell(f"{command} >/dev/null 2>&1; echo $?") == "1"
