"""A front on a real box: one address for models of a real llama-server, with real systemd below its helper."""

from __future__ import annotations

import json
import re
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest
from llamarig.declare.front import UPSTREAM_KEYS
from llamarig.render.front import SERVICE, USER

from tests.box.deployment import Deployment, wait_for
from tests.box.paths import ADDRESS

pytestmark = pytest.mark.box

UNITS = ("llamarig-tiny", "llamarig-second", "llamarig-third")


class Front:
    """A client of the front."""

    def __init__(self, deployment: Deployment, key: str) -> None:
        self.port = deployment.rig["front"]["port"]
        self.key = key
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def request(self, path: str, body: Any = None, key: str | None = None, port: int | None = None) -> Any:
        key = self.key if key is None else key
        url = f"http://{ADDRESS}:{port or self.port}{path}"
        headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {key}"} if key else {})}
        data = None if body is None else json.dumps(body).encode()
        return self._opener.open(urllib.request.Request(url, data, headers), timeout=120)

    def status(self, path: str, body: Any = None, key: str | None = None, port: int | None = None) -> int:
        try:
            with self.request(path, body, key, port) as response:
                return int(response.status)
        except urllib.error.HTTPError as error:
            return error.code

    def chat(self, model: str, **more: Any) -> Any:
        messages = [{"role": "user", "content": "Who are you?"}]
        body = {"model": model, "messages": messages, **more}
        with self.request("/v1/chat/completions", body) as response:
            return json.load(response)


def declare(deployment: Deployment) -> None:
    """Two models that exclude each other on one port, a third beside them, and the front above all."""
    first, port = deployment.rig["models"][0], deployment.box.port
    serve = {**first["serve"], "port": port + 41}
    models = {"tiny": serve, "second": serve, "third": {**serve, "port": port + 42, "coexists": True}}
    deployment.rig["models"] = [
        {**first, "name": name, "serve": {**each, "api_key_file": f"{UPSTREAM_KEYS}/{name}", "alias": None}}
        for name, each in models.items()
    ]
    deployment.rig["front"] = {
        "port": port + 40,
        "keys": [{"name": "laptop"}],
        "aliases": [{"name": "second:short", "model": "second", "defaults": {"max_tokens": 2}}],
        "least_residency_s": 0,
    }


@pytest.fixture(scope="module")
def fronted(tmp_path_factory: pytest.TempPathFactory, converged: Deployment) -> Iterator[tuple[Deployment, Front]]:
    variant = converged.variant(tmp_path_factory.mktemp("front"))
    declare(variant)
    try:
        refused = variant.run()
        assert refused.code == 1
        command = re.search(r"shows it once: `(.+?)`; nothing was changed", refused.output)
        assert command is not None, str(refused)
        key = variant.shell(command[1])
        assert re.fullmatch("[0-9a-f]{64}", key)
        outcome = variant.run()
        assert outcome.code == 0, str(outcome)
        yield variant, Front(variant, key)
    finally:
        converged.shell(
            "systemctl disable -q --now llamarig_front.socket llamarig_front_units.socket; "
            "systemctl kill -s KILL llamarig_front 2>/dev/null; "
            "systemctl disable -q --now llamarig-second llamarig-third; "
            "rm -rf /etc/llamarig/front /etc/llamarig/front-models /etc/systemd/system/llamarig_front* "
            "/etc/systemd/system/llamarig-second.service /etc/systemd/system/llamarig-third.service; "
            "systemctl daemon-reload; systemctl reset-failed"
        )
        assert converged.run().code == 0


def active(deployment: Deployment) -> list[str]:
    states = deployment.shell(f"systemctl is-active {' '.join(UNITS)}; true").split()
    return [unit.removeprefix("llamarig-") for unit, state in zip(UNITS, states, strict=True) if state == "active"]


def test_a_second_run_changes_nothing_and_an_audit_finds_nothing(fronted: tuple[Deployment, Front]) -> None:
    deployment, _ = fronted
    assert deployment.run().changed == []
    audit = deployment.run(script="tasks/audit.py")
    assert audit.code == 0, str(audit)


def test_requests_switch_the_models(fronted: tuple[Deployment, Front]) -> None:
    deployment, front = fronted
    for model, others in (("second", ["third"]), ("tiny", ["third"]), ("third", ["tiny"])):
        assert front.chat(model, max_tokens=8)["choices"][0]["message"]["content"]
        assert sorted(active(deployment)) == sorted({model, *others})
    assert front.chat("second:short")["usage"]["completion_tokens"] == 2
    with front.request("/v1/models") as response:
        listed = {one["id"]: one["status"]["value"] for one in json.load(response)["data"]}
    assert listed == {"tiny": "unloaded", "second": "loaded", "second:short": "loaded", "third": "loaded"}


def test_the_api_of_anthropic_and_streams_work_on_a_real_server(fronted: tuple[Deployment, Front]) -> None:
    _, front = fronted
    asked = {"model": "tiny", "max_tokens": 4, "messages": [{"role": "user", "content": "Who are you?"}]}
    with front.request("/v1/messages", asked) as response:
        assert json.load(response)["type"] == "message"
    with front.request("/v1/messages/count_tokens", asked) as response:
        assert json.load(response)["input_tokens"] > 0
    with front.request("/v1/chat/completions", {**asked, "model": "second", "stream": True}) as response:
        assert response.read().endswith(b"data: [DONE]\n\n")


