"""A GPU model that would serve from the CPU: its start fails; audit and liveness probe report a running one.

The server, its log, its unit and the switch are real. Its GPU is a simulated one (remote/build/simulated_gpu.cpp), in a
library that the wrong unit does not find, as a unit with a wrong list of devices does not find its driver.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator

import pytest
from llamarig.checks.box import Box
from llamarig.checks.llama_cpp import OnGpu
from llamarig.declare.rig import Rig
from llamarig.declare.simulated_gpu import SimulatedGpu
from llamarig.facts.stray_settings import Strays, StraySettings
from llamarig.items.simulated_gpus import simulation_library
from llamarig.placement.devices import simulation_environment
from llamarig.render import layout

from tests.box import machine
from tests.box.deployment import Deployment, wait_for

pytestmark = pytest.mark.box

UNIT = "llamarig-tiny.service"
FILE = f"/etc/systemd/system/{UNIT}"
JOB = "/var/lib/llamarig/jobs/switch-tiny"
LINE = "warning: no usable GPU found, --gpu-layers option will be ignored"
LIVENESS = "llamarig_liveness.service"


@pytest.fixture(scope="module")
def on_a_gpu(converged: Deployment, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """The rehearsal's model on a simulated card."""
    variant = converged.variant(tmp_path_factory.mktemp("on-a-gpu"))
    outcome = variant.run(script="tests/box/deploy_plan_prerequisites.py")
    assert outcome.code == 0, str(outcome)
    card = SimulatedGpu(name="card", total_mib=1000, free_mib=900)
    library = simulation_library(Rig.model_validate(variant.rig).builds[0])
    environment = simulation_environment((card,), library)
    serve = variant.rig["models"][0]["serve"]
    serve.update(
        placement={"kind": "all-on-gpu"},
        environment={name: value for name, value in environment.items() if name != "CUDA_VISIBLE_DEVICES"},
        readable_paths=[layout.SIMULATED],
    )
    outcome = variant.run()
    assert outcome.code == 0, str(outcome)
    yield variant
    converged.shell("systemctl enable -q --now llamarig_liveness.timer")
    assert converged.run().code == 0


def wrong_unit(box: Deployment) -> str:
    """The unit's text with a library that is not there."""
    text = box.shell(f"cat {FILE}") + "\n"
    library = simulation_library(Rig.model_validate(box.rig).builds[0])
    assert text.count(f"={library}") == 1
    return text.replace(f"={library}", "=/nowhere/libggml-cuda.so")


def servers(box: Deployment) -> Strays:
    return StraySettings().process(box.shell(StraySettings().command()).splitlines())


def test_a_start_that_finds_no_gpu_fails_and_what_served_serves_again(on_a_gpu: Deployment) -> None:
    before = on_a_gpu.shell(f"cat {FILE}")
    job = json.loads(on_a_gpu.shell(f"cat {JOB}/job.json"))
    job |= {"text": wrong_unit(on_a_gpu), "needs_gpu": True}
    on_a_gpu.write(f"{JOB}/job.json", json.dumps(job))
    on_a_gpu.shell(
        f"cd /opt/llamarig/lib && python3 -B -m llamarig.remote.serve.switch_unit {JOB} >/dev/null 2>&1; true",
        timeout=300,
    )
    status = json.loads(on_a_gpu.shell(f"cat {JOB}/status.json"))
    assert status["state"] == "failed"
    assert f"serves from the CPU, although its model is placed on a GPU (its log: {LINE})" in status["message"]
    assert f"{UNIT} serves again as before" in status["message"]
    assert on_a_gpu.shell(f"cat {FILE}") == before


def test_the_line_is_logged_only_where_no_gpu_was_found(on_a_gpu: Deployment) -> None:
    """By the real program. An override makes it load the simulated card before it looks, as builds for GPUs do."""
    environment = on_a_gpu.rig["models"][0]["serve"]["environment"]
    library = environment["GGML_BACKEND_PATH"]
    variables = " ".join(f"{name}={shlex.quote(value)}" for name, value in environment.items())
    server = on_a_gpu.shell(f"readlink /proc/$(systemctl show {UNIT} -p MainPID --value)/exe")
    look = f"{variables} LLAMA_ARG_OVERRIDE_TENSOR=unused=CPU {server} --n-gpu-layers 99 --version 2>&1"
    assert LINE not in on_a_gpu.shell(look)
    assert LINE in on_a_gpu.shell(look.replace(library, "/nowhere/libggml-cuda.so"))


def found_by_an_audit(box: Deployment) -> list[str]:
    """What the check finds with this box's facts, for a build with a GPU backend."""
    build = {**box.rig["builds"][0], "backend": "vulkan"}
    rig = Rig.model_validate({**box.rig, "builds": [build]})
    return [finding.found for finding in OnGpu().look(rig, Box(strays=servers(box)))]


def said_by_liveness(box: Deployment) -> str:
    # Not by the invocation's ID: without its timer, systemd forgets a unit that has ended.
    cursor = box.shell("journalctl --sync; journalctl -n 0 --show-cursor | sed -n 's/^-- cursor: //p'")
    box.shell(f"systemctl start {LIVENESS}")
    return box.shell(f"journalctl --sync; journalctl -u {LIVENESS} --after-cursor='{cursor}' -o cat --no-pager")


def test_audit_and_liveness_probe_report_it_after_a_boot(on_a_gpu: Deployment) -> None:
    # As the unit of a GPU build, which opens single devices.
    text = wrong_unit(on_a_gpu).replace("PrivateDevices=yes", "DevicePolicy=closed")
    on_a_gpu.write(FILE, text)
    # Without the timer, whose own round could come first.
    on_a_gpu.shell(f"systemctl enable {UNIT}; systemctl disable -q llamarig_liveness.timer")
    machine.down(on_a_gpu.box)
    machine.up(on_a_gpu.box)
    on_a_gpu.shell("rm -rf /run/llamarig_liveness")
    health = f"curl -s --noproxy '*' {shlex.quote(on_a_gpu.address)}/health"
    wait_for(lambda: on_a_gpu.shell(f"{health}; true") == '{"status":"ok"}', "the server after the boot")
    assert found_by_an_audit(on_a_gpu) == [f"serves from the CPU (its log: {LINE})"]
    assert [server.devices for server in servers(on_a_gpu).servers] == [()]

    pid = on_a_gpu.shell(f"systemctl show {UNIT} -p MainPID --value")
    first = said_by_liveness(on_a_gpu)
    assert f"{UNIT} serves from the CPU, although its model is placed on a GPU ({LINE}): restarting it" in first
    wait_for(lambda: on_a_gpu.shell(f"systemctl show {UNIT} -p MainPID --value") not in ("0", pid), "its restart")
    wait_for(lambda: on_a_gpu.shell(f"{health}; true") == '{"status":"ok"}', "the server after its restart")
    pid = on_a_gpu.shell(f"systemctl show {UNIT} -p MainPID --value")
    assert "also after a restart: see whether the driver works" in said_by_liveness(on_a_gpu)
    assert on_a_gpu.shell(f"systemctl show {UNIT} -p MainPID --value") == pid, "it is restarted once"
