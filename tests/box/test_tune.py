"""tasks/tune.py with the real llama-server: a setting made worse is found and undone, noise makes no winner, and what
served serves again, whatever happens."""

from __future__ import annotations

import json
import random
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from llamarig.records.plan_file import read_plan_file
from llamarig.records.tuning import Tuning
from llamarig.remote.measure.search import concluded
from llamarig.remote.measure.tune_job import parse_samples, searches

from tests.box import larger_model
from tests.box.deployment import Deployment, Outcome, kill, wait_for
from tests.box.hub import Hub
from tests.box.rehearse import chat

pytestmark = pytest.mark.box

UNIT = f"llamarig-{larger_model.NAME}"
JOB = f"/var/lib/llamarig/jobs/switch-{larger_model.NAME}.tune"
WORKLOAD = {"preset": "agent"}


def serve(variant: Deployment, hub: Hub, **settings: Any) -> None:
    """Deploy the larger model with these settings, and switch to it."""
    # A small context: the workload has as many tokens, and each replay takes seconds.
    larger_model.declare(variant, hub, context=1024, **settings)
    variant.rig["models"][1]["workload"] = WORKLOAD
    for outcome in (variant.run(), variant.run("--data", "model=larger", script="tasks/switch.py")):
        assert outcome.code == 0, str(outcome)


def tune(variant: Deployment, *more: str, minutes: int = 20) -> Outcome:
    return variant.run("--data", f"minutes={minutes}", *more, script="tasks/tune.py", timeout=60 * minutes + 300)


def result(variant: Deployment) -> Tuning:
    return read_plan_file(variant.rig["plan_file"]).tuned["rehearsal-box"][larger_model.NAME].tuning


def serves_as_before(variant: Deployment, text: str) -> None:
    """The larger model serves with its unit file as it was, answers, and nothing of the tuning is left."""
    wait_for(lambda: variant.shell(f"systemctl is-active {UNIT}; true") == "active", "the model that served")
    assert variant.shell(f"cat /etc/systemd/system/{UNIT}.service") == text
    wait_for(lambda: variant.shell(f"curl -s --noproxy '*' {variant.address}/health; true") == '{"status":"ok"}', "it")
    assert chat(variant.address, "Say hello.")
    assert (
        variant.shell("ls /etc/systemd/system/*before /var/lib/llamarig/proofs/switch-journal 2>/dev/null; true") == ""
    )


@pytest.fixture
def box(variant: Deployment, hub: Hub) -> Iterator[Deployment]:
    yield variant
    larger_model.remove(variant)


def test_a_setting_made_worse_is_found_undone_and_adopted(box: Deployment, hub: Hub) -> None:
    # Two threads that wait for each other on one processor, which is several times slower than either alone.
    serve(box, hub, threads=2, cpu_affinity="0")
    text = box.shell(f"cat /etc/systemd/system/{UNIT}.service")
    outcome = tune(box, "--data", "model=larger")
    assert outcome.code == 0, str(outcome)
    found = result(box)
    assert found.verdict == "faster", str(outcome)
    assert {"threads", "cpu_affinity"} & found.settings.keys(), found
    assert found.low is not None
    assert found.low > 0.03
    serves_as_before(box, text)
    output = " ".join(outcome.output.split())
    assert "accept it with tasks/tune.py --data accept=larger" in output
    accepted = box.run("--data", "accept=larger", script="tasks/tune.py")
    assert accepted.code == 0, str(accepted)
    deployed = box.run()
    assert deployed.code == 0, str(deployed)
    served = box.shell(f"cat /etc/systemd/system/{UNIT}.service")
    assert "CPUAffinity=0\n" not in served or "--threads 1 " in served
    assert box.run().changed == []


RUNS = 3
"""Of finals between equal settings beside noise. How often noise would win among many is simulated, in
tests/remote/measure/test_paired_difference.py."""
NOISE = "import random, time\nwhile True:\n    end = time.time() + random.random() * 4\n" + (
    "    while time.time() < end:\n        pass\n    time.sleep(random.random() * 4)\n"
)


