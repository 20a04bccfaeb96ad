"""Deploys that are killed during a build, a download or a switch: the next run finishes, nothing incomplete serves."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.box import machine, second_model
from tests.box.deployment import Deployment, kill, wait_for
from tests.box.hub import Hub
from tests.box.hub_faults import Fault
from tests.box.rehearse import chat
from tests.box.second_model import SECOND

pytestmark = pytest.mark.box


TINY = "llamarig-tiny.service"
UNIT = f"/etc/systemd/system/{TINY}"
RESERVED = "tests/box/deploy_reserved_box.py"
JOURNAL = "/var/lib/llamarig/proofs/switch-journal"


@pytest.fixture
def interrupted(variant: Deployment, deployment: Deployment) -> Iterator[Deployment]:
    """A variant whose deploy a test may kill; afterwards the original declaration converges and its model answers."""
    second_model.remove(deployment)
    yield variant
    machine.up(deployment.box)  # whatever a test that cuts its power came to
    deployment.shell(f"rm -rf /run/systemd/system/{TINY}.d; systemctl daemon-reload")
    second_model.remove(deployment)
    outcome = deployment.run()
    assert outcome.code == 0, str(outcome)
    assert chat(deployment.address, "All as before?")


def job_status(deployment: Deployment, name: str) -> dict[str, object]:
    status: dict[str, object] = json.loads(
        deployment.shell(f"cat /var/lib/llamarig/jobs/{name}/status.json || echo {{}}")
    )
    return status


def newest_build_job(deployment: Deployment) -> str:
    return deployment.shell("ls -t /var/lib/llamarig/jobs | grep ^build- | head -n 1")


def test_a_deploy_killed_during_a_build_is_finished_by_the_next(interrupted: Deployment, tmp_path: Path) -> None:
    """The next deploy waits for the same build; when that is killed too, the one after it builds again."""
    # llama.cpp has no such option: another release, whose objects the compiler cache has already.
    interrupted.rig["builds"][0]["cmake"] = {"LLAMARIG_TEST": "interrupted"}
    running = interrupted.start(log=tmp_path / "log")
    wait_for(lambda: "compiling" in running.output(), "the first compiled object", deploy=running)
    kill(running)
    name = newest_build_job(interrupted)
    # Pause the build: with a warm ccache it would end before the next deploy finds it.
    interrupted.shell(f"systemctl kill -s SIGSTOP 'llamarig-job-{name}_*'")
    assert job_status(interrupted, name)["state"] == "running"
    assert chat(interrupted.address, "Do you still serve?")
    unit = interrupted.shell(f"systemctl show 'llamarig-job-{name}_*' -p InvocationID --value")
    assert unit, "the build ended with the connection that started it"

    again = interrupted.start(log=tmp_path / "again")
    wait_for(lambda: "already running" in again.output(), "the second deploy to find the build", deploy=again)
    assert interrupted.shell(f"systemctl show 'llamarig-job-{name}_*' -p InvocationID --value") == unit
    # Kill the build itself, as the OOM killer would.
    interrupted.shell(f"systemctl kill -s SIGKILL 'llamarig-job-{name}_*'")
    assert again.exit_code() != 0
    assert "was interrupted" in again.output()
    assert interrupted.shell("ls -d /opt/llamarig/llama.cpp/*.part 2>/dev/null || true") == ""
    assert chat(interrupted.address, "Do you still serve?")

    finished = interrupted.run()
    assert finished.code == 0, str(finished)
    assert "Models served" in finished.changed
    assert interrupted.run().changed == []


def test_a_deploy_killed_during_a_download_is_finished_by_the_next(
    interrupted: Deployment, hub: Hub, tmp_path: Path
) -> None:
    second_model.declare(interrupted, hub)
    hub.faults.add(Fault(origin="cdn", path=f"/repos/{SECOND}/*", bytes_per_s=300_000))
    # All shards are fetched at the same time; slow down two, so that the first is complete long before them.
    hub.faults.add(Fault(origin="cdn", path=f"/repos/{SECOND}/*-0000[23]-of-*", bytes_per_s=10_000))
    running = interrupted.start(log=tmp_path / "log")
    wait_for(lambda: "downloading" in running.output(), "the first downloaded byte", deploy=running)
    kill(running)
    assert job_status(interrupted, "fetch")["state"] == "running"
    arrived = f"find /var/lib/llamarig/models/{SECOND} -name '*.gguf' 2>/dev/null | wc -l"
    unfinished = f"find /var/lib/llamarig/models/{SECOND} -name '*-0000[23]-of-*' 2>/dev/null | wc -l"
    assert interrupted.shell(unfinished) == "0", "an incomplete shard has its final name"

    again = interrupted.start(log=tmp_path / "again")
    wait_for(lambda: "already running" in again.output(), "the second deploy to find the download", deploy=again)
    # Kill the download itself once one shard is complete.
    wait_for(lambda: interrupted.shell(arrived) == "1", "the first complete shard", deploy=again)
    interrupted.shell("systemctl kill -s SIGKILL 'llamarig-job-fetch_*'")
    assert again.exit_code() != 0
    assert "was interrupted" in again.output()
    assert interrupted.shell("test -e /etc/systemd/system/llamarig-second.service && echo there || echo none") == "none"
    assert chat(interrupted.address, "Do you still serve?")

    hub.faults.clear()
    hub.log.clear()
    finished = interrupted.run()
    assert finished.code == 0, str(finished)
    fetched = {request.path for request in hub.log.requests() if request.origin == "cdn"}
    assert len(fetched) == 2, f"the complete shard was fetched again: {fetched}"
    assert chat(f"http://127.0.0.1:{interrupted.box.port + 11}", "And you?")


def test_a_deploy_killed_between_two_switches_is_finished_by_the_next(
    interrupted: Deployment, hub: Hub, tmp_path: Path
) -> None:
    second_model.declare(interrupted, hub)
    interrupted.rig["models"][0]["serve"]["ubatch"] = 256
    running = interrupted.start(log=tmp_path / "log")
    ubatch = "grep -c -- '--ubatch-size 256' /etc/systemd/system/llamarig-tiny.service || true"
    wait_for(lambda: interrupted.shell(ubatch) == "1", "the first unit's new text", deploy=running)
    kill(running)
    wait_for(
        lambda: job_status(interrupted, "switch-tiny").get("state") == "done",
        "the end of the switch, which continues after the kill",
    )
    finished = interrupted.run()
    assert finished.code == 0, str(finished)
    for port in (10, 11):
        assert chat(f"http://127.0.0.1:{interrupted.box.port + port}", "Who are you?")
    assert interrupted.run().changed == []


def test_a_killed_switch_is_finished_by_the_next_deploy(interrupted: Deployment, tmp_path: Path) -> None:
    """The program on the box that switches units is killed after it has stopped the old server."""
    interrupted.rig["models"][0]["serve"]["ubatch"] = 128
    running = interrupted.start(log=tmp_path / "log")
    ubatch = "grep -c -- '--ubatch-size 128' /etc/systemd/system/llamarig-tiny.service || true"
    wait_for(lambda: interrupted.shell(ubatch) == "1", "the new unit text", deploy=running)
    interrupted.shell("systemctl kill -s SIGKILL 'llamarig-job-switch-tiny_*'; true")
    running.exit_code()
    finished = interrupted.run()
    assert finished.code == 0, str(finished)
    assert chat(interrupted.address, "Back again?")
    assert interrupted.run().changed == []


@pytest.fixture
def switching(interrupted: Deployment, tmp_path: Path) -> tuple[Deployment, str]:
    """A deploy on the box whose switch has stopped the old server and waits for the new one; and the old unit file."""
    old = interrupted.shell(f"cat {UNIT}")
    interrupted.rig["models"][0]["serve"]["ubatch"] = 64
    # Until the next boot: every start of the unit takes ten minutes.
    slow = "[Service]\\nExecStartPre=+/bin/sleep 600\\nTimeoutStartSec=infinity\\n"
    interrupted.shell(
        f"mkdir -p /run/systemd/system/{TINY}.d && printf '{slow}' >/run/systemd/system/{TINY}.d/slow.conf"
    )
    running = interrupted.start(log=tmp_path / "log")
    starts = f"systemctl show {TINY} -p SubState --value"
    wait_for(lambda: interrupted.shell(starts) == "start-pre", "the start of the new server", deploy=running)
    assert interrupted.shell(f"cat {UNIT}") != old
    assert interrupted.shell(f"test -e {JOURNAL} && echo there") == "there"
    kill(running)
    return interrupted, old


@pytest.mark.parametrize("follows", ["ExecStopPost", "OnFailure"])
def test_what_served_serves_again_after_its_switch_was_killed(switching: tuple[Deployment, str], follows: str) -> None:
    """Of its whole control group, where a new kernel kills the ExecStopPost=, too: here, there is none then."""
    deployment, old = switching
    deployment.shell(f"rm -r /run/systemd/system/{TINY}.d")
    if follows == "OnFailure":
        unit = deployment.shell("systemctl list-units --plain --no-legend 'llamarig-job-switch-tiny_*'").split()[0]
        deployment.write(f"/run/systemd/system/{unit}.d/test.conf", "[Service]\nExecStopPost=\n")
        deployment.shell("systemctl daemon-reload")
    deployment.shell("systemctl kill -s SIGKILL 'llamarig-job-switch-tiny_*'")
    wait_for(lambda: deployment.shell(f"cat {UNIT}") == old, "the old unit file")
    wait_for(lambda: answers(deployment), "the old server")
    wait_for(lambda: job_status(deployment, "switch-tiny")["state"] != "running", "the end in the status")
    status = job_status(deployment, "switch-tiny")
    assert status["state"] == "failed"
    assert f"{TINY}, which served before, was started again" in str(status["message"])
    assert deployment.shell(f"test -e {JOURNAL} && echo there || echo none") == "none"


def test_what_served_serves_again_after_a_power_cut_during_a_switch(switching: tuple[Deployment, str]) -> None:
    deployment, old = switching
    machine.cut_power(deployment.box)
    machine.up(deployment.box)
    wait_for(lambda: answers(deployment), "the old server")
    assert deployment.shell(f"cat {UNIT}") == old
    assert deployment.shell(f"test -e {JOURNAL} && echo there || echo none") == "none"
    finished = deployment.run()
    assert finished.code == 0, str(finished)
    assert deployment.run().changed == []


def test_a_second_deploy_is_refused_in_words_and_takes_over_on_request(
    switching: tuple[Deployment, str], deployment: Deployment
) -> None:
    """To the original declaration: it stops the switch away from it, which restores what served, the declared."""
    refused = deployment.variant(deployment.directory / "other")
    refused.rig["models"][0]["serve"]["ubatch"] = 32
    outcome = refused.run()
    assert outcome.code != 0
    output = " ".join(outcome.output.split())
    assert "a switch of model 'tiny' to another unit than the declared one" in output
    assert "--data takeover=1" in output
    planning = refused.run(script=RESERVED)
    assert planning.code != 0
    assert "the switch of model tiny by " in " ".join(planning.output.split())
    deployment.shell(f"rm -r /run/systemd/system/{TINY}.d; systemctl daemon-reload")
    taken = refused.run("--data", "takeover=1")
    assert taken.code == 0, str(taken)
    assert chat(deployment.address, "Who is it?")


def test_no_switch_starts_while_plans_are_made(interrupted: Deployment, tmp_path: Path) -> None:
    planning = interrupted.start(log=tmp_path / "log", script=RESERVED)
    plans = "systemctl is-active 'llamarig-job-plan_*' || true"
    wait_for(lambda: interrupted.shell(plans) == "active", "the reservation", deploy=planning)
    interrupted.rig["models"][0]["serve"]["ubatch"] = 96
    outcome = interrupted.run()
    assert outcome.code != 0
    output = " ".join(outcome.output.split())
    assert "the planning of models by " in output
    assert "--data takeover=1" in output
    assert chat(interrupted.address, "Do you still serve?")
    interrupted.shell("touch /run/planned")
    assert planning.exit_code() == 0
    assert interrupted.shell(plans) in ("", "inactive")
    finished = interrupted.run()
    assert finished.code == 0, str(finished)


def answers(deployment: Deployment) -> bool:
    try:
        return bool(chat(deployment.address, "Back again?"))
    except OSError:
        return False
