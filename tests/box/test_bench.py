"""tasks/bench.py: time the served model over its API, record the result, compare it with the last one."""

from __future__ import annotations

import json
import threading
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from llamarig.records.bench_ledger import read_ledger

from tests.box.deployment import Deployment, wait_for
from tests.box.rehearse import chat
from tests.readme_commands import BENCH

pytestmark = pytest.mark.box

# Short runs: speeds of a tiny model on a shared machine mean nothing.
QUICK = ("--data", "runs=2", "--data", "depth=256", "--data", "generate=16")


@pytest.fixture
def ledger(variant: Deployment) -> Path:
    """Path of a ledger for this test only."""
    variant.rig["bench_ledger"] = str(variant.directory / "bench.jsonl")
    return variant.directory / "bench.jsonl"


def scale_last_timing(ledger: Path, factor: float) -> None:
    """Multiply the speeds of the last timing, so that the comparison does not depend on this machine's speed."""
    *before, last = ledger.read_text().splitlines()
    entry: dict[str, Any] = json.loads(last)
    for kind in ("prompt", "generation"):
        entry[kind] = {name: value * factor for name, value in entry[kind].items()}
    ledger.write_text("\n".join([*before, json.dumps(entry)]) + "\n")


def test_a_timing_is_recorded_compared_with_the_last_and_changes_nothing_on_the_box(
    variant: Deployment, ledger: Path
) -> None:
    process = variant.shell("systemctl show llamarig-tiny -p MainPID")
    first = variant.run(*QUICK, script="tasks/bench.py")
    assert first.code == 0, str(first)
    assert "no earlier run" in first.output
    (entry,) = read_ledger(str(ledger))
    assert (entry.box, entry.model, entry.runs) == ("rehearsal-box", "tiny", 2)
    assert entry.release in variant.shell("readlink /proc/$(systemctl show llamarig-tiny -p MainPID --value)/exe")
    assert (entry.conditions.prompt_tokens, entry.conditions.generated_tokens) == (256, 16)
    assert "--ctx-size" in entry.flags
    assert "--port" not in entry.flags
    assert entry.second_turn is not None
    assert entry.second_turn.tokens == 256 + 16 + 256
    assert 256 <= entry.second_turn.computed < entry.second_turn.tokens, "the first turn is in the cache"
    assert entry.conditions.kernel == variant.shell("uname -r")
    assert entry.conditions.workload == "bench"
    # A token reads all weights of a model served by the CPU, except most rows of its embedding and the unused experts.
    sizes = variant.shell("find /var/lib/llamarig/models -name '*.gguf' -printf '%s\\n'").split()
    assert entry.ram_bytes_per_token is not None
    assert 0 < entry.ram_bytes_per_token < sum(map(int, sizes))

    scale_last_timing(ledger, 0.01)
    faster = variant.run(*QUICK, script="tasks/bench.py")
    assert faster.code == 0, str(faster)
    scale_last_timing(ledger, 100)
    slower = variant.run(*QUICK, script="tasks/bench.py")
    assert slower.code != 0
    output = " ".join(slower.output.split())
    assert "tiny is slower than on" in output
    assert "with the same build and flags: prompt -" in output
    assert "Traceback" not in slower.output
    assert len(read_ledger(str(ledger))) == 3, "the slow run was not recorded"

    assert variant.shell("systemctl show llamarig-tiny -p MainPID") == process
    assert variant.run().changed == []


def test_a_busy_model_is_not_timed_and_nothing_is_recorded(variant: Deployment, ledger: Path) -> None:
    done = threading.Event()
    body = json.dumps({"prompt": "A long story:", "n_predict": 2000, "ignore_eos": True}).encode()
    request = urllib.request.Request(f"{variant.address}/completion", body, {"Content-Type": "application/json"})
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def keep_busy() -> None:
        while not done.is_set():
            opener.open(request, timeout=300).read()

    client = threading.Thread(target=keep_busy)
    client.start()
    try:
        busy = "curl -s --noproxy '*' {}/slots | grep -c '\"is_processing\":true'; true"
        wait_for(lambda: variant.shell(busy.format(variant.address)) != "0", "a request under way")
        outcome = variant.run(*QUICK, script="tasks/bench.py")
    finally:
        done.set()
        client.join()
    assert outcome.code != 0
    output = " ".join(outcome.output.split())
    assert "tiny is busy with another request: time it when it is idle; nothing was stored for it" in output
    assert not ledger.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--data", "model=nonsense"), "no model is called 'nonsense'; this box has tiny"),
        (("--data", "depth=9000"), "a slot holds 8192 tokens, fewer than a prompt of 9000 and 128 generated"),
        (("--data", "runs=none"), "--data runs=none is not a number"),
    ],
)
def test_invalid_arguments_are_refused_and_nothing_is_recorded(
    variant: Deployment, ledger: Path, arguments: tuple[str, ...], message: str
) -> None:
    outcome = variant.run(*arguments, script="tasks/bench.py")
    assert outcome.code != 0
    assert message in " ".join(outcome.output.split())
    assert "Traceback" not in outcome.output
    assert not ledger.exists()


def test_a_damaged_ledger_and_a_stopped_model_are_refused(variant: Deployment, ledger: Path) -> None:
    ledger.write_text("<<<<<<< HEAD\n")
    outcome = variant.run(*QUICK, script="tasks/bench.py")
    assert outcome.code != 0
    assert "bench.jsonl line 1 is not a valid timing" in outcome.output
    variant.shell("systemctl stop llamarig-tiny")
    try:
        outcome = variant.run(*QUICK, script="tasks/bench.py")
    finally:
        variant.shell("systemctl start llamarig-tiny")
    wait_for(lambda: chat_or_nothing(variant), "the restarted model")
    assert outcome.code != 0
    assert "bench starts no server: systemctl start llamarig-tiny.service on the box" in outcome.output


def chat_or_nothing(deployment: Deployment) -> str:
    """The model's answer, empty while it does not serve."""
    try:
        return chat(deployment.address, "Back?")
    except OSError:
        return ""


def test_the_command_of_the_readme_uses_the_documented_defaults(variant: Deployment, ledger: Path) -> None:
    (command,) = BENCH
    assert command.split()[1:] == ["-y", "inventory/home.py", "tasks/bench.py"]
    outcome = variant.run(script="tasks/bench.py")
    assert outcome.code == 0, str(outcome)
    (entry,) = read_ledger(str(ledger))
    assert (entry.runs, entry.conditions.prompt_tokens, entry.conditions.generated_tokens) == (5, 2048, 128)