@contextmanager
def noise(box: Deployment) -> Iterator[None]:
    """A second process on the box that computes for random times."""
    box.shell(f"systemd-run --quiet --unit=noise /usr/bin/python3 -c {shlex.quote(NOISE)}")
    try:
        yield
    finally:
        box.shell("systemctl stop noise")


def verdicts(box: Deployment, minutes: float, runs: int) -> list[str]:
    """Run finals between the current unit and itself, by the job that a tuning has left; return their winners."""
    job = json.loads(box.shell(f"cat {JOB}/job.json"))
    found = []
    for run in range(runs):
        samples = f"{JOB}/same-{run}.jsonl"
        same = {**job, "stage": "finals", "minutes": minutes, "samples": samples}
        same["candidates"] = [{"name": "same", "job": job["current"]}]
        box.shell(f"rm -f {samples}; cat >{JOB}/job.json <<'E'\n{json.dumps(same)}\nE")
        box.shell(
            f"cd /opt/llamarig/lib && python3 -B -m llamarig.remote.measure.tune_unit {JOB} >&2",
            timeout=60 * minutes + 300,
        )
        taken = parse_samples(box.shell(f"cat {samples}").splitlines())
        counted = [one.sample for one in taken if one.counts]
        found.append(concluded(counted, searches("finals", ("same",), 0.03)()).winner or "none")
    return found


def test_noise_of_a_second_process_makes_no_winner(box: Deployment, hub: Hub) -> None:
    serve(box, hub)
    text = box.shell(f"cat /etc/systemd/system/{UNIT}.service")
    with noise(box):
        assert tune(box, "--data", "model=larger", minutes=1).code == 0
        assert verdicts(box, 3, RUNS) == ["none"] * RUNS
    serves_as_before(box, text)


def test_a_model_that_is_stopped_for_dry_runs_comes_back(deployment: Deployment, tmp_path: Path) -> None:
    """After them, and by the box itself where the control machine is gone."""
    active = "systemctl is-active llamarig-tiny; true"
    script = str(Path(__file__).with_name("deploy_servers_stopped.py"))
    for is_killed in (False, True):
        deployment.shell("rm -f /run/planning /run/planned")
        running = deployment.start(log=tmp_path / f"{is_killed}.log", script=script)
        wait_for(lambda: deployment.shell("ls /run/planning 2>/dev/null; true"), "the dry runs", deploy=running)
        assert deployment.shell(active) == "inactive"
        if is_killed:
            kill(running)
        deployment.shell("touch /run/planned")
        if not is_killed:
            assert running.exit_code() == 0, running.output()
        wait_for(lambda: deployment.shell(active) == "active", "the model that was stopped")
        if not is_killed:
            assert deployment.shell("systemctl list-timers --all --plain --no-legend 'llamarig_dry_runs*'") == ""


def test_killed_at_random_moments_the_old_model_serves_and_the_next_run_goes_on(box: Deployment, hub: Hub) -> None:
    serve(box, hub)
    text, chance = box.shell(f"cat /etc/systemd/system/{UNIT}.service"), random.Random(16)
    for attempt in range(3):
        log = box.directory / f"killed-{attempt}.log"
        running = box.start(log=log, script="tasks/tune.py")
        try:
            wait_for(
                lambda: box.shell("systemctl list-units --plain --no-legend 'llamarig-job-switch-larger.tune_*'"), "it"
            )
            box.shell(
                f"sleep {chance.uniform(0.5, 25):.1f}; systemctl kill -s KILL 'llamarig-job-switch-larger.tune_*'; true"
            )
            assert running.exit_code() != 0
        finally:
            if running.poll() is None:
                kill(running)
        assert "Traceback" not in log.read_text()
        serves_as_before(box, text)
    before = box.shell(f"cat {JOB}/screening-*.jsonl").splitlines()
    outcome = tune(box, "--data", "model=larger", minutes=3)
    assert outcome.code == 0, str(outcome)
    assert "Traceback" not in outcome.output
    serves_as_before(box, text)
    left = box.shell(f"cat {JOB}/screening-*.jsonl 2>/dev/null; true").splitlines()
    assert not left or left[: len(before) - 1] == before[: len(before) - 1]
    assert result(box).verdict in ("undecided", "nothing better", "faster")
