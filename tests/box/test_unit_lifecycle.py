"""Units in operation: switching under load, reboots, crashes, hung servers, replaced keys."""

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
def modified(variant: Deployment, deployment: Deployment) -> Iterator[Deployment]:
    """A variant whose units a test may change; afterwards its additions are removed and the box is as declared."""
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
def two_models(modified: Deployment) -> Deployment:
    """Two models with the same files and port, of which only one can run at a time."""
    first = modified.rig["models"][0]
    modified.rig["models"] = [first, {**first, "name": "second"}]
    outcome = modified.run()
    assert outcome.code == 0, str(outcome)
    return modified


def unit_properties(deployment: Deployment, unit: str, *properties: str) -> list[str]:
    """Values of a unit's properties, as `systemctl show` prints them."""
    options = " ".join(f"-p {name}" for name in properties)
    lines = deployment.shell(f"systemctl show {unit} {options}").splitlines()
    values = dict(line.split("=", 1) for line in lines)
    return [values[name] for name in properties]


def write_drop_in(deployment: Deployment, text: str, unit: str = TINY) -> None:
    """Override settings of a unit until the next boot, for example to shorten waiting times."""
    deployment.shell(
        f"mkdir -p /run/systemd/system/{unit}.d && printf '{text}' >/run/systemd/system/{unit}.d/test.conf "
        "&& systemctl daemon-reload"
    )


def served_model(deployment: Deployment) -> str:
    """The alias of the model that answers on the port, empty while none does."""
    props = f"curl -s --noproxy '*' {deployment.address}/props"
    return deployment.shell(f'{props} | grep -o \'"model_alias":"[a-z]*"\' | cut -d\'"\' -f4; true')


def test_requests_during_a_switch_are_answered_or_refused_and_only_one_server_runs(two_models: Deployment) -> None:
    outcomes: Counter[str] = Counter()
    done = threading.Event()

    def send_requests() -> None:
        while not done.is_set():
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
    clients = [threading.Thread(target=send_requests) for _ in range(3)]
    for thread in clients:
        thread.start()
    try:
        for name in ("second", "tiny", "second", "tiny"):
            before = outcomes["answered"]
            two_models.shell(f"systemctl start llamarig-{name}")
            wait_for(lambda name=name: served_model(two_models) == name, f"{name} on the port")  # type: ignore[misc]  # mypy cannot infer a lambda with a default
            wait_for(lambda before=before: outcomes["answered"] > before, "an answer")  # type: ignore[misc]  # mypy cannot infer a lambda with a default
            other = {"second": TINY, "tiny": SECOND}[name]
            # systemd kills a server that does not stop because of running requests, and then calls it failed.
            assert unit_properties(two_models, other, "ActiveState")[0] in ("inactive", "failed")
    finally:
        done.set()
        for thread in clients:
            thread.join()
        two_models.shell("systemctl stop count-servers")
    resident = two_models.shell("sort -u /run/resident").split()
    assert set(resident) <= {"0", "1"}, "both servers ran at the same time"
    assert set(outcomes) <= {"answered", "refused", "HTTP 503"}, outcomes
    assert outcomes["answered"] >= 4


def boot_units(deployment: Deployment) -> set[str]:
    """The models that start at boot."""
    names = (TINY, SECOND)
    states = deployment.shell(f"systemctl is-enabled {' '.join(names)}; true").split()
    return {name for name, state in zip(names, states, strict=True) if state == "enabled"}


def test_another_default_is_what_a_boot_starts(two_models: Deployment) -> None:
    two_models.rig["default"] = "second"
    outcome = two_models.run()
    assert outcome.code == 0, str(outcome)
    assert boot_units(two_models) == {SECOND}
    two_models.shell(f"systemctl enable -q {TINY}")  # by hand: which of two a boot starts is chance
    audit = two_models.run("--data", "only=llama.units", script="tasks/audit.py")
    assert audit.code != 0
    outcome = two_models.run()
    assert outcome.changed == [SERVED], str(outcome)
    assert boot_units(two_models) == {SECOND}
    machine.down(two_models.box)
    machine.up(two_models.box)
    wait_for(lambda: served_model(two_models) == "second", "the default")
    assert two_models.run().changed == []


