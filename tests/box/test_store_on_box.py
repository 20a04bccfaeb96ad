"""The model store through the real deploy: killed units, a token, a full disk, the lock against upstream, pruning."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.box.deployment import Deployment, wait_for
from tests.box.fetching import random_file
from tests.box.hub import Hub
from tests.box.hub_faults import Fault
from tests.box.local_hub import REPOSITORY

pytestmark = pytest.mark.box

SECOND = "llamarig/Second-GGUF"
STORE = "/var/lib/llamarig/models"
TOKEN = "hf_ofthetest"
MIB = 1024**2


@pytest.fixture
def second(variant: Deployment, deployment: Deployment, hub: Hub) -> Iterator[Deployment]:
    """The tiny model's files once more, in a repository of their own; afterwards the box is as it was."""
    first = hub.store.root / REPOSITORY
    hub.add_repo(SECOND, {str(path.relative_to(first)): path for path in first.rglob("*.gguf")})
    tiny = variant.rig["models"][0]
    serve = {**tiny["serve"], "port": variant.box.port + 11, "coexists": True}
    variant.rig["models"] = [tiny, {**tiny, "name": "second", "repo": SECOND, "serve": serve}]
    yield variant
    hub.faults.clear()
    outcome = deployment.run()
    assert outcome.code == 0, str(outcome)
    deployment.shell(
        f"rm -rf {STORE}/llamarig/Second-GGUF {STORE}/.partial/* /etc/systemd/system/llamarig-second.service"
        "; systemctl daemon-reload"
    )


def moved(hub: Hub) -> int:
    return sum(request.bytes_sent for request in hub.log.requests() if request.origin == "cdn")


def test_power_cut_of_the_unit(second: Deployment, hub: Hub, tmp_path: Path) -> None:
    """All its processes die at once, the control machine's too; the next deploy fetches only what is missing."""
    hub.log.clear()
    hub.faults.add(Fault(origin="cdn", path=f"/repos/{SECOND}/*", bytes_per_s=300_000))
    running = second.start(log=tmp_path / "log")
    wait_for(lambda: moved(hub) > 4 * MIB, "4 MiB of model files")
    second.shell("systemctl kill -s SIGKILL 'llamarig-job-fetch_*'")
    running.wait(timeout=60)
    assert "was interrupted" in (tmp_path / "log").read_text()
    hub.faults.clear()
    outcome = second.run()
    assert outcome.code == 0, str(outcome)
    size = int(second.shell(f"find {STORE}/{SECOND} -name '*.gguf' -printf '%s\\n' | awk '{{s+=$1}} END {{print s}}'"))
    print(f"{(moved(hub) - size) / MIB:.2f} of {size / MIB:.2f} MiB fetched twice")
    assert moved(hub) - size <= 1024 * MIB
    assert (
        second.shell(f"find {STORE}/{SECOND} -name '*.gguf' -printf '%m %u %g %n\\n' | sort -u")
        == "640 root llamarig 1"
    )
    hub.log.clear()
    assert second.run().changed == []
    assert hub.log.requests() == []


def test_gated_repository(second: Deployment, hub: Hub, tmp_path: Path) -> None:
    """Without a token: refused, with words. With a command that prints it: there, and written down nowhere."""
    first = hub.store.root / REPOSITORY
    hub.add_repo(SECOND, {str(path.relative_to(first)): path for path in first.rglob("*.gguf")}, gated_token=TOKEN)
    refused = second.run()
    assert refused.code == 1
    assert f"the Hub refuses {SECOND} (HTTP 401)" in refused.output
    assert "hub.token_env or hub.token_command" in refused.output
    secret = tmp_path / "secret"
    secret.write_text(f"{TOKEN}\n")
    second.rig["hub"]["token_command"] = ["cat", str(secret)]
    hub.faults.add(Fault(origin="cdn", path=f"/repos/{SECOND}/*", bytes_per_s=600_000))
    running = second.start(log=tmp_path / "log")
    wait_for(lambda: "downloading" in (tmp_path / "log").read_text(), "the download")
    seen = second.shell(
        "for p in /proc/[0-9]*; do tr '\\0' ' ' <$p/cmdline; tr '\\0' ' ' <$p/environ; done 2>/dev/null; "
        "systemctl cat 'llamarig-job-fetch_*'; cat /var/lib/llamarig/jobs/fetch/*; "
        "journalctl -b --no-pager | tail -n 500"
    )
    assert running.wait(timeout=120) == 0, (tmp_path / "log").read_text()
    assert TOKEN not in seen
    assert TOKEN not in (tmp_path / "log").read_text()
    assert TOKEN not in Path(second.rig["model_lock"]).read_text()
    assert second.shell(f"grep -rl {TOKEN} /var/lib/llamarig /etc/systemd /run/systemd 2>/dev/null || true") == ""
    broken = ["sh", "-c", "exit 3"]
    second.rig["hub"]["token_command"] = broken
    assert second.run().changed == [], "a run that fetches nothing asks for no token"