def test_nobody_without_a_key_uses_a_model_or_goes_round_the_front(fronted: tuple[Deployment, Front]) -> None:
    deployment, front = fronted
    body = {"model": "third", "messages": [{"role": "user", "content": "x"}]}
    for port in (front.port, deployment.rig["models"][2]["serve"]["port"]):
        assert front.status("/v1/chat/completions", body, key="", port=port) == 401
        assert front.status("/v1/chat/completions", body, key="wrong", port=port) == 401
    own = deployment.rig["models"][2]["serve"]["port"]
    assert front.status("/v1/chat/completions", body, port=own) == 401, "the client's key is none of the model's"


ASK = (
    "import socket,sys; s=socket.socket(socket.AF_UNIX); s.connect('/run/llamarig_front/units.sock'); "
    "s.sendall(sys.argv[1].encode()+b'\\n'); print(s.makefile().read())"
)


def test_the_front_can_start_no_other_unit(fronted: tuple[Deployment, Front]) -> None:
    """As the front's own user, outside of its sandbox: what a client that has taken it over could do at most."""
    deployment, _ = fronted

    def ask(user: str, request: str, group: str = "") -> str:
        return deployment.shell(
            f'setpriv --reuid {user} --regid {group or user} --clear-groups python3 -c "{ASK}" {request!r} 2>&1; true'
        )

    assert ask(USER, "stop ssh") == "failed\nno such model"
    assert ask(USER, "stop ssh.service") == "failed\nno such model"
    assert ask(USER, "start third") == "ok"
    assert "PermissionError" in ask("llamarig", "stop third")
    assert "PermissionError" in ask("nobody", "stop third", "nogroup")
    refused = deployment.shell(
        f"setpriv --reuid {USER} --regid {USER} --clear-groups systemctl stop llamarig-third 2>&1; true"
    )
    assert refused
    assert "third" in active(deployment)
    assert deployment.shell("systemctl is-active ssh") == "active"


def test_the_sandbox_of_the_front_is_as_tight_as_the_models(fronted: tuple[Deployment, Front]) -> None:
    deployment, _ = fronted

    def exposure(unit: str) -> float:
        found = re.search(
            r"Overall exposure level for \S+: ([\d.]+)", deployment.shell(f"systemd-analyze security {unit}")
        )
        assert found is not None
        return float(found[1])

    # One tenth more for the sockets of its helper and of systemd's notifications: a model has no AF_UNIX.
    assert exposure(SERVICE) <= exposure("llamarig-third.service") + 0.1


def test_a_deploy_of_the_front_ends_the_answer_that_has_begun(fronted: tuple[Deployment, Front]) -> None:
    deployment, front = fronted
    # A model that a deploy has installed and not started is proved by the next one, where the front has started it.
    assert deployment.run().code == 0
    body = {"model": "third", "prompt": "x", "max_tokens": 3000, "stream": True, "ignore_eos": True}
    with front.request("/v1/completions", body) as response:
        first = response.readline()
        assert first.startswith(b"data: ")
        before = deployment.shell(f"systemctl show {SERVICE} -p MainPID --value")
        deployment.rig["front"]["queue_length"] = 50
        ended: list[bytes] = []
        reader = threading.Thread(target=lambda: ended.append(response.read()))
        reader.start()
        outcome = deployment.run()
        assert (outcome.code, outcome.changed) == (0, ["Front"]), str(outcome)
        reader.join(timeout=300)
    assert ended[0].endswith(b"data: [DONE]\n\n")
    wait_for(lambda: front.status("/health") == 200, "the restarted front")
    assert deployment.shell(f"systemctl show {SERVICE} -p MainPID --value") != before


def test_a_model_that_cannot_start_gives_its_reason_and_the_one_before_comes_back(
    fronted: tuple[Deployment, Front],
) -> None:
    deployment, front = fronted
    front.chat("tiny", max_tokens=8)
    deployment.write(
        "/etc/systemd/system/llamarig-second.service.d/x.conf", "[Service]\nExecStart=\nExecStart=/bin/false\n"
    )
    deployment.shell("systemctl daemon-reload")
    try:
        with pytest.raises(urllib.error.HTTPError) as refused:
            front.chat("second")
        assert refused.value.code == 503
        assert b"second does not start: " in refused.value.read()
        wait_for(lambda: "tiny" in active(deployment), "the model before")
    finally:
        deployment.shell("rm -r /etc/systemd/system/llamarig-second.service.d; systemctl daemon-reload")


def test_a_front_that_is_no_longer_declared_is_stopped(fronted: tuple[Deployment, Front]) -> None:
    """Last: it leaves no front."""
    deployment, front = fronted
    before = deployment.rig.pop("front")
    try:
        outcome = deployment.run()
        assert (outcome.code, outcome.changed[-1:]) == (0, ["Front"]), str(outcome)
        with pytest.raises(urllib.error.URLError):
            front.request("/health")
        assert deployment.run().changed == []
    finally:
        deployment.rig["front"] = before
