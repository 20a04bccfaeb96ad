"""Switching to another release: it serves only after it has answered; otherwise the old one is restored."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from llamarig.declare.rig import Rig
from llamarig.render.release import release_id, release_path

from tests.box.deployment import Deployment, kill, wait_for
from tests.box.rehearse import chat

pytestmark = pytest.mark.box

INSTALL_FAULTY_SERVER = """
cd {release}/bin && test -e llama-server.real || mv llama-server llama-server.real
cp /tmp/server.py server.py
(echo '#!/bin/sh'; echo 'exec /usr/bin/python3 -B {release}/bin/server.py "$@"') >llama-server
chmod 755 llama-server && echo {mode} >misbehave
python3 - <<'PYTHON'
import json, os
path = "{release}/manifest.json"
manifest = json.load(open(path))
manifest["files"]["llama-server"]["size"] = os.path.getsize("{release}/bin/llama-server")
json.dump(manifest, open(path, "w"))
PYTHON
"""


@pytest.fixture(scope="module")
def other_release(converged: Deployment, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Deployment, str]]:
    """A variant with a second release that has served once; the first serves again."""
    deployment = converged
    variant = deployment.variant(tmp_path_factory.mktemp("release"))
    # llama.cpp has no such option: another release, whose objects the compiler cache has already.
    variant.rig["builds"][0]["cmake"] = {"LLAMARIG_TEST": "releases"}
    rig = Rig.model_validate(variant.rig)
    release = release_path(rig.builds[0], rig.models)
    work = f"/var/lib/llamarig/work/{release_id(rig.builds[0], rig.models)}"
    deployment.shell(f"rm -rf {release} {work}")
    outcome = variant.run()
    assert outcome.code == 0, str(outcome)
    assert "it was away for" in outcome.output
    back = deployment.run()
    assert back.changed == ["Models served"], f"going back compiled something: {back}"
    yield variant, release
    assert deployment.run().code == 0
    deployment.shell(f"rm -rf {release} {work}")


def serving_release(deployment: Deployment) -> str:
    link = deployment.shell("readlink /proc/$(systemctl show llamarig-tiny -p MainPID --value)/exe")
    return str(Path(link).parents[1])


def install_faulty_server(deployment: Deployment, release: str, mode: str) -> None:
    deployment.write("/tmp/server.py", Path(__file__).with_name("misbehaving_server.py").read_text())
    deployment.shell(INSTALL_FAULTY_SERVER.format(release=release, mode=mode))


def test_switching_to_another_release_and_back_rebuilds_nothing(
    deployment: Deployment, other_release: tuple[Deployment, str]
) -> None:
    variant, other = other_release
    first = serving_release(deployment)
    assert first != other
    switched = variant.run()
    assert switched.changed == ["Models served"], str(switched)
    assert serving_release(deployment) == other
    assert variant.run().changed == []
    back = deployment.run()
    assert back.changed == ["Models served"], str(back)
    assert serving_release(deployment) == first


def test_the_manifest_records_source_toolchain_flags_and_features(deployment: Deployment) -> None:
    build = deployment.rig["builds"][0]
    manifest = json.loads(deployment.shell(f"cat {serving_release(deployment)}/manifest.json"))
    assert manifest["commit"] == build["source"]["commit"]
    assert manifest["build_number"] == 0, "an archive has no history to count"
    assert (manifest["backend"], manifest["architectures"], manifest["toolkit"]) == ("cpu", [], {})
    assert manifest["cmake"]["LLAMA_BUILD_COMMIT"] == build["source"]["commit"]
    assert re.search(r"\d+\.\d+", manifest["compiler"])
    assert manifest["build_seconds"] > 0
    assert {"llama", "qwen3next", "gpt-oss"} <= set(manifest["models"])
    assert {"--model", "--ctx-size", "-ngl"} <= set(manifest["flags"])
    # As llama.cpp reports them: every x86 build has SSE3, every ARM build NEON.
    assert {"CPU : SSE3 = 1", "CPU : NEON = 1"} & set(manifest["features"]), manifest["features"]


def test_another_build_adds_no_command_to_a_run_that_changes_nothing(
    deployment: Deployment, other_release: tuple[Deployment, str], tmp_path: Path
) -> None:
    """All builds of a box are read with the same facts."""
    assert deployment.run().code == 0
    two = deployment.variant(tmp_path / "two")
    two.rig["builds"].append({**other_release[0].rig["builds"][0], "name": "other"})
    one_build, two_builds = deployment.run("-vv"), two.run("-vv")
    assert one_build.changed == two_builds.changed == []
    assert one_build.code == two_builds.code == 0
    about_releases = [command for command in one_build.commands_sent if "/opt/llamarig/llama.cpp" in command]
    assert about_releases, str(one_build)
    assert len(two_builds.commands_sent) == len(one_build.commands_sent)
    assert any(other_release[1] in command for command in two_builds.commands_sent), "the second release was not read"
    building = re.compile(r"\b(cmake|ninja|git|pip) |systemd-run|-m llamarig\.remote|apt-get (update|install)")
    assert [command for command in two_builds.commands_sent if building.search(command)] == []


@pytest.mark.parametrize(
    ("mode", "message"),
    [
        ("crashes-on-start", "out of memory (so this stand-in says)"),
        ("hangs-in-load", "was not ready after 10 s"),
        ("wrong-context", "serves a context of 512 tokens per slot, declared 8192"),
        ("dies-on-long-prompt", "does not answer a completion"),
        # One of the answers that tests/remote/serve/test_switch_unit.py gives to the same program.
        ("props-bad-status", "does not answer as a llama-server does (an incomplete answer (BadStatusLine"),
    ],
)
def test_a_faulty_release_is_replaced_by_the_old_one(
    deployment: Deployment, other_release: tuple[Deployment, str], mode: str, message: str
) -> None:
    variant, other = other_release
    first = serving_release(deployment)
    variant.rig["models"][0]["serve"]["load_timeout_s"] = 10
    install_faulty_server(deployment, other, mode)
    outcome = variant.run()
    assert outcome.code != 0, str(outcome)
    assert message in outcome.output
    assert re.search(r"llamarig-tiny.service serves again as before; it was away for \d+ s", outcome.output), str(
        outcome
    )
    assert "Traceback" not in outcome.output
    assert serving_release(deployment) == first
    assert chat(deployment.address, "Still you?")
    assert deployment.run().changed == []


def test_the_box_restores_the_old_release_after_the_deploy_was_killed(
    deployment: Deployment, other_release: tuple[Deployment, str], tmp_path: Path
) -> None:
    """The deploy is killed while the new release hangs."""
    variant, other = other_release
    first = serving_release(deployment)
    variant.rig["models"][0]["serve"]["load_timeout_s"] = 10
    install_faulty_server(deployment, other, "hangs-in-load")
    running = variant.start(log=tmp_path / "log")
    wait_for(lambda: "loading the model" in running.output(), "the new release's load", deploy=running)
    kill(running)
    wait_for(
        lambda: '"failed"' in deployment.shell("cat /var/lib/llamarig/jobs/switch-tiny/status.json"),
        "the switch to fail",
    )
    assert serving_release(deployment) == first
    assert chat(deployment.address, "Who put you back?")
    assert deployment.run().changed == []


SWITCH = "llamarig-job-switch-tiny_*"


@pytest.fixture
def first_release(deployment: Deployment, other_release: tuple[Deployment, str]) -> Iterator[str]:
    """The release that serves. Assert afterwards that it serves again and that the switch left no files."""
    assert deployment.run().code == 0
    first = serving_release(deployment)
    yield first
    assert serving_release(deployment) == first
    assert chat(deployment.address, "As before?")
    left = "ls -d /etc/systemd/system/*before /var/lib/llamarig/proofs/*before 2>/dev/null; true"
    assert deployment.shell(left) == ""
    assert deployment.run().changed == []


def switch_status(deployment: Deployment) -> dict[str, object]:
    status: dict[str, object] = json.loads(deployment.shell("cat /var/lib/llamarig/jobs/switch-tiny/status.json"))
    return status


def test_a_stopped_switch_restores_the_old_release(
    deployment: Deployment, other_release: tuple[Deployment, str], first_release: str, tmp_path: Path
) -> None:
    variant, other = other_release
    variant.rig["models"][0]["serve"]["load_timeout_s"] = 600
    install_faulty_server(deployment, other, "hangs-in-load")
    running = variant.start(log=tmp_path / "log")
    wait_for(lambda: "loading the model" in running.output(), "the new release's load", deploy=running)
    deployment.shell(f"systemctl stop '{SWITCH}'", timeout=120)
    assert running.exit_code() != 0
    assert "stopped before it was finished; llamarig-tiny.service, which served before" in running.output()
    wait_for(lambda: serving_release(deployment) == first_release, "the old release")
    health = f"curl -s -o /dev/null -w '%{{http_code}}' --noproxy '*' {deployment.address}/health"
    wait_for(lambda: deployment.shell(health) == "200", "the old model's health")


def test_the_old_release_is_restored_on_a_full_disk(
    deployment: Deployment, other_release: tuple[Deployment, str], first_release: str, tmp_path: Path
) -> None:
    variant, other = other_release
    variant.rig["models"][0]["serve"]["load_timeout_s"] = 20
    install_faulty_server(deployment, other, "hangs-in-load")
    units = "/etc/systemd/system"
    deployment.shell(
        f"mkdir -p /run/small && mount -t tmpfs -o size=512k tmpfs /run/small && cp -a {units}/. /run/small && "
        f"mount --bind /run/small {units} && systemctl daemon-reload"
    )
    try:
        running = variant.start(log=tmp_path / "log")
        new = f"grep -c {other} {units}/llamarig-tiny.service; true"
        wait_for(lambda: deployment.shell(new) != "0", "the new unit's text", deploy=running)
        deployment.shell(f"dd if=/dev/zero of={units}/fill bs=1k 2>/dev/null; true")
        assert running.exit_code() != 0
        assert "llamarig-tiny.service serves again as before" in running.output()
        assert serving_release(deployment) == first_release
    finally:
        deployment.shell(f"umount {units} /run/small; systemctl daemon-reload")


def test_a_running_switch_is_waited_for_and_never_stopped(
    deployment: Deployment, other_release: tuple[Deployment, str], first_release: str, tmp_path: Path
) -> None:
    """The same deploy waits for the switch that a killed deploy started; a deploy of another release is refused."""
    variant, other = other_release
    variant.rig["models"][0]["serve"]["load_timeout_s"] = 600
    install_faulty_server(deployment, other, "slow-load")
    running = variant.start(log=tmp_path / "log")
    wait_for(lambda: "loading the model" in running.output(), "the new release's load", deploy=running)
    kill(running)
    running_switch = deployment.shell(f"systemctl show '{SWITCH}' -p InvocationID --value")
    assert running_switch, "the switch ended with the connection that started it"
    again = variant.start(log=tmp_path / "again")
    found = "the switch of tiny is already running on the box"
    wait_for(lambda: found in again.output(), "the second deploy to find the switch", deploy=again)
    assert deployment.shell(f"systemctl show '{SWITCH}' -p InvocationID --value") == running_switch
    refused = deployment.run()
    assert refused.code != 0, str(refused)
    assert "a switch of model 'tiny' to another unit than the declared one" in refused.output
    assert f"systemctl stop '{SWITCH}'" in refused.output
    assert again.exit_code() == 0, again.output()
    assert "llamarig-tiny.service answers; it was away for" in again.output()
    assert serving_release(deployment) == other
    assert variant.run().changed == []
    # The release that served before is still recorded: a rollback returns to it.
    back = variant.run(script="tasks/rollback.py")
    assert back.code == 0, str(back)
    assert serving_release(deployment) == first_release


def test_a_deploy_that_waits_for_a_switch_fails_with_it(
    deployment: Deployment, other_release: tuple[Deployment, str], first_release: str, tmp_path: Path
) -> None:
    variant, other = other_release
    variant.rig["models"][0]["serve"]["load_timeout_s"] = 40
    install_faulty_server(deployment, other, "hangs-in-load")
    running = variant.start(log=tmp_path / "log")
    wait_for(lambda: "loading the model" in running.output(), "the new release's load", deploy=running)
    kill(running)
    again = variant.start(log=tmp_path / "again")
    assert again.exit_code() != 0
    assert "the switch of tiny is already running on the box" in again.output()
    assert "was not ready after 40 s" in again.output()
    assert "llamarig-tiny.service serves again as before" in again.output()
    assert serving_release(deployment) == first_release


def test_a_release_that_answers_without_the_api_key_is_replaced_by_the_old_one(
    deployment: Deployment, other_release: tuple[Deployment, str], first_release: str
) -> None:
    variant, other = other_release
    key_file = "/etc/llamarig/keys/api"
    variant.rig["models"][0]["serve"]["api_key_file"] = key_file
    deployment.shell(f"install -d -m 700 /etc/llamarig/keys; umask 077; echo sesame-of-a-test >{key_file}")
    try:
        install_faulty_server(deployment, other, "no-key")
        outcome = variant.run()
        assert outcome.code != 0, str(outcome)
        assert "answers a request without the API key" in outcome.output
        assert "serves again as before" in outcome.output
        assert "sesame-of-a-test" not in outcome.output
    finally:
        del variant.rig["models"][0]["serve"]["api_key_file"]
        deployment.shell("rm -r /etc/llamarig")


def test_a_rollback_returns_to_the_old_release_and_a_second_one_to_the_new(
    deployment: Deployment, other_release: tuple[Deployment, str]
) -> None:
    variant, other = other_release
    first = serving_release(deployment)
    deployment.shell(
        f"cd {other}/bin; test -e llama-server.real && mv llama-server.real llama-server; rm -f misbehave; true"
    )
    assert variant.run().code == 0  # builds the damaged release again and switches to it
    assert serving_release(deployment) == other
    back = variant.run(script="tasks/rollback.py")
    assert back.code == 0, str(back)
    assert serving_release(deployment) == first
    assert "the next deploy goes forward again, unless you declare what it was before" in back.output
    assert variant.run(script="tasks/audit.py").code == 1
    forward = variant.run("--data", "model=tiny", script="tasks/rollback.py")
    assert forward.code == 0, str(forward)
    assert serving_release(deployment) == other
    assert variant.run().changed == []


def test_rollback_of_an_unknown_model_is_refused(deployment: Deployment) -> None:
    outcome = deployment.run("--data", "model=nonsense", script="tasks/rollback.py")
    assert outcome.code != 0
    assert "no model is called 'nonsense'; this box has tiny" in outcome.output
    assert chat(deployment.address, "Undisturbed?")
