"""A deploy brings a fresh Debian box to a serving model; further deploys change nothing."""

from __future__ import annotations

import json
import urllib.request
from pathlib import Path

import pytest

from tests.box import machine, sudo_login
from tests.box.deployment import Deployment, Outcome, wait_for
from tests.box.hub import Hub
from tests.box.rehearse import chat, is_healthy

pytestmark = pytest.mark.box

STORE = "/var/lib/llamarig/models/llamarig/Tiny-Qwen3-Next-GGUF"


def announced(outcome: Outcome) -> list[str]:
    """The operations that would change something according to a dry run."""
    return [step["name"] for step in outcome.plan if step["hosts_with_change"]]


def test_a_fresh_box_converges_in_one_run(seeded: Outcome | None) -> None:
    if seeded is None:
        pytest.skip("this box was kept from the last run, so there was no fresh one")
    assert seeded.code == 0, str(seeded)
    assert "Models served" in seeded.changed
    assert not seeded.failed


def test_the_model_answers_from_outside_the_box(deployment: Deployment) -> None:
    assert chat(deployment.address, "Say hello.")


def test_the_server_has_the_declared_build_and_context(deployment: Deployment) -> None:
    with urllib.request.urlopen(f"{deployment.address}/props", timeout=10) as response:
        properties = json.load(response)
    assert properties["build_info"].endswith(deployment.rig["builds"][0]["source"]["commit"])
    assert properties["default_generation_settings"]["n_ctx"] == deployment.rig["models"][0]["serve"]["context"]


def test_the_three_shards_have_the_locked_sha256_and_the_right_owner(deployment: Deployment) -> None:
    files = deployment.shell(f"find {STORE} -name '*-of-00003.gguf' -printf '%f %m %u %g\\n'").splitlines()
    assert len(files) == 3
    assert all(line.endswith(" 640 root llamarig") for line in files)
    lock = json.loads(Path(deployment.rig["model_lock"]).read_text())
    (locked,) = lock["models"].values()
    on_disk = deployment.shell(f"cd {STORE} && find . -name '*.gguf' -exec sha256sum {{}} + | cut -c1-64")
    assert sorted(on_disk.split()) == sorted(shard["sha256"] for shard in locked["shards"])


def test_a_second_run_changes_nothing(deployment: Deployment) -> None:
    outcome = deployment.run()
    assert outcome.code == 0, str(outcome)
    assert outcome.changed == []
    assert outcome.unchanged >= 13


def test_a_dry_run_of_a_converged_box_announces_nothing(deployment: Deployment) -> None:
    outcome = deployment.run("--dry")
    assert outcome.code == 0, str(outcome)
    assert announced(outcome) == []


def test_a_dry_run_announces_a_change_without_making_it(variant: Deployment, hub: Hub) -> None:
    unit = variant.rig["models"][0]["name"]
    before = variant.shell(
        f"systemctl show llamarig-{unit} -p InvocationID; cat /etc/systemd/system/llamarig-{unit}.service"
    )
    variant.rig["models"][0]["serve"]["context"] = 4096
    hub.log.clear()
    outcome = variant.run("--dry")
    assert outcome.code == 0, str(outcome)
    assert announced(outcome) == ["Models served"]
    after = variant.shell(
        f"systemctl show llamarig-{unit} -p InvocationID; cat /etc/systemd/system/llamarig-{unit}.service"
    )
    assert after == before
    assert hub.log.requests() == []


def test_a_run_that_changes_nothing_sends_no_request_to_the_hub(deployment: Deployment, hub: Hub) -> None:
    hub.log.clear()
    assert deployment.run().changed == []
    assert hub.log.requests() == []


def test_the_model_answers_after_a_restart_of_its_unit(deployment: Deployment) -> None:
    deployment.shell("systemctl restart llamarig-tiny")
    wait_for(lambda: is_healthy(deployment.address), "/health after a restart")
    assert chat(deployment.address, "Still there?")
    assert deployment.run().changed == []


def test_a_rebooted_box_without_network_serves_and_needs_no_change(deployment: Deployment) -> None:
    machine.down(deployment.box)
    machine.up(deployment.box, network="isolated")
    try:
        deployment.shell(
            f"for i in $(seq 60); do curl -sf {deployment.address}/health && exit 0; sleep 0.5; done; exit 1",
            timeout=60,
        )
        outside = machine.ssh(deployment.box, "curl -sS --max-time 5 https://pypi.org", check=False)
        assert outside.returncode != 0, "the box still has network access"
        outcome = deployment.run()
        assert outcome.code == 0, str(outcome)
        assert outcome.changed == []
    finally:
        machine.up(deployment.box)
    wait_for(lambda: is_healthy(deployment.address), "/health after the box was started")
    assert chat(deployment.address, "And now?")


def test_a_user_other_than_root_deploys_with_sudo(variant: Deployment) -> None:
    sudo_login.allow(variant)
    variant.ssh.update(sudo_login.LOGIN)
    outcome = variant.run()
    assert outcome.code == 0, str(outcome)
    assert outcome.changed == []
    shard = f"$(find {STORE} -name '*-00003-of-00003.gguf')"  # other tests may have left models of theirs
    program, unit = (
        "/opt/llamarig/lib/llamarig/remote/shared/job_status.py",
        "/etc/systemd/system/llamarig-tiny.service",
    )
    uploaded = (
        f"stat -c '%n %U:%G %a' {program} {unit} {shard} /var/lib/llamarig/jobs/switch-tiny /var/lib/llamarig/proofs"
    )
    by_root = variant.shell(uploaded)
    variant.shell(f"rm {shard} {program} {unit}; systemctl stop llamarig-tiny")
    repaired = variant.run()
    assert repaired.code == 0, str(repaired)
    assert repaired.changed[-1] == "Models served"
    assert chat(variant.address, "Root or not?")
    assert variant.shell(uploaded) == by_root
    assert variant.shell("ls -A /tmp | grep -i pyinfra || true") == "", "an upload was left where every user reads it"
    assert variant.run().changed == []
