"""Units in operation: switching under load, boot, crashes, hung servers, keys that are replaced."""

from __future__ import annotations

import threading
import time
import urllib.error
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.box import machine
from tests.box.deployment import Deployment, wait_for
from tests.box.rehearse import chat

pytestmark = pytest.mark.box

TINY, SECOND = "llamarig-tiny.service", "llamarig-second.service"
SERVED = "Models served"


@pytest.fixture
def disturbed(variant: Deployment, deployment: Deployment) -> Iterator[Deployment]:
    """A variant to disturb; afterwards what it added is gone and the box is as declared again."""
    yield variant
    deployment.shell(
        "rm -rf /run/systemd/system/llamarig-*.d /etc/llamarig; "
        "systemctl disable -q --now llamarig-second 2>/dev/null; "
        f"rm -f /etc/systemd/system/{SECOND}; systemctl daemon-reload; systemctl reset-failed 'llamarig-*'; true"
    )
    outcome = deployment.run()
    assert outcome.code == 0, str(outcome)
    assert chat(deployment.address, "As before?")


@pytest.fixture
def two_models(disturbed: Deployment) -> Deployment:
    """A second model on the same port, of which one runs at a time; both are on disk already."""
    first = disturbed.rig["models"][0]
    disturbed.rig["models"] = [first, {**first, "name": "second"}]
    outcome = disturbed.run()
    assert outcome.code == 0, str(outcome)
    return disturbed


def show(deployment: Deployment, unit: str, *properties: str) -> list[str]:
    options = " ".join(f"-p {name}" for name in properties)
    lines = deployment.shell(f"systemctl show {unit} {options}").splitlines()
    values = dict(line.split("=", 1) for line in lines)
    return [values[name] for name in properties]


def drop_in(deployment: Deployment, text: str, unit: str = TINY) -> None:
    """Settings on top of a unit's file, gone with the next boot: they only shorten what a test would wait for."""
    deployment.shell(
        f"mkdir -p /run/systemd/system/{unit}.d && printf '{text}' >/run/systemd/system/{unit}.d/test.conf "
        "&& systemctl daemon-reload"
    )


def served_by(deployment: Deployment) -> str:
    """The alias the stable port answers with, empty while there is no answer."""
    props = f"curl -s --noproxy '*' {deployment.address}/props"
    return deployment.shell(f'{props} | grep -o \'"model_alias":"[a-z]*"\' | cut -d\'"\' -f4; true')


def test_switching_under_load(two_models: Deployment) -> None:
    """One port for both: a request is answered whole or refused cleanly, and never are both servers resident."""
    outcomes: Counter[str] = Counter()
    over = threading.Event()

    def ask() -> None:
        while not over.is_set():
            try:
                assert chat(two_models.address, "Tell me about the weather.")
                outcomes["answered"] += 1
            except urllib.error.HTTPError as error:
                outcomes[f"HTTP {error.code}"] += 1
            except (urllib.error.URLError, ConnectionError):
                outcomes["refused"] += 1
                time.sleep(0.05)

    count = "while :; do pgrep -xc llama-server; sleep 0.01; done >/run/resident"
    two_models.shell(f"systemd-run -q --unit=count-servers sh -c '{count}'")
    askers = [threading.Thread(target=ask) for _ in range(3)]
    for thread in askers:
        thread.start()
    try:
        for name in ("second", "tiny", "second", "tiny"):
            before = outcomes["answered"]
            two_models.shell(f"systemctl start llamarig-{name}")
            wait_for(lambda name=name: served_by(two_models) == name, f"{name} on the stable port")  # type: ignore[misc]
            wait_for(lambda before=before: outcomes["answered"] > before, "an answer")  # type: ignore[misc]
            other = {"second": TINY, "tiny": SECOND}[name]
            # With requests under way a server is killed in the end, which systemd calls failed.
            assert show(two_models, other, "ActiveState")[0] in ("inactive", "failed")
    finally:
        over.set()
        for thread in askers:
            thread.join()
        two_models.shell("systemctl stop count-servers")
    resident = two_models.shell("sort -u /run/resident").split()
    assert set(resident) <= {"0", "1"}, "both models were resident"
    assert set(outcomes) <= {"answered", "refused", "HTTP 503"}, outcomes
    assert outcomes["answered"] >= 4