def test_a_manually_started_model_is_kept_until_a_reboot_starts_the_default(two_models: Deployment) -> None:
    two_models.shell("systemctl start llamarig-second")
    two_models.run()  # writes the start record of the model, which has not served before
    assert two_models.run().changed == [], "a deploy changed a manually started model"
    assert served_model(two_models) == "second"
    machine.down(two_models.box)
    machine.up(two_models.box)
    wait_for(lambda: served_model(two_models) == "tiny", "the default after a boot")
    assert unit_properties(two_models, SECOND, "ActiveState", "UnitFileState") == ["inactive", "disabled"]
    assert two_models.run().changed == []


def test_a_server_killed_with_sigkill_is_not_restarted(modified: Deployment) -> None:
    """The kernel's out-of-memory killer sends SIGKILL; this container has no memory controller to provoke it with."""
    write_drop_in(modified, "[Service]\\nRestartSec=100ms\\n")
    modified.shell(f"systemctl kill --signal=KILL {TINY}")
    wait_for(lambda: unit_properties(modified, TINY, "ActiveState") == ["failed"], "the failed state")
    time.sleep(1)
    assert unit_properties(modified, TINY, "ActiveState", "Result", "ExecMainStatus", "NRestarts") == [
        "failed",
        "signal",
        "9",
        "0",
    ]
    repaired = modified.run()
    assert repaired.changed == [SERVED], str(repaired)


def test_a_crashed_server_is_restarted(modified: Deployment) -> None:
    write_drop_in(modified, "[Service]\\nRestartSec=100ms\\n")
    modified.shell(f"systemctl kill --signal=ABRT {TINY}")  # llama-server aborts on CUDA errors
    wait_for(lambda: unit_properties(modified, TINY, "ActiveState", "NRestarts") == ["active", "1"], "the restart")
    wait_for(lambda: served_model(modified) == "tiny", "the server")


def test_a_server_that_crashes_at_every_start_ends_failed(modified: Deployment) -> None:
    write_drop_in(modified, "[Service]\\nRestartSec=100ms\\nExecStart=\\nExecStart=/bin/false\\n")
    modified.shell(f"systemctl restart {TINY}; true")
    wait_for(lambda: unit_properties(modified, TINY, "ActiveState") == ["failed"], "the failed state")
    assert "Start request repeated too quickly" in modified.shell(f"journalctl -u {TINY} -n 20 -o cat")
    assert int(unit_properties(modified, TINY, "NRestarts")[0]) == 10


def test_a_new_api_key_needs_a_restart_and_not_another_unit(modified: Deployment) -> None:
    key_file = "/etc/llamarig/keys/api"
    old, new = "sesame-" + "o" * 32, "sesame-" + "n" * 32
    modified.shell(f"install -d -m 700 /etc/llamarig/keys; umask 077; echo {old} >{key_file}")
    modified.rig["models"][0]["serve"].update(host="0.0.0.0", api_key_file=key_file)
    outcome = modified.run()
    assert outcome.code == 0, str(outcome)
    assert chat(modified.address, "Who?", key=old)
    unit = modified.shell(f"cat /etc/systemd/system/{TINY}")

    modified.shell(f"umask 077; sleep 1; echo {new} >{key_file}; systemctl restart {TINY}")
    wait_for(lambda: accepts_key(modified, new), "the new key")
    assert not accepts_key(modified, old)

    modified.shell(f"umask 077; sleep 1; echo {old} >{key_file}")
    outcome = modified.run()
    assert outcome.changed == [SERVED], str(outcome)
    assert "key" in outcome.output
    assert accepts_key(modified, old)
    assert not accepts_key(modified, new)
    assert modified.shell(f"cat /etc/systemd/system/{TINY}") == unit
    assert modified.run().changed == []

    # Search everything that root can read, except the key file itself and its copy for the service.
    found = modified.shell(
        "ps -eww -o args | grep sesame- | grep -v 'grep\\|bash -c'; journalctl -o cat | grep sesame-; "
        "grep -l sesame- /proc/[0-9]*/environ 2>/dev/null; grep -rl sesame- /etc/systemd /var/lib/llamarig/jobs "
        "/var/lib/llamarig/proofs /opt/llamarig/lib; true"
    )
    assert found == ""
    assert old not in outcome.output
    copies = modified.shell(f"stat -c '%a %U' {key_file}; runuser -u nobody -- cat {key_file} 2>&1; "
                             f"runuser -u nobody -- ls /run/credentials/{TINY} 2>&1; true").splitlines()  # fmt: skip
    assert copies[0] == "600 root"
    assert all("denied" in line for line in copies[1:])