def test_no_room_is_said_before_the_first_byte(second: Deployment, hub: Hub) -> None:
    hub.log.clear()
    free = int(second.shell(f"df --output=avail -B1 {STORE} | tail -n 1"))
    second.rig["host"]["disk_reserve_gib"] = free / 1024**3 + 1
    outcome = second.run()
    assert outcome.code == 1
    assert "of model files wanted, less 0.00 GiB already there, plus" in outcome.output
    assert "nothing was downloaded" in outcome.output
    assert moved(hub) == 0


def test_upstream_moves_on(second: Deployment, hub: Hub, tmp_path: Path) -> None:
    """tasks/lock.py tells what is newer, changes nothing unasked, and the next deploy fetches what the lock says."""
    assert second.run().code == 0
    lock = Path(second.rig["model_lock"])
    before = lock.read_text()
    files = {
        path: stored.source
        for path, stored in hub.store.repository(SECOND, anonymous=True).revision("main").files.items()
    }
    readme = random_file(tmp_path / "notes.gguf", 3000, seed=1)
    commit = hub.add_revision(SECOND, {**files, "notes.gguf": readme})
    told = second.run(script="tasks/lock.py")
    assert told.code == 0, told
    assert f"main is at {commit[:12]}, with the same files" in told.output
    assert lock.read_text() == before
    assert second.run().changed == [], "a branch that moved changes nothing by itself"
    moved_lock = second.run("--data", "update=second", script="tasks/lock.py")
    assert moved_lock.code == 0, moved_lock
    assert commit in lock.read_text()
    assert json.loads(lock.read_text()) != json.loads(before)
    assert second.run("--data", "update=nobody", script="tasks/lock.py").code == 1
    outcome = second.run()
    assert outcome.code == 0, str(outcome)
    listed = second.run(script="tasks/prune.py")
    assert "superseded by revision" in listed.output


def test_prune_lists_and_deletes_only_what_is_named(second: Deployment, deployment: Deployment) -> None:
    assert second.run().code == 0
    # Declared no longer: its unit stays, so its files do.
    held = deployment.run(script="tasks/prune.py")
    assert held.code == 0, held
    assert f"no model of {SECOND} is declared; stays, " in held.output
    name = next(word for word in held.output.split() if word.startswith(f"models/{SECOND}/")).rstrip(":")
    refused = deployment.run("--data", f"delete={name}", script="tasks/prune.py")
    assert refused.code == 1
    assert "llamarig-second.service" in refused.output
    assert deployment.shell(f"find {STORE}/{SECOND} -name '*.gguf' | wc -l") == "3"

    deployment.shell(
        "systemctl disable --now llamarig-second; rm /etc/systemd/system/llamarig-second.service; "
        "systemctl daemon-reload"
    )
    deployment.shell(f"mkdir -p /opt/llamarig/llama.cpp/old/bin {STORE}/.partial && touch {STORE}/.partial/{'0' * 64}")
    listed = deployment.run(script="tasks/prune.py")
    assert listed.changed == [], listed
    assert f"{name}: no model of {SECOND} is declared" in listed.output
    assert "releases/old: no declared build makes this release; stays, one of the last 2" in listed.output
    assert f"partial/{'0' * 64}: a broken-off download of no declared model" in listed.output
    assert "models/llamarig/Tiny" not in listed.output
    typo = deployment.run("--data", "delete=releases/old,releases/odl", "--data", "keep=0", script="tasks/prune.py")
    assert typo.code == 1
    assert "'releases/odl' is nothing this list offers" in typo.output
    assert deployment.shell("ls -d /opt/llamarig/llama.cpp/old")
    kept = deployment.run("--data", f"delete=releases/old,{name}", script="tasks/prune.py")
    assert kept.code == 1
    assert "releases/old stays: one of the last 2" in kept.output
    deleted = deployment.run("--data", f"delete=releases/old,{name}", "--data", "keep=0", script="tasks/prune.py")
    assert deleted.code == 0, deleted
    gone = shlex.quote(f"{STORE}/{SECOND}")
    assert deployment.shell(f"ls -d {gone} /opt/llamarig/llama.cpp/old 2>/dev/null || echo gone") == "gone"
    assert deployment.shell(f"ls {STORE}/.partial") == "0" * 64
    assert deployment.run().changed == []
