"""Mistakes in declarations and boxes: each is refused with one message (place, problem, remedy) and changes nothing."""

from __future__ import annotations

import json
import subprocess
import urllib.error
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.box import sudo_login
from tests.box.deployment import HOST, Deployment
from tests.box.refusals import SERVED, UNIT, invocation_id, keeps_serving, refusal
from tests.box.rehearse import chat

pytestmark = pytest.mark.box

KEY_FILE = "/etc/llamarig/keys/api"
UNUSABLE_KEY_FILES = (
    (None, "is not there"),
    ("", "is empty"),
    ("# sk-none\\n", "has no usable key"),
    ("sk-0123\\r\\n", "has carriage returns"),
    ("\\357\\273\\277sk-0123\\n", "begins with a byte order mark"),
)
"""Content of the key file as printf's format (None: no file), and the reported problem."""


@pytest.fixture
def refused(deployment: Deployment, tmp_path: Path) -> Iterator[Deployment]:
    """A variant for deploys that are refused before anything is changed."""
    with keeps_serving(deployment, tmp_path / "variant") as variant:
        yield variant


@pytest.fixture
def restored(deployment: Deployment, tmp_path: Path) -> Iterator[Deployment]:
    """A variant for deploys whose server fails to start, so that the old one is restored."""
    with keeps_serving(deployment, tmp_path / "variant", restarted=True) as variant:
        yield variant


# --- reaching the box -----------------------------------------------------------------------------------------------


def test_a_wrong_ssh_key_is_refused(refused: Deployment, tmp_path: Path) -> None:
    key = tmp_path / "another_key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    refused.ssh = {"ssh_key": str(key)}
    refusal(refused.run(), "Authentication", "username=root", str(key))


def test_an_unreachable_box_fails_the_run_and_the_other_box_is_deployed(deployment: Deployment, tmp_path: Path) -> None:
    with keeps_serving(deployment, tmp_path / "variant", restarted=True) as variant:
        variant.more_hosts = [("box-without-power", {"ssh_port": variant.box.port + 19})]
        variant.shell("systemctl stop llamarig-tiny")
        outcome = variant.run()
        assert outcome.code == 1, str(outcome)
        refusal(outcome, "Could not connect", str(variant.box.port + 19), host="box-without-power")
        assert outcome.changed == [SERVED]
        assert outcome.failed == []


def test_a_login_without_root_is_one_message(refused: Deployment) -> None:
    sudo_login.allow(refused)
    refused.ssh = {"ssh_user": "owner"}
    refusal(refused.run(), "you log in as owner, who is not root", '{"_sudo": True}')


def test_a_sudo_password_without_a_terminal_is_one_message(refused: Deployment) -> None:
    sudo_login.allow(refused)
    refused.shell("echo 'owner ALL=(ALL) ALL' >/etc/sudoers.d/owner")
    refused.ssh = sudo_login.LOGIN
    refusal(refused.run(), "sudo wants a password on this box", "no terminal")


# --- declarations ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("text", "words"), [("{}", ("builds", "models")), ("nonsense", ("group_data/",))])
def test_an_invalid_rig_on_the_command_line_is_refused(refused: Deployment, text: str, words: tuple[str, ...]) -> None:
    outcome = refused.run("--data", f"rig={text}")
    for word in words:
        refusal(outcome, f"{HOST}: rig", word)


@dataclass
class WithoutGroup(Deployment):
    """A deployment whose box is in no group that declares a rig."""

    def command(self, script: str, *arguments: str) -> list[str]:
        words = super().command(script, *arguments)
        hosts = self.directory / "hosts.json"
        ((name, data),) = json.loads(hosts.read_text())
        hosts.write_text(json.dumps([(name, {key: value for key, value in data.items() if key != "rig"})]))
        inventory = self.directory / "inventory.py"
        inventory.write_text(inventory.read_text().replace("rehearsal = ", "nobody = "))
        return words


def test_a_box_in_no_group_is_refused(refused: Deployment) -> None:
    without_group = WithoutGroup(refused.box, refused.directory, refused.rig)
    refusal(without_group.run(), HOST, "no group", "inventory", "group_data/")


# --- services -------------------------------------------------------------------------------------------------------


def test_a_flag_that_the_build_rejects_is_refused(refused: Deployment) -> None:
    refused.rig["models"][0]["serve"]["extra"] = ["--no-such-flag"]
    outcome = refused.run()
    refusal(outcome, "tiny", "rejects the declared flags", "nothing was changed")
    refusal(outcome, "invalid argument: --no-such-flag")


def test_a_flag_with_a_missing_file_is_refused(refused: Deployment) -> None:
    refused.rig["models"][0]["serve"]["extra"] = ["--chat-template-file", "/nonexistent"]
    refusal(refused.run(), "path-unseen", "the unit does not see /nonexistent", 'readable_paths=("/nonexistent",)')
    refused.rig["models"][0]["serve"]["readable_paths"] = ["/nonexistent"]
    outcome = refused.run()
    refusal(outcome, "tiny", "rejects the declared flags", "nothing was changed")
    refusal(outcome, "--chat-template-file", "failed to open file '/nonexistent'")