def accepts_key(deployment: Deployment, key: str) -> bool:
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
    modified: Deployment, serve: dict[str, object], message: str
) -> None:
    modified.rig["models"][0]["serve"].update(serve)
    modified.rig["models"][0]["serve"]["threads"] = serve.get("threads", 1)
    rule = message.split(":")[0]
    if rule != "threads-over-cpus":  # a server with 4096 threads would overload the machine
        outcome = modified.run()
        assert outcome.code == 0, str(outcome)
        assert message in " ".join(outcome.output.split())
        assert f'accept={{"{rule}": "your reason"}}' in outcome.output
    modified.rig["models"][0]["serve"]["accept"] = {rule: "a test"}
    modified.rig["models"][0]["serve"]["threads"] = 1
    assert rule not in modified.run().output


def test_a_split_that_does_not_match_the_number_of_layers_is_refused_without_a_stop(modified: Deployment) -> None:
    """The rehearsal's model has 4 layers."""
    pid = unit_properties(modified, TINY, "MainPID")
    serve = modified.rig["models"][0]["serve"]
    serve["placement"] = {"kind": "layers", "gpu": [2], "split": [9]}
    outcome = modified.run()
    assert outcome.code != 0
    assert "split (9,) adds up to 9, but this model has 4 layers and the output, 5 in all" in outcome.output
    assert unit_properties(modified, TINY, "MainPID") == pid
    serve["placement"] = {"kind": "layers", "gpu": [2], "split": [5]}
    outcome = modified.run()
    assert outcome.code == 0, str(outcome)
    assert "blk[.](2|3)[.]ffn_(up|down|gate|gate_up)_(ch|)exps=CPU" in modified.shell(f"cat /etc/systemd/system/{TINY}")


def test_a_deploy_reports_what_each_override_rule_matches(modified: Deployment) -> None:
    """With box D's rule for "layers 10 and up", for a model of 4 layers."""
    modified.rig["models"][0]["serve"]["placement"] = {
        "kind": "override",
        "rules": ["blk[.][0-1]?[1-2][.]ffn_(up|down|gate)_exps=CPU", "nothing_of_this_name=CPU", "exps=CPU"],
    }
    outcome = modified.run()
    assert outcome.code == 0, str(outcome)
    output = " ".join(outcome.output.split())
    assert "layers 1-2, 6 tensors" in output
    assert "override-matches-nothing: 'nothing_of_this_name=CPU' matches no tensor of this model" in output
    assert "exps=CPU: layers 0, 3, 6 tensors" in output


HANG = """
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
# PTRACE_ATTACH stops only the main thread: the HTTP threads continue, the compute loop does not.
assert libc.ptrace(16, int(sys.argv[1]), 0, 0) == 0, ctypes.get_errno()
os.waitpid(int(sys.argv[1]), 0x40000000)  # returns when the thread has stopped
os.waitpid(int(sys.argv[1]), 0x40000000)  # returns when it was killed; its parent is notified only after the tracer
"""


