"""Mistakes in a declaration or a box: each ends in one message with place, problem and remedy, and changes nothing."""

from __future__ import annotations

import json
import subprocess
import urllib.error
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.box.deployment import HOST, Deployment
from tests.box.refusals import SERVED, UNIT, invocation, refusal, serving_on
from tests.box.rehearse import chat

pytestmark = pytest.mark.box

KEY_FILE = "/etc/llamarig/keys/api"
UNUSABLE = (
    (None, "is not there"),
    ("", "is empty"),
    ("# sk-none\\n", "has no usable key"),
    ("sk-0123\\r\\n", "has carriage returns"),
    ("\\357\\273\\277sk-0123\\n", "begins with a byte order mark"),
)
"""Contents for printf, and what is reported of them; never a key."""


@pytest.fixture
def unharmed(deployment: Deployment, tmp_path: Path) -> Iterator[Deployment]:
    """A variant that is refused before anything is touched."""
    with serving_on(deployment, tmp_path / "variant") as variant:
        yield variant


@pytest.fixture
def restored(deployment: Deployment, tmp_path: Path) -> Iterator[Deployment]:
    """A variant that is tried, fails, and leaves what served before."""
    with serving_on(deployment, tmp_path / "variant", restarted=True) as variant:
        yield variant


# --- reaching the box -----------------------------------------------------------------------------------------------


def test_wrong_ssh_key(unharmed: Deployment, tmp_path: Path) -> None:
    key = tmp_path / "another_key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    unharmed.ssh = {"ssh_key": str(key)}
    refusal(unharmed.run(), "Authentication", "username=root", str(key))


def test_one_of_two_boxes_cannot_be_reached(deployment: Deployment, tmp_path: Path) -> None:
    """The other one is repaired all the same, and the exit code is not 0."""
    with serving_on(deployment, tmp_path / "variant", restarted=True) as variant:
        variant.more_hosts = [("box-without-power", {"ssh_port": variant.box.port + 19})]
        variant.shell("systemctl stop llamarig-tiny")
        outcome = variant.run()
        assert outcome.code == 1, str(outcome)
        refusal(outcome, "Could not connect", str(variant.box.port + 19), host="box-without-power")
        assert outcome.changed == [SERVED]
        assert outcome.failed == []


# --- declarations ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("text", "words"), [("{}", ("builds", "models")), ("nonsense", ("group_data/",))])
def test_rig_broken_on_the_command_line(unharmed: Deployment, text: str, words: tuple[str, ...]) -> None:
    outcome = unharmed.run("--data", f"rig={text}")
    for word in words:
        refusal(outcome, f"{HOST}: rig", word)


@dataclass
class Homeless(Deployment):
    """Its box stands in no group that declares a rig."""

    def command(self, script: str, *arguments: str) -> list[str]:
        words = super().command(script, *arguments)
        hosts = self.directory / "hosts.json"
        ((name, data),) = json.loads(hosts.read_text())
        hosts.write_text(json.dumps([(name, {key: value for key, value in data.items() if key != "rig"})]))
        inventory = self.directory / "inventory.py"
        inventory.write_text(inventory.read_text().replace("rehearsal = ", "nobody = "))
        return words


def test_box_in_no_group(unharmed: Deployment) -> None:
    homeless = Homeless(unharmed.box, unharmed.directory, unharmed.rig)
    refusal(homeless.run(), HOST, "no group", "inventory", "group_data/")


# --- services -------------------------------------------------------------------------------------------------------


def test_flag_the_build_refuses(unharmed: Deployment) -> None:
    unharmed.rig["models"][0]["serve"]["extra"] = ["--no-such-flag"]
    outcome = unharmed.run()
    refusal(outcome, "tiny", "rejects the declared flags", "nothing was changed")
    refusal(outcome, "invalid argument: --no-such-flag")


def test_file_of_a_flag_that_does_not_exist(unharmed: Deployment) -> None:
    unharmed.rig["models"][0]["serve"]["extra"] = ["--chat-template-file", "/nonexistent"]
    outcome = unharmed.run()
    refusal(outcome, "tiny", "rejects the declared flags", "nothing was changed")
    refusal(outcome, "--chat-template-file", "failed to open file '/nonexistent'")