def test_a_port_in_use_is_refused_with_the_process_and_unit_that_use_it(refused: Deployment) -> None:
    port = refused.box.port + 12
    refused.shell(
        f"systemd-run --quiet --unit=other-server python3 -m http.server --bind 127.0.0.1 {port} && "
        f"for i in $(seq 50); do ss -Hltn sport = :{port} | grep -q . && exit 0; sleep 0.1; done; exit 1"
    )
    try:
        refused.rig["models"][0]["serve"]["port"] = port
        refusal(refused.run(), f"port {port}", "python3", "other-server.service", "serve.port", "nothing was changed")
    finally:
        refused.shell("systemctl stop other-server")


def test_a_context_larger_than_the_models_fails_and_restores_the_old_server(restored: Deployment) -> None:
    """llama-server silently reduces the context to the model's training context."""
    restored.rig["models"][0]["serve"]["context"] = 65536
    refusal(restored.run(), "32768 tokens", "declared 65536", "yarn_scale", "serves again as before")


def test_a_server_that_ends_while_loading_is_replaced_by_the_old_one(restored: Deployment) -> None:
    restored.rig["models"][0]["serve"] |= {
        "extra": ["--lora", "/nonexistent.gguf"],
        "readable_paths": ["/nonexistent.gguf"],
    }
    outcome = restored.run()
    refusal(outcome, "llamarig-tiny.service ended while loading (exit 1)", "serves again as before")
    assert "failed to open '/nonexistent.gguf'" in outcome.output


def test_an_unusable_key_file_is_refused_and_a_usable_key_is_required_and_kept_secret(
    deployment: Deployment, tmp_path: Path
) -> None:
    key = "sk-" + "0123456789abcdef" * 4
    with keeps_serving(deployment, tmp_path / "variant", repaired=(SERVED,)) as variant:
        before = invocation_id(variant)
        variant.rig["models"][0]["serve"]["api_key_file"] = KEY_FILE
        # A changed build: it must not start, because the key file is checked first.
        # llama.cpp has no such option: another release, whose objects the compiler cache has already.
        variant.rig["builds"][0]["cmake"] = {"LLAMARIG_TEST": "keys"}
        variant.shell("rm -rf /etc/llamarig/keys; install -d -m 700 /etc/llamarig/keys")
        jobs = variant.shell("ls /var/lib/llamarig/jobs /var/lib/llamarig/work")
        for content, why in UNUSABLE_KEY_FILES:
            if content is not None:
                variant.shell(f"umask 077; printf '{content}' >{KEY_FILE}")
            outcome = variant.run()
            refusal(outcome, f"api_key_file {KEY_FILE} {why}", "mode 600", "nothing was changed")
            assert "Starting operation: API key files" in outcome.output
            assert outcome.output.count("Starting operation: ") == 3, "two that change nothing, and keys"
            audited = variant.run("--data", "only=llama.key-files", script="tasks/audit.py")
            assert audited.code == 1, str(audited)
            assert why in audited.output
        assert variant.shell("ls /var/lib/llamarig/jobs /var/lib/llamarig/work") == jobs
        del variant.rig["builds"][0]["cmake"]
        assert invocation_id(variant) == before
        assert chat(variant.address, "Do you still serve?")

        variant.shell(f"install -d -m 700 /etc/llamarig/keys && (umask 077; echo {key} >{KEY_FILE})")
        outcome = variant.run()
        assert outcome.code == 0, str(outcome)
        assert outcome.changed == [SERVED]
        assert variant.run().changed == []
        served = invocation_id(variant)
        variant.shell(f"chown nobody {KEY_FILE}; chmod 644 {KEY_FILE}")
        assert variant.run("--data", "only=llama.key-files", script="tasks/audit.py").code == 1
        assert variant.run().changed == ["API key files"]
        assert variant.shell(f"stat -c '%a %U' {KEY_FILE}; chmod 400 {KEY_FILE}") == "600 root"
        assert variant.run().changed == []
        assert invocation_id(variant) == served, "a new owner of the file needs no restart"
        with pytest.raises(urllib.error.HTTPError) as unauthorized:
            chat(variant.address, "Without a key?")
        assert unauthorized.value.code == 401
        assert chat(variant.address, "With a key?", key)
        for command in (
            "ps -eww -o args",
            f"cat {UNIT}",
            "cat /var/lib/llamarig/*/*/*.json",
            "journalctl --no-pager -b",
        ):
            assert key not in variant.shell(command), command
        assert key not in outcome.output
    deployment.shell("rm -rf /etc/llamarig/keys")
