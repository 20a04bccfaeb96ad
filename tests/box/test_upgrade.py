"""Upgrade: a box that was deployed by an earlier version of llamarig converges, with one restart of its server.

The restart is for the sandbox of the unit, which that version did not have. Where only comments differ there is none.
"""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tests.box.audit_report import audit
from tests.box.deployment import REPOSITORY_ROOT, Deployment, wait_for
from tests.box.rehearse import chat, is_healthy

pytestmark = pytest.mark.box

OLDER = "9dd93a7f04246699d79f437af636e1a4a4db57a0"
"""A commit before the code was a package: its programs are in /opt/llamarig/lib/tasks, its start records have the
whole text of a unit."""

UNITS = "/etc/systemd/system"
TINY = "llamarig-tiny.service"
CHANGED_ITEMS = {"Directories", "Python", "Programs", "Models served", "Liveness probe"}
"""Items that an upgrade changes: our programs and their Python, the units that start them, and the sandbox."""


@pytest.fixture
def older(variant: Deployment) -> Deployment:
    """A deployment of the same box by the older tree, with that tree's rehearsal rig and a separate model lock.

    The model has as many threads as in this tree's rig, since another number restarts the server.
    """
    tree = variant.directory / "older"
    _check_out(tree)
    older = replace(variant, tree=tree)
    code = "import json; from group_data.rehearsal import rig; print(json.dumps(rig))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tree, env=older.environment(), stdout=subprocess.PIPE, check=True
    )
    rig = {**json.loads(done.stdout), "model_lock": str(variant.directory / "older.lock.json")}
    rig["models"][0]["serve"]["threads"] = variant.rig["models"][0]["serve"]["threads"]
    return replace(older, rig=rig)


def _check_out(tree: Path) -> None:
    # The tests run as root, but the clone may belong to another user, which git refuses by default.
    git = ["git", "-c", f"safe.directory={REPOSITORY_ROOT}", "-c", f"safe.directory={REPOSITORY_ROOT}/.git"]
    present = [*git, "-C", str(REPOSITORY_ROOT), "cat-file", "-e", f"{OLDER}^{{commit}}"]
    if subprocess.run(present, stderr=subprocess.DEVNULL).returncode:
        pytest.skip("this clone lacks the older commit (the unit that it wrote is tested all the same)")
    subprocess.run([*git, "clone", "--quiet", "--shared", "--no-checkout", str(REPOSITORY_ROOT), str(tree)], check=True)
    subprocess.run(["git", "-C", str(tree), "checkout", "--quiet", OLDER], check=True)


def server_start(deployment: Deployment) -> list[str]:
    """Properties of the service that change with every start of the server."""
    return deployment.shell(f"systemctl show {TINY} -p InvocationID -p MainPID -p ExecMainStartTimestamp").splitlines()


def test_a_box_of_an_older_version_converges_with_one_restart(
    deployment: Deployment, older: Deployment, tmp_path: Path
) -> None:
    # Remove what this version has deployed, except releases and model files, which are the same for both versions.
    deployment.shell(
        f"systemctl disable -q --now {TINY} llamarig_liveness.timer; rm -rf {UNITS}/{TINY} {UNITS}/llamarig_liveness.* "
        "/opt/llamarig/lib /opt/llamarig/hub /opt/llamarig/bin; rm -rf /var/lib/llamarig/jobs/* "
        "/var/lib/llamarig/proofs/*; systemctl daemon-reload"
    )
    first = older.run()
    assert first.code == 0, str(first)
    assert "Services | Models served" in first.changed, "the older tree did not run"
    assert older.run().changed == []
    assert deployment.shell("ls /opt/llamarig/lib") == "tasks"
    before = server_start(deployment)

    # With the model lock of the older version, which this version can read.
    newer = replace(older, tree=REPOSITORY_ROOT, rig={**deployment.rig, "model_lock": older.rig["model_lock"]})
    shown = newer.run("--dry")
    assert shown.code == 0, str(shown)
    assert "; restarts it" in shown.output
    assert server_start(deployment) == before
    outcome = newer.run()
    assert outcome.code == 0, str(outcome)
    assert set(outcome.changed) >= CHANGED_ITEMS, str(outcome)
    restarted = server_start(deployment)
    assert restarted != before
    assert "RootDirectory=" in deployment.shell(f"cat {UNITS}/{TINY}")
    assert (
        deployment.shell(f"systemctl show {TINY} llamarig_liveness.service -p NeedDaemonReload --value") == "no\n\nno"
    )
    assert deployment.shell(f"grep -l /opt/llamarig/lib/tasks {UNITS}/llamarig* || true") == ""

    second = newer.run()
    assert (second.code, second.changed) == (0, []), str(second)
    audited, host = audit(newer, tmp_path / "report.json")
    assert (audited.code, host["status"]) == (0, "clean"), str(audited)
    assert server_start(deployment) == restarted, "the server was restarted a second time"
    assert chat(deployment.address, "Still the same?")

    # The server also starts with the new unit text.
    deployment.shell(f"systemctl restart {TINY}; systemctl start llamarig_liveness.service")
    wait_for(lambda: is_healthy(deployment.address), "/health after a restart")
    assert newer.run().changed == []
    assert deployment.run().changed == [], "the model lock of this version gave a difference"


def test_comments_of_another_version_are_replaced_without_a_restart(deployment: Deployment) -> None:
    """With a start record as commit 9dd93a7 wrote it."""
    path, record = f"{UNITS}/{TINY}", f"/var/lib/llamarig/proofs/{TINY}.json"
    current = deployment.shell(f"cat {path}") + "\n"
    older = re.sub("^#.*", "# As an earlier version explained it.", current, flags=re.MULTILINE)
    # It did not wait for the model either: the lines for that concern a start, and no server that runs.
    older = re.sub(r"^(ExecStartPost|TimeoutStartSec|DefaultDependencies)=.*\n", "", older, flags=re.MULTILINE)
    older = re.sub(r"^\w+=(sysinit|shutdown)\.target.*\n", "", older, flags=re.MULTILINE)
    assert len(older.splitlines()) == len(current.splitlines()) - 7
    proof = json.loads(deployment.shell(f"cat {record}"))
    del proof["directives_sha256"]
    proof |= {"text": older, "text_sha256": hashlib.sha256(older.encode()).hexdigest()}
    deployment.shell(f"cp -p {path} /tmp/current.service")
    deployment.write(path, older)
    deployment.write(record, json.dumps(proof))
    deployment.shell(f"touch -r /tmp/current.service {path}; systemctl daemon-reload")
    before = server_start(deployment)

    shown = deployment.run("--dry")
    assert "tiny: comments of its unit, or what concerns a start alone; it goes on running" in shown.output
    assert "restarts it" not in shown.output
    outcome = deployment.run()
    assert (outcome.code, outcome.changed) == (0, ["Models served"]), str(outcome)
    assert deployment.shell(f"cat {path}") + "\n" == current
    assert server_start(deployment) == before, "the server was restarted"
    assert deployment.run().changed == []
    assert server_start(deployment) == before