def test_boot_brings_the_default(two_models: Deployment) -> None:
    two_models.shell("systemctl start llamarig-second")
    two_models.run()  # never seen answering before: now it is proved
    assert two_models.run().changed == [], "a model chosen by hand is left alone"
    assert served_by(two_models) == "second"
    machine.down(two_models.box)
    machine.up(two_models.box)
    wait_for(lambda: served_by(two_models) == "tiny", "the default after a boot")
    assert show(two_models, SECOND, "ActiveState", "UnitFileState") == ["inactive", "disabled"]
    assert two_models.run().changed == []


def test_a_server_killed_for_memory_stays_down(disturbed: Deployment) -> None:
    """The kernel's out-of-memory killer sends SIGKILL; this container has no memory controller to provoke it with."""
    drop_in(disturbed, "[Service]\\nRestartSec=100ms\\n")
    disturbed.shell(f"systemctl kill --signal=KILL {TINY}")
    wait_for(lambda: show(disturbed, TINY, "ActiveState") == ["failed"], "the failed state")
    time.sleep(1)
    assert show(disturbed, TINY, "ActiveState", "Result", "ExecMainStatus", "NRestarts") == [
        "failed",
        "signal",
        "9",
        "0",
    ]
    repaired = disturbed.run()
    assert repaired.changed == [SERVED], str(repaired)


def test_a_crash_is_healed_by_a_restart(disturbed: Deployment) -> None:
    drop_in(disturbed, "[Service]\\nRestartSec=100ms\\n")
    disturbed.shell(f"systemctl kill --signal=ABRT {TINY}")  # how CUDA errors end llama-server
    wait_for(lambda: show(disturbed, TINY, "ActiveState", "NRestarts") == ["active", "1"], "the restart")
    wait_for(lambda: served_by(disturbed) == "tiny", "the server")


def test_a_server_that_crashes_at_every_start_ends_failed(disturbed: Deployment) -> None:
    drop_in(disturbed, "[Service]\\nRestartSec=100ms\\nExecStart=\\nExecStart=/bin/false\\n")
    disturbed.shell(f"systemctl restart {TINY}; true")
    wait_for(lambda: show(disturbed, TINY, "ActiveState") == ["failed"], "the failed state")
    assert "Start request repeated too quickly" in disturbed.shell(f"journalctl -u {TINY} -n 20 -o cat")
    assert int(show(disturbed, TINY, "NRestarts")[0]) == 10


def test_a_new_key_takes_a_restart_and_no_other_unit(disturbed: Deployment) -> None:
    key_file = "/etc/llamarig/keys/api"
    old, new = "sesame-" + "o" * 32, "sesame-" + "n" * 32
    disturbed.shell(f"install -d -m 700 /etc/llamarig/keys; umask 077; echo {old} >{key_file}")
    disturbed.rig["models"][0]["serve"].update(host="0.0.0.0", api_key_file=key_file)
    outcome = disturbed.run()
    assert outcome.code == 0, str(outcome)
    assert chat(disturbed.address, "Who?", key=old)
    unit = disturbed.shell(f"cat /etc/systemd/system/{TINY}")

    disturbed.shell(f"umask 077; sleep 1; echo {new} >{key_file}; systemctl restart {TINY}")
    wait_for(lambda: served_with(disturbed, new), "the new key")
    assert not served_with(disturbed, old)

    disturbed.shell(f"umask 077; sleep 1; echo {old} >{key_file}")
    outcome = disturbed.run()
    assert outcome.changed == [SERVED], str(outcome)
    assert "key" in outcome.output
    assert served_with(disturbed, old)
    assert not served_with(disturbed, new)
    assert disturbed.shell(f"cat /etc/systemd/system/{TINY}") == unit
    assert disturbed.run().changed == []

    # Looked for as root, where root may look; the file itself and its copy for the service are the only places.
    found = disturbed.shell(
        "ps -eww -o args | grep sesame- | grep -v 'grep\\|bash -c'; journalctl -o cat | grep sesame-; "
        "grep -l sesame- /proc/[0-9]*/environ 2>/dev/null; grep -rl sesame- /etc/systemd /var/lib/llamarig/jobs "
        "/var/lib/llamarig/proofs /opt/llamarig/lib; true"
    )
    assert found == ""
    assert old not in outcome.output
    copies = disturbed.shell(f"stat -c '%a %U' {key_file}; runuser -u nobody -- cat {key_file} 2>&1; "
                             f"runuser -u nobody -- ls /run/credentials/{TINY} 2>&1; true").splitlines()  # fmt: skip
    assert copies[0] == "600 root"
    assert all("denied" in line for line in copies[1:])


