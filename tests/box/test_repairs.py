"""Drift on a converged box: one deploy repairs exactly the changed item and nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.box import machine
from tests.box.deployment import Deployment, wait_for
from tests.box.rehearse import chat, is_healthy

pytestmark = pytest.mark.box

SERVED = "Models served"
BUILD = ["Releases", "Builds and downloads"]
DOWNLOAD = ["Model files", "Builds and downloads"]
SHARD = "$(find /var/lib/llamarig/models/llamarig/Tiny-Qwen3-Next-GGUF -name '*-00002-of-00003.gguf')"
UNIT = "/etc/systemd/system/llamarig-tiny.service"


@pytest.fixture(autouse=True)
def is_converged_before_and_after(deployment: Deployment) -> Iterator[None]:
    """Assert that the box is as declared before and after each test: an incomplete repair fails its own test."""
    assert deployment.run().changed == []
    yield
    outcome = deployment.run()
    assert outcome.changed == [], f"the repair was not complete: {outcome}"
    # Where the test restarted the box, the server may still be loading.
    wait_for(lambda: is_healthy(deployment.address), "/health")
    assert chat(deployment.address, "Are you well?")


def main_pid(deployment: Deployment) -> str:
    return deployment.shell("systemctl show llamarig-tiny -p MainPID --value")


def test_an_edited_unit_file_is_restored(deployment: Deployment) -> None:
    before = deployment.shell(f"cat {UNIT}")
    deployment.shell(f"sed -i 's/--ctx-size 8192/--ctx-size 4096/' {UNIT}")
    outcome = deployment.run()
    assert outcome.code == 0, str(outcome)
    assert outcome.changed == [SERVED]
    assert deployment.shell(f"cat {UNIT}") == before


def test_a_server_with_other_flags_than_its_unit_file_is_restarted(deployment: Deployment) -> None:
    deployment.shell(
        f"cp {UNIT} /tmp/unit && sed -i 's/--ctx-size 8192/--ctx-size 4096/' {UNIT} && systemctl daemon-reload "
        f"&& systemctl restart llamarig-tiny && cat /tmp/unit >{UNIT} && touch -d '1 hour ago' {UNIT} "
        "&& systemctl daemon-reload"
    )
    outcome = deployment.run()
    assert outcome.code == 0, str(outcome)
    assert outcome.changed == [SERVED]
    assert "4096" not in deployment.shell(
        "tr '\\0' ' ' </proc/$(systemctl show llamarig-tiny -p MainPID --value)/cmdline"
    )


def test_a_stopped_service_is_started(deployment: Deployment) -> None:
    deployment.shell("systemctl stop llamarig-tiny")
    outcome = deployment.run()
    assert outcome.code == 0, str(outcome)
    assert outcome.changed == [SERVED]


def test_a_disabled_unit_is_enabled_without_a_restart(deployment: Deployment) -> None:
    pid = main_pid(deployment)
    deployment.shell("systemctl disable llamarig-tiny")
    outcome = deployment.run()
    assert outcome.changed == [SERVED], str(outcome)
    assert deployment.shell("systemctl is-enabled llamarig-tiny") == "enabled"
    assert main_pid(deployment) == pid, "the server was restarted"


def test_a_truncated_shard_is_fetched_again(deployment: Deployment) -> None:
    whole = deployment.shell(f"sha256sum {SHARD}")
    deployment.shell(f"truncate -s -1000 {SHARD}")
    outcome = deployment.run()
    assert outcome.code == 0, str(outcome)
    assert outcome.changed == [*DOWNLOAD, SERVED]
    assert "-00002-of-00003.gguf: " in outcome.output
    assert "-00001-of-00003.gguf: " not in outcome.output
    assert deployment.shell(f"sha256sum {SHARD}") == whole


def test_a_changed_byte_with_the_same_size_and_mtime_is_repaired_by_a_deep_deploy(deployment: Deployment) -> None:
    whole = deployment.shell(f"sha256sum {SHARD}")
    deployment.shell(
        f'f={SHARD}; touch -r "$f" /tmp/stamp; printf X | dd of="$f" bs=1 seek=1000000 conv=notrunc status=none; '
        'touch -r /tmp/stamp "$f"'
    )
    assert deployment.shell(f"sha256sum {SHARD}") != whole
    assert deployment.run().changed == [], "only deep=1 reads the content of model files"
    outcome = deployment.run("--data", "deep=1")
    assert outcome.code == 0, str(outcome)
    assert outcome.changed == [*DOWNLOAD, SERVED]
    assert deployment.shell(f"sha256sum {SHARD}") == whole
    assert deployment.run("--data", "deep=1").changed == []


def test_a_release_with_a_deleted_program_is_built_again_without_a_restart(deployment: Deployment) -> None:
    pid = main_pid(deployment)
    deployment.shell("rm /opt/llamarig/llama.cpp/*/bin/llama-server")
    outcome = deployment.run()
    assert outcome.code == 0, str(outcome)
    assert outcome.changed == BUILD
    assert main_pid(deployment) == pid, "the server was restarted"
    deployment.shell("/opt/llamarig/llama.cpp/*/bin/llama-server --version")


def test_a_removed_system_package_is_installed_again(deployment: Deployment) -> None:
    deployment.shell("apt-get remove -y -qq ccache", timeout=120)
    outcome = deployment.run()
    assert outcome.code == 0, str(outcome)
    assert outcome.changed == ["Compilers and tools"]


def test_a_removed_python_package_of_the_hub_client_is_installed_again(deployment: Deployment) -> None:
    deployment.shell("rm -r /opt/llamarig/hub/lib/python3*/site-packages/hf_transfer-*.dist-info")
    outcome = deployment.run()
    assert outcome.code == 0, str(outcome)
    assert outcome.changed == ["Hub client"]


def test_a_changed_swappiness_is_set_again(deployment: Deployment, tmp_path: Path) -> None:
    """A container shares vm.swappiness with its host: the box may write it during this test, which restores it."""
    host = Path("/proc/sys/vm/swappiness")
    saved = host.read_text()
    wanted = 17 if saved.strip() != "17" else 18
    variant = deployment.variant(tmp_path / "swappiness")
    variant.rig["host"]["swappiness"] = wanted
    machine.up(deployment.box, writable_sysctl=True)
    try:
        first = variant.run()
        assert first.code == 0, str(first)
        assert first.changed == ["Swappiness"]
        assert host.read_text().strip() == str(wanted)
        variant.shell("sysctl -w vm.swappiness=61")
        second = variant.run()
        assert second.changed == ["Swappiness"], str(second)
        assert host.read_text().strip() == str(wanted)
        variant.shell("sed -i s/=.*/=61/ /etc/sysctl.d/90-llamarig.conf")
        third = variant.run()
        assert third.changed == ["Swappiness"], str(third)
        assert variant.run().changed == []
    finally:
        host.write_text(saved)
        variant.shell("rm -f /etc/sysctl.d/90-llamarig.conf")
        machine.up(deployment.box)
