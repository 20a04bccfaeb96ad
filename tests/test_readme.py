"""The commands of the README work as printed."""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path

import pytest

from tests.box.deployment import REPOSITORY_ROOT, Deployment
from tests.readme_commands import (
    BENCH,
    CHECK,
    CLIENT,
    COMMANDS,
    DESTROY,
    HOME,
    REHEARSAL,
    ROLLBACK,
)


def test_every_command_of_the_readme_is_run_by_a_test() -> None:
    on_the_box = [command for command in COMMANDS if command.startswith("install -d")]
    assert sorted(COMMANDS) == sorted([CHECK, DESTROY, *ROLLBACK, *BENCH, *HOME, *REHEARSAL, *CLIENT, *on_the_box])


def test_ci_runs_the_first_two_commands_of_the_readme_in_their_order() -> None:
    lines = (REPOSITORY_ROOT / ".ci" / "run").read_text().splitlines()
    assert [line for line in lines if line.startswith("python3 ")] == COMMANDS[:2] == [REHEARSAL[0], CHECK]
    assert "set -euo pipefail" in lines


@pytest.mark.box
@pytest.mark.parametrize("command", REHEARSAL)
def test_a_rehearsal_command_succeeds(command: str, deployment: Deployment) -> None:
    run(shlex.split(command), deployment)


@pytest.mark.box
@pytest.mark.parametrize("command", HOME)
def test_a_command_for_the_users_boxes_succeeds(command: str, deployment: Deployment) -> None:
    deployment.command("deploy.py")  # writes the inventory
    inventory = str(deployment.directory / "inventory.py")
    run([word.replace("inventory/home.py", inventory) for word in shlex.split(command)], deployment)


@pytest.mark.box
def test_the_api_key_command_writes_a_key_that_only_root_can_read(deployment: Deployment) -> None:
    command = next(command for command in COMMANDS if command.startswith("install -d"))
    deployment.shell(f"apt-get install -y -qq openssl >/dev/null; {command}", timeout=120)
    assert deployment.shell("stat -c '%a %U' /etc/llamarig/keys/api") == "600 root"
    assert len(deployment.shell("cat /etc/llamarig/keys/api")) == 64
    deployment.shell("rm -r /etc/llamarig")


def test_the_api_key_command_without_openssl_leaves_no_file(tmp_path: Path) -> None:
    """An empty file would be a key file without a key."""
    command = next(command for command in COMMANDS if command.startswith("install -d"))
    (tmp_path / "bin").mkdir()
    for program in ("install", "sh"):
        (tmp_path / "bin" / program).symlink_to(f"/usr/bin/{program}")
    done = subprocess.run(
        [f"{tmp_path}/bin/sh", "-c", command.replace("/etc/llamarig", str(tmp_path / "etc"))],
        env={"PATH": f"{tmp_path}/bin"},
        capture_output=True,
        text=True,
    )
    assert done.returncode != 0
    assert "openssl" in done.stderr
    assert list((tmp_path / "etc/keys").iterdir()) == []


@pytest.mark.box
@pytest.mark.parametrize("command", CLIENT)
def test_a_client_command_gets_an_answer(command: str, deployment: Deployment) -> None:
    local = command.replace("http://box.lan:8080", deployment.address)
    done = subprocess.run(
        ["sh", "-c", local],
        env={"PATH": "/usr/bin:/bin", "KEY": "any", "NO_PROXY": "*"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert '"role":"assistant"' in done.stdout, done.stdout + done.stderr


def test_the_destroy_command_without_a_box_prints_no_traceback(tmp_path: Path) -> None:
    """tests/box/test_machine.py destroys a real box."""
    done = subprocess.run(
        shlex.split(DESTROY),
        cwd=REPOSITORY_ROOT,
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LLAMARIG_REHEARSAL_DIR": str(tmp_path / "none")},
        capture_output=True,
        text=True,
    )
    assert "Traceback" not in done.stderr, done.stderr


def run(words: list[str], deployment: Deployment) -> None:
    done = subprocess.run(
        words, cwd=REPOSITORY_ROOT, env=dict(deployment.environment()), capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stdout + done.stderr