def test_port_in_use(unharmed: Deployment) -> None:
    port = unharmed.box.port + 12
    unharmed.shell(
        f"systemd-run --quiet --unit=somebody-elses python3 -m http.server --bind 127.0.0.1 {port} && "
        f"for i in $(seq 50); do ss -Hltn sport = :{port} | grep -q . && exit 0; sleep 0.1; done; exit 1"
    )
    try:
        unharmed.rig["models"][0]["serve"]["port"] = port
        refusal(
            unharmed.run(), f"port {port}", "python3", "somebody-elses.service", "serve.port", "nothing was changed"
        )
    finally:
        unharmed.shell("systemctl stop somebody-elses")


def test_context_the_model_cannot_have(restored: Deployment) -> None:
    """llama-server silently caps it at what the model was trained for; the deploy reports it."""
    restored.rig["models"][0]["serve"]["context"] = 65536
    refusal(restored.run(), "32768 tokens", "declared 65536", "yarn_scale", "serves again as before")


def test_server_that_ends_while_loading(restored: Deployment) -> None:
    restored.rig["models"][0]["serve"]["extra"] = ["--lora", "/nonexistent.gguf"]
    outcome = restored.run()
    refusal(outcome, "llamarig-tiny.service ended while loading (exit 1)", "serves again as before")
    assert "failed to open '/nonexistent.gguf'" in outcome.output


def test_api_key(deployment: Deployment, tmp_path: Path) -> None:
    key = "sk-" + "0123456789abcdef" * 4
    with serving_on(deployment, tmp_path / "variant", repaired=(SERVED,)) as variant:
        before = invocation(variant)
        variant.rig["models"][0]["serve"]["api_key_file"] = KEY_FILE
        # Another release would have to be built: it is not begun, because the key file is looked at before.
        variant.rig["builds"][0]["cmake"] = {"CMAKE_CXX_FLAGS": "-DLLAMARIG_TEST_KEY=1"}
        variant.shell("rm -rf /etc/llamarig/keys; install -d -m 700 /etc/llamarig/keys")
        jobs = variant.shell("ls /var/lib/llamarig/jobs /var/lib/llamarig/work")
        for content, why in UNUSABLE:
            if content is not None:
                variant.shell(f"umask 077; printf '{content}' >{KEY_FILE}")
            tried = variant.run()
            refusal(tried, f"api_key_file {KEY_FILE} {why}", "mode 600", "nothing was changed")
            assert "Starting operation: API key files" in tried.output
            assert tried.output.count("Starting operation: ") == 2, "RAM speed, which changes nothing, and the keys"
            audited = variant.run("--data", "only=llama.key-files", script="tasks/audit.py")
            assert audited.code == 1, str(audited)
            assert why in audited.output
        assert variant.shell("ls /var/lib/llamarig/jobs /var/lib/llamarig/work") == jobs
        del variant.rig["builds"][0]["cmake"]
        assert invocation(variant) == before
        assert chat(variant.address, "Do you still serve?")

        variant.shell(f"install -d -m 700 /etc/llamarig/keys && (umask 077; echo {key} >{KEY_FILE})")
        outcome = variant.run()
        assert outcome.code == 0, str(outcome)
        assert outcome.changed == [SERVED]
        assert variant.run().changed == []
        served = invocation(variant)
        variant.shell(f"chown nobody {KEY_FILE}; chmod 644 {KEY_FILE}")
        assert variant.run("--data", "only=llama.key-files", script="tasks/audit.py").code == 1
        assert variant.run().changed == ["API key files"]
        assert variant.shell(f"stat -c '%a %U' {KEY_FILE}; chmod 400 {KEY_FILE}") == "600 root"
        assert variant.run().changed == []
        assert invocation(variant) == served, "whose the file is takes no restart"
        with pytest.raises(urllib.error.HTTPError) as refused:
            chat(variant.address, "Without a key?")
        assert refused.value.code == 401
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