def test_a_server_that_answers_health_checks_but_no_completions_is_restarted(modified: Deployment) -> None:
    box = modified.box
    (box.root / "root/hang.py").write_text(HANG)
    (pid,) = unit_properties(modified, TINY, "MainPID")
    modified.shell("systemctl stop llamarig_liveness.timer; rm -f /run/liveness-test")
    probe_round = (
        "cd /opt/llamarig/lib && python3 -B -c 'import llamarig.remote.serve.probe_servers as p; "
        "from pathlib import Path; "
        'p.ANSWER_WITHIN_S = 2; p.main(Path("/run/liveness-test"))\''
    )
    # The first round finds the server idle, the second requests a token, the third has nothing to do.
    assert modified.shell(f"{probe_round}; {probe_round}; {probe_round}") == ""
    assert unit_properties(modified, TINY, "MainPID") == [pid], "a working server was restarted"

    modified.shell(f"systemd-run -q --unit=hang python3 /root/hang.py {pid}")
    try:
        wait_for(lambda: "t (tracing stop)" in modified.shell(f"cat /proc/{pid}/status"), "the hang")
        assert modified.shell(f"curl -s --noproxy '*' {modified.address}/health") == '{"status":"ok"}'
        assert modified.shell(f"{probe_round}; {probe_round}") == ""
        assert unit_properties(modified, TINY, "MainPID") == [pid], "the server was restarted after too few rounds"
        assert "has completed nothing for 3 rounds" in modified.shell(probe_round)
        wait_for(lambda: unit_properties(modified, TINY, "MainPID") not in ([pid], ["0"]), "the restart")
        wait_for(lambda: served_model(modified) == "tiny", "the restarted server")
    finally:
        modified.shell("systemctl stop hang; systemctl start llamarig_liveness.timer")


def test_the_liveness_probe_runs_in_its_sandbox_and_does_not_wake_a_sleeping_model(modified: Deployment) -> None:
    key_file = "/etc/llamarig/keys/api"
    modified.shell(f"install -d -m 700 /etc/llamarig/keys; umask 077; echo sesame >{key_file}")
    modified.rig["models"][0]["serve"].update(sleep_idle_s=2, api_key_file=key_file)
    outcome = modified.run()
    assert outcome.code == 0, str(outcome)
    props = f"curl -s --noproxy '*' -H 'Authorization: Bearer sesame' {modified.address}/props"
    asleep = f"{props} | grep -c '\"is_sleeping\":true'; true"
    wait_for(lambda: modified.shell(asleep) == "1", "sleep")
    for _ in range(3):
        modified.shell("systemctl start llamarig_liveness.service")
    assert modified.shell(asleep) == "1"
    assert unit_properties(modified, "llamarig_liveness.service", "Result") == ["success"]
    # Only this run's log: an earlier round may have used a new key before the server was restarted with it.
    (run,) = unit_properties(modified, "llamarig_liveness.service", "InvocationID")
    assert "not probed" not in modified.shell(f"journalctl _SYSTEMD_INVOCATION_ID={run} -o cat")
    state = Path("run/llamarig_liveness/state.json")
    assert "llamarig-tiny.service" in modified.shell(f"cat /{state}")
    assert chat(modified.address, "Awake?", key="sesame")


@pytest.mark.parametrize(
    ("command", "changed_operations"),
    [
        ("echo '# mine' >>/etc/systemd/system/llamarig_liveness.service", ["Liveness probe"]),
        ("systemctl disable -q --now llamarig_liveness.timer", ["Liveness probe"]),
    ],
)
def test_a_changed_liveness_probe_is_restored(
    modified: Deployment, command: str, changed_operations: list[str]
) -> None:
    modified.shell(command)
    assert modified.run().changed == changed_operations
    assert modified.run().changed == []