def served_with(deployment: Deployment, key: str) -> bool:
    try:
        return bool(chat(deployment.address, "Who?", key=key))
    except OSError:
        return False


@pytest.mark.parametrize(
    ("serve", "message"),
    [
        (
            {"environment": {"LLAMA_SET_ROWS": "1"}},
            "environment-unread: LLAMA_SET_ROWS was read for a few weeks of 2025",
        ),
        ({"cache_type_k": "q4_0", "cache_type_v": "q4_0"}, "kv-4-bit: the KV cache is q4_0/q4_0"),
        ({"threads": 4096}, "threads-over-cpus: 4096 threads on"),
    ],
)
def test_a_lint_is_printed_by_a_deploy_until_it_is_accepted(
    disturbed: Deployment, serve: dict[str, object], message: str
) -> None:
    disturbed.rig["models"][0]["serve"].update(serve)
    disturbed.rig["models"][0]["serve"]["threads"] = serve.get("threads", 2)
    rule = message.split(":")[0]
    if rule != "threads-over-cpus":  # 4096 threads are nothing to try
        outcome = disturbed.run()
        assert outcome.code == 0, str(outcome)
        assert message in " ".join(outcome.output.split())
        assert f'accept={{"{rule}": "your reason"}}' in outcome.output
    disturbed.rig["models"][0]["serve"]["accept"] = {rule: "a test"}
    disturbed.rig["models"][0]["serve"]["threads"] = 2
    assert rule not in disturbed.run().output


def test_a_placement_for_another_model_is_refused_before_anything_is_stopped(disturbed: Deployment) -> None:
    """The rehearsal's model has 4 layers, as its own header says."""
    process = show(disturbed, TINY, "MainPID")
    serve = disturbed.rig["models"][0]["serve"]
    serve["placement"] = {"kind": "layers", "gpu": [2], "split": [9]}
    outcome = disturbed.run()
    assert outcome.code != 0
    assert "split (9,) adds up to 9, but this model has 4 layers and the output, 5 in all" in outcome.output
    assert show(disturbed, TINY, "MainPID") == process
    serve["placement"] = {"kind": "layers", "gpu": [2], "split": [5]}
    outcome = disturbed.run()
    assert outcome.code == 0, str(outcome)
    assert "blk[.](2|3)[.]ffn_(up|down|gate|gate_up)_(ch|)exps=CPU" in disturbed.shell(
        f"cat /etc/systemd/system/{TINY}"
    )


def test_an_override_is_reported_rule_by_rule(disturbed: Deployment) -> None:
    """Box D's rule for "layers 10 and up", for a model of 4 layers: the deploy reports what each rule matches."""
    disturbed.rig["models"][0]["serve"]["placement"] = {
        "kind": "override",
        "rules": ["blk[.][0-1]?[1-2][.]ffn_(up|down|gate)_exps=CPU", "nothing_of_this_name=CPU", "exps=CPU"],
    }
    outcome = disturbed.run()
    assert outcome.code == 0, str(outcome)
    output = " ".join(outcome.output.split())
    assert "layers 1-2, 6 tensors" in output
    assert "override-matches-nothing: 'nothing_of_this_name=CPU' matches no tensor of this model" in output
    assert "exps=CPU: layers 0, 3, 6 tensors" in output


