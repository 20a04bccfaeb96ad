"""Real builds of llama.cpp of three times take one port from each other, under requests, in each direction.

They bind in two ways: a server of spring 2026 with SO_REUSEPORT alone, later ones with SO_REUSEADDR. Where connections
of the server before are left (TIME-WAIT, 60 s), a server can bind only with the option that the one before had. The
units of builds that have the choice therefore say --reuse-port, and no switch waits for connections to end.
"""

from __future__ import annotations

import http.client
import json
import re
import time
import urllib.error
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event, Thread

import pytest

from tests.box.deployment import Deployment, wait_for
from tests.box.paths import ADDRESS
from tests.box.rehearse import chat
from tests.box.seed_box import DEPLOY_SECONDS

pytestmark = [pytest.mark.box, pytest.mark.long]

ERAS = {
    # llama-cpp-python 0.3.17, as its CHANGELOG.md says, and 0.3.35, as .git/modules/vendor/llama.cpp/HEAD in it says.
    "spring": {
        "kind": "sdist",
        "package": "llama-cpp-python",
        "version": "0.3.17",
        "sha256": "39c31948d234ff351bf638f1e468d893dd29282dd4d47716a39c6a0a1e63b123",
        "commit": "49bfddeca18e62fa3d39114a23e9fcbdf8a22388",
    },
    "summer": {
        "kind": "sdist",
        "package": "llama-cpp-python",
        "version": "0.3.35",
        "sha256": "1139dbb54509074b70893fab8554e3b079aa9f4d312058ce4018ef0019e3de12",
        "commit": "4df29be4f4c3673f428170fda944a5b19f743bb8",
    },
}
PIN = "pin"
LONGEST_AWAY_S = 30.0
"""Longer than the tiny model loads and answers a long prompt on a busy machine, and half of TIME-WAIT's 60 s."""


class Requests:
    """Two clients that ask all the time: one connects for each request, the other keeps its connection."""

    def __init__(self, deployment: Deployment) -> None:
        self.address, self.outcomes = deployment.address, Counter[str]()
        self.last_answer, self.longest_gap = time.monotonic(), 0.0
        self._port: int = deployment.rig["models"][0]["serve"]["port"]
        self._kept = http.client.HTTPConnection(ADDRESS, self._port, timeout=120)

    def _on_a_new_connection(self) -> None:
        # The server hangs up first, which leaves the connection in TIME-WAIT at its end.
        assert chat(self.address, "Are you there?")

    def _on_a_kept_connection(self) -> None:
        body = json.dumps({"messages": [{"role": "user", "content": "And you?"}], "max_tokens": 4})
        try:
            self._kept.request("POST", "/v1/chat/completions", body, {"Content-Type": "application/json"})
            answer = self._kept.getresponse()
            answer.read()
        except (OSError, http.client.HTTPException):
            self._kept.close()
            raise
        if answer.status != 200:
            raise urllib.error.HTTPError(self.address, answer.status, "", answer.headers, None)

    def __call__(self, ended: Event, ask_by: str) -> None:
        ask = {"new": self._on_a_new_connection, "kept": self._on_a_kept_connection}[ask_by]
        while not ended.is_set():
            try:
                ask()
            except urllib.error.HTTPError as error:
                self.outcomes[f"HTTP {error.code}"] += 1
            except (OSError, http.client.HTTPException):
                self.outcomes["refused"] += 1
            else:
                self.outcomes[f"answered on a {ask_by} connection"] += 1
                now = time.monotonic()
                self.longest_gap = max(self.longest_gap, now - self.last_answer)
                self.last_answer = now
            time.sleep(0.05)

    def answered(self) -> bool:
        """Whether both clients have had an answer."""
        return all(self.outcomes[f"answered on a {kind} connection"] for kind in ("new", "kept"))


@contextmanager
def requests(deployment: Deployment) -> Iterator[Requests]:
    """Send requests all the while: from before the block, until both clients are answered again."""
    sent, ended = Requests(deployment), Event()
    clients = [Thread(target=sent, args=(ended, kind)) for kind in ("new", "kept")]
    for client in clients:
        client.start()
    try:
        wait_for(sent.answered, "answers before the switch")
        yield sent
        sent.outcomes.clear()
        wait_for(sent.answered, "answers after the switch")
    finally:
        ended.set()
        for client in clients:
            client.join()


@pytest.fixture
def two_eras(variant: Deployment, deployment: Deployment, pair: tuple[str, str]) -> Iterator[Deployment]:
    """A variant with two builds, both of which have served; the older one serves."""
    (build,) = variant.rig["builds"]
    sources = {PIN: build["source"], **ERAS}
    variant.rig["builds"] = [{**build, "name": name, "source": sources[name]} for name in pair]
    for name in reversed(pair):
        variant.rig["models"][0]["build"] = name
        outcome = variant.run(timeout=2 * DEPLOY_SECONDS)
        assert outcome.code == 0, str(outcome)
    yield variant
    outcome = deployment.run()
    assert outcome.code == 0, str(outcome)
    assert chat(deployment.address, "As before?")


def serving_commit(deployment: Deployment) -> str:
    program = "readlink /proc/$(systemctl show llamarig-tiny -p MainPID --value)/exe"
    manifest = json.loads(deployment.shell(f"cat $(dirname $({program}))/../manifest.json"))
    return str(manifest["commit"])


def switch(deployment: Deployment, script: str, commit: str) -> float:
    """Deploy a build under requests, or roll back to it; assert that it answers and that no connection was waited for.

    :return: seconds that the model was away: as the switch says, or longest without an answer, whichever is longer
    """
    with requests(deployment) as sent:
        outcome = deployment.run(script=script)
    assert outcome.code == 0, str(outcome)
    assert "of the server before on port" not in outcome.output, outcome.output
    assert serving_commit(deployment) == commit
    assert chat(deployment.address, "Which one are you?")
    away = re.search(r"it was away for (\d+) s", outcome.output)
    assert away, outcome.output
    print(f"{script}: {commit[:9]} serves; away {away[1]} s, {sent.longest_gap:.1f} s between two answers")
    return max(float(away[1]), sent.longest_gap)


@pytest.mark.parametrize("pair", [("spring", "summer"), ("spring", PIN), ("summer", PIN)], ids="-to-".join)
def test_builds_of_two_eras_take_the_port_from_each_other(two_eras: Deployment, pair: tuple[str, str]) -> None:
    older, newer = (build["source"]["commit"] for build in two_eras.rig["builds"])
    two_eras.rig["models"][0]["build"] = pair[1]
    upgrade = switch(two_eras, "deploy.py", newer)
    rollback = switch(two_eras, "tasks/rollback.py", older)
    two_eras.rig["models"][0]["build"] = pair[0]
    assert two_eras.run().changed == [], "a rollback leaves something else than a deploy"
    assert max(upgrade, rollback) < LONGEST_AWAY_S