HANG = """
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
# PTRACE_ATTACH stops one thread, not the process: the HTTP threads go on, the compute loop does not.
assert libc.ptrace(16, int(sys.argv[1]), 0, 0) == 0, ctypes.get_errno()
os.waitpid(int(sys.argv[1]), 0x40000000)  # it has stopped
os.waitpid(int(sys.argv[1]), 0x40000000)  # it was killed; reported to others only after its tracer has been
"""


def test_a_server_that_answers_health_and_completes_nothing_is_restarted(disturbed: Deployment) -> None:
    box = disturbed.box
    (box.root / "root/hang.py").write_text(HANG)
    (pid,) = show(disturbed, TINY, "MainPID")
    disturbed.shell("systemctl stop llamarig_liveness.timer; rm -f /run/liveness-test")
    rounds = (
        "cd /opt/llamarig/lib && python3 -B -c 'import llamarig.remote.serve.probe_servers as p; "
        "from pathlib import Path; "
        'p.ANSWER_WITHIN_S = 2; p.main(Path("/run/liveness-test"))\''
    )
    # The first round finds it idle, the second requests a token, the third has nothing to do.
    assert disturbed.shell(f"{rounds}; {rounds}; {rounds}") == ""
    assert show(disturbed, TINY, "MainPID") == [pid], "a well server was restarted"

    disturbed.shell(f"systemd-run -q --unit=hang python3 /root/hang.py {pid}")
    try:
        wait_for(lambda: "t (tracing stop)" in disturbed.shell(f"cat /proc/{pid}/status"), "the hang")
        assert disturbed.shell(f"curl -s --noproxy '*' {disturbed.address}/health") == '{"status":"ok"}'
        assert disturbed.shell(f"{rounds}; {rounds}") == ""
        assert show(disturbed, TINY, "MainPID") == [pid], "too few rounds to be sure"
        assert "has completed nothing for 3 rounds" in disturbed.shell(rounds)
        wait_for(lambda: served_by(disturbed) == "tiny", "the restarted server")
        assert show(disturbed, TINY, "MainPID") != [pid]
    finally:
        disturbed.shell("systemctl stop hang; systemctl start llamarig_liveness.timer")


def test_the_liveness_probe_runs_in_its_sandbox_and_does_not_wake_a_sleeping_model(disturbed: Deployment) -> None:
    key_file = "/etc/llamarig/keys/api"
    disturbed.shell(f"install -d -m 700 /etc/llamarig/keys; umask 077; echo sesame >{key_file}")
    disturbed.rig["models"][0]["serve"].update(sleep_idle_s=2, api_key_file=key_file)
    outcome = disturbed.run()
    assert outcome.code == 0, str(outcome)
    props = f"curl -s --noproxy '*' -H 'Authorization: Bearer sesame' {disturbed.address}/props"
    asleep = f"{props} | grep -c '\"is_sleeping\":true'; true"
    wait_for(lambda: disturbed.shell(asleep) == "1", "sleep")
    for _ in range(3):
        disturbed.shell("systemctl start llamarig_liveness.service")
    assert disturbed.shell(asleep) == "1"
    assert show(disturbed, "llamarig_liveness.service", "Result") == ["success"]
    # Of this run alone: an earlier round may have met a key that its server did not know yet.
    (run,) = show(disturbed, "llamarig_liveness.service", "InvocationID")
    assert "not probed" not in disturbed.shell(f"journalctl _SYSTEMD_INVOCATION_ID={run} -o cat")
    state = Path("run/llamarig_liveness/state.json")
    assert "llamarig-tiny.service" in disturbed.shell(f"cat /{state}")
    assert chat(disturbed.address, "Awake?", key="sesame")


@pytest.mark.parametrize(
    ("harm", "changed"),
    [
        ("echo '# mine' >>/etc/systemd/system/llamarig_liveness.service", ["Liveness probe"]),
        ("systemctl disable -q --now llamarig_liveness.timer", ["Liveness probe"]),
    ],
)
def test_a_liveness_probe_changed_by_hand_is_put_back(disturbed: Deployment, harm: str, changed: list[str]) -> None:
    disturbed.shell(harm)
    assert disturbed.run().changed == changed
    assert disturbed.run().changed == []
