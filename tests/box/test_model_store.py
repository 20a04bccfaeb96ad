"""The model store in real deploys: killed downloads, tokens, a full disk, a newer revision, pruning."""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.box import second_model
from tests.box.deployment import Deployment, kill, wait_for
from tests.box.fetch_run import random_file
from tests.box.hub import Hub
from tests.box.hub_faults import Fault
from tests.box.local_hub import REPOSITORY
from tests.box.rehearse import chat
from tests.box.second_model import SECOND, STORE

pytestmark = pytest.mark.box

TOKEN = "hf_ofthetest"
MIB = 1024**2
PRINT_PARTIAL_BYTES = f"""
import os, pathlib
from llamarig.remote.download.sparse_file import extents, length
sizes = 0
for path in pathlib.Path("{STORE}/.partial").glob("*"):
    if len(path.name) == 64:
        descriptor = os.open(path, os.O_RDONLY)
        sizes += length(extents(descriptor, os.fstat(descriptor).st_size))
print(sizes)
"""


@pytest.fixture
def second(variant: Deployment, deployment: Deployment, hub: Hub) -> Iterator[Deployment]:
    """A variant with a second model in its own repository; afterwards the box is restored."""
    second_model.remove(deployment)
    second_model.declare(variant, hub)
    yield variant
    hub.faults.clear()
    second_model.remove(deployment)
    outcome = deployment.run()
    assert outcome.code == 0, str(outcome)


def bytes_sent(hub: Hub) -> int:
    """Bytes of model files that the CDN has sent since the log was cleared."""
    return sum(request.bytes_sent for request in hub.log.requests() if request.origin == "cdn")


def partial_bytes(deployment: Deployment) -> int:
    """Bytes of partial files on the box's disk."""
    return int(deployment.shell(f"cd /opt/llamarig/lib && python3 -B -c {shlex.quote(PRINT_PARTIAL_BYTES)}"))


def partials(deployment: Deployment) -> list[str]:
    """Names (sha256) of the partial files, without the temporary files of hf_transfer."""
    names = deployment.shell(f"ls {STORE}/.partial 2>/dev/null || true").split()
    return sorted(name for name in names if len(name) == 64)


def test_after_a_killed_download_the_next_deploy_fetches_only_the_rest(
    second: Deployment, hub: Hub, tmp_path: Path
) -> None:
    hub.log.clear()
    # At this rate a shard's first chunk of 4 MiB takes 42 s; its second, smaller chunk is complete long before.
    hub.faults.add(Fault(origin="cdn", path=f"/repos/{SECOND}/*", bytes_per_s=100_000))
    running = second.start(log=tmp_path / "log")
    wait_for(lambda: partial_bytes(second) > MIB, "the first MiB of model files", deploy=running)
    second.shell("systemctl kill -s SIGKILL 'llamarig-job-fetch_*'")
    assert running.exit_code() != 0
    assert "was interrupted" in running.output()
    before, present = bytes_sent(hub), partial_bytes(second)
    assert second.shell(f"find {STORE}/{SECOND} -name '*.gguf' 2>/dev/null | wc -l") == "0"
    hub.faults.clear()
    hub.log.clear()
    outcome = second.run()
    assert outcome.code == 0, str(outcome)
    size = int(second.shell(f"find {STORE}/{SECOND} -name '*.gguf' -printf '%s\\n' | awk '{{s+=$1}} END {{print s}}'"))
    print(f"{(before + bytes_sent(hub) - size) / MIB:.2f} of {size / MIB:.2f} MiB fetched twice")
    # Plus one byte for each of three files, which hf_transfer requests first to learn the size.
    assert bytes_sent(hub) <= size - present + 3, "bytes that were on the disk were fetched again"
    assert (
        second.shell(f"find {STORE}/{SECOND} -name '*.gguf' -printf '%m %u %g %n\\n' | sort -u")
        == "640 root llamarig 1"
    )
    hub.log.clear()
    assert second.run().changed == []
    assert hub.log.requests() == []


def test_a_gated_repository_needs_the_token_which_is_stored_nowhere(
    second: Deployment, hub: Hub, tmp_path: Path
) -> None:
    second_model.declare(second, hub, gated_token=TOKEN)
    refused = second.run()
    assert refused.code == 1
    assert f"the Hub refuses {SECOND} (HTTP 401)" in refused.output
    assert "hub.token_env or hub.token_command" in refused.output
    secret = tmp_path / "secret"
    secret.write_text(f"{TOKEN}\n")
    second.rig["hub"]["token_command"] = ["cat", str(secret)]
    hub.faults.add(Fault(origin="cdn", path=f"/repos/{SECOND}/*", bytes_per_s=200_000))
    running = second.start(log=tmp_path / "log")
    wait_for(lambda: "downloading" in running.output(), "the download", deploy=running)
    seen = second.shell(
        "for p in /proc/[0-9]*; do tr '\\0' ' ' <$p/cmdline; tr '\\0' ' ' <$p/environ; done 2>/dev/null; "
        "systemctl cat 'llamarig-job-fetch_*'; cat /var/lib/llamarig/jobs/fetch/*; "
        "journalctl -b --no-pager | tail -n 500"
    )
    assert "llamarig.remote.download.fetch_shards" in seen, "the download ended too early for this test"
    assert TOKEN not in seen
    assert running.exit_code() == 0, running.output()
    assert TOKEN not in running.output()
    assert TOKEN not in Path(second.rig["model_lock"]).read_text()
    assert "hub-token" in seen, "the token was passed in another way than this test checks"
    directories = "/var/lib/llamarig /etc/systemd /run/systemd /run/llamarig /tmp /var/tmp /root"
    assert second.shell(f"grep -rl {TOKEN} {directories} 2>/dev/null || true") == ""
    failing_command = ["sh", "-c", "exit 3"]
    second.rig["hub"]["token_command"] = failing_command
    assert second.run().changed == [], "a run that fetches nothing needs no token"


def test_a_download_without_enough_disk_space_is_refused_before_it_starts(second: Deployment, hub: Hub) -> None:
    hub.log.clear()
    free = int(second.shell(f"df --output=avail -B1 {STORE} | tail -n 1"))
    second.rig["host"]["disk_reserve_gib"] = free / 1024**3 + 1
    outcome = second.run()
    assert outcome.code == 1
    assert "of model files to fetch, less 0.00 GiB already there, plus" in outcome.output
    assert "nothing was downloaded" in outcome.output
    assert bytes_sent(hub) <= 16 << 10, "more than the beginning of one file, for its architecture"


@pytest.fixture
def small_store(variant: Deployment, deployment: Deployment, hub: Hub) -> Iterator[Deployment]:
    """Mount an empty tmpfs of 24 MiB, just enough for the tiny model, as the model store; unmount it afterwards."""
    deployment.shell(f"mount -t tmpfs -o size=24m,mode=755 tmpfs {STORE}")
    variant.rig["host"]["disk_reserve_gib"] = 0
    yield variant
    hub.faults.clear()
    deployment.shell(f"systemctl stop 'llamarig-job-fetch_*'; umount {STORE}")
    outcome = deployment.run()
    assert outcome.code == 0, str(outcome)


def test_a_download_on_a_full_disk_fails_and_continues_once_there_is_space(
    small_store: Deployment, hub: Hub, tmp_path: Path
) -> None:
    hub.faults.add(Fault(origin="cdn", path=f"/repos/{REPOSITORY}/*", bytes_per_s=300_000))
    running = small_store.start(log=tmp_path / "log")
    wait_for(lambda: "downloading" in running.output(), "the download", deploy=running)
    small_store.shell(f"head -c 18M /dev/zero >{STORE}/other-file")
    assert running.exit_code() != 0
    output = running.output()
    assert output.count("models: No space left on device") == 2, "when it fails, and in the closing block"
    assert "downloaded" not in output, "it is not"
    assert f"on {STORE}/.partial: nothing that came is lost" in output
    assert "Traceback" not in output
    assert small_store.shell(f"find {STORE} -name '*.gguf'") == ""
    assert chat(small_store.address, "Do you still serve?")
    present = partial_bytes(small_store)
    assert present > 0
    hub.faults.clear()
    hub.log.clear()
    small_store.shell(f"rm {STORE}/other-file")
    outcome = small_store.run()
    assert outcome.code == 0, str(outcome)
    sources = {path.name: path for path in (hub.store.root / REPOSITORY).rglob("*.gguf")}
    size = sum(path.stat().st_size for path in sources.values())
    assert bytes_sent(hub) <= size - present + 3, "bytes that were on the disk were fetched again"
    sums = small_store.shell(f"find {STORE} -name '*.gguf' -exec sha256sum {{}} +").splitlines()
    assert {Path(line[66:]).name: line[:64] for line in sums} == {
        name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in sources.items()
    }
    assert small_store.run().changed == []


@pytest.fixture
def linked_store(deployment: Deployment) -> Iterator[Deployment]:
    """Move the model store and put a symbolic link in its place; move it back afterwards."""
    elsewhere = "/srv/a large disk/models"
    deployment.shell(f"mkdir -p '/srv/a large disk' && mv {STORE} '{elsewhere}' && ln -s '{elsewhere}' {STORE}")
    yield deployment
    deployment.shell(f"rm {STORE} && mv '{elsewhere}' {STORE} && rmdir '/srv/a large disk'")
    outcome = deployment.run()
    assert outcome.code == 0, str(outcome)


def test_files_in_a_symlinked_store_are_found_fetched_and_pruned(linked_store: Deployment) -> None:
    assert linked_store.run().changed == []
    linked_store.shell(
        f"rm {STORE}/{REPOSITORY}/*/F16/*-00002-of-*; cd {STORE}; mkdir -p empty .partial; touch .partial/{'0' * 64}"
    )
    outcome = linked_store.run()
    assert outcome.code == 0, str(outcome)
    assert "Model files" in outcome.changed
    assert linked_store.run("--data", "deep=1").changed == []
    deleted = linked_store.run("--data", f"delete=partial/{'0' * 64}", script="tasks/prune.py")
    assert deleted.code == 0, str(deleted)
    assert linked_store.shell(f"ls -d {STORE}/.partial/{'0' * 64} {STORE}/empty 2>/dev/null || echo gone") == "gone"
    assert linked_store.shell(f"readlink {STORE}") == "/srv/a large disk/models"


def test_a_newer_revision_is_reported_and_locked_only_on_request(second: Deployment, hub: Hub, tmp_path: Path) -> None:
    """tasks/lock.py reports newer revisions and updates the lock on request; the next deploy links unchanged files."""
    assert second.run().code == 0
    lock = Path(second.rig["model_lock"])
    before = lock.read_text()
    files = {
        path: stored.source
        for path, stored in hub.store.repository(SECOND, anonymous=True).revision("main").files.items()
    }
    readme = random_file(tmp_path / "notes.gguf", 3000, seed=1)
    commit = hub.add_revision(SECOND, {**files, "notes.gguf": readme})
    reported = second.run(script="tasks/lock.py")
    assert reported.code == 0, reported
    assert f"main is at {commit[:12]}, with the same files" in reported.output
    assert lock.read_text() == before
    assert second.run().changed == [], "a newer revision changes nothing by itself"
    updated = second.run("--data", "update=second", script="tasks/lock.py")
    assert updated.code == 0, updated
    assert commit in lock.read_text()
    assert json.loads(lock.read_text()) != json.loads(before)
    assert second.run("--data", "update=nobody", script="tasks/lock.py").code == 1
    hub.log.clear()
    # The reserve leaves no space for a second copy, so unchanged files have to be linked.
    second.rig["host"]["disk_reserve_gib"] = int(second.shell(f"df --output=avail -B1 {STORE} | tail -n 1")) / 1024**3
    outcome = second.run()
    assert outcome.code == 0, str(outcome)
    assert bytes_sent(hub) == 0
    assert second.shell(
        f"find {STORE}/{SECOND} -name '*.gguf' -printf '%i %n\\n' | sort | uniq -c | awk '{{print $1, $3}}'"
    ) == "\n".join(["2 2"] * 3)
    assert second.run().changed == []
    listed = second.run(script="tasks/prune.py")
    assert "superseded by revision" in listed.output


def test_a_second_deploy_waits_for_a_running_download_and_never_stops_it(
    second: Deployment, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It waits even without the token and after a file has arrived; a deploy with another rate limit is refused."""
    paths = [f"F16/Second-F16-0000{number}-of-00002.gguf" for number in (1, 2)]
    hub.add_repo(SECOND, {path: random_file(tmp_path / path, 6 * MIB, seed) for seed, path in enumerate(paths)}, TOKEN)
    hub.faults.add(Fault(origin="cdn", path=f"/repos/{SECOND}/*-00002-of-*", bytes_per_s=10_000))
    second.rig["hub"]["token_env"] = "LLAMARIG_TEST_TOKEN"
    monkeypatch.setenv("LLAMARIG_TEST_TOKEN", TOKEN)
    running = second.start(log=tmp_path / "log")
    arrived = f"find {STORE}/{SECOND} -name '*-00001-of-*.gguf' 2>/dev/null || true"
    wait_for(lambda: second.shell(arrived), "the first file", deploy=running)
    unit = "systemctl show 'llamarig-job-fetch_*' -p InvocationID --value"
    running_unit = second.shell(unit)
    assert running_unit
    monkeypatch.delenv("LLAMARIG_TEST_TOKEN")
    again = second.start(log=tmp_path / "again")
    wait_for(lambda: "the download is already running" in again.output(), "the other deploy finding it", deploy=again)
    wait_for(lambda: "models: downloading" in again.output(), "its progress in the other deploy", deploy=again)
    other = second.variant(tmp_path / "other")
    other.rig["hub"]["max_mb_s"] = 1.0
    refused = other.run()
    assert refused.code == 1
    for words in (
        "another download is running on the box by ",
        f": 2 files of {SECOND}, 0.01 GiB",
        "(another hub.max_mb_s)",
        "systemctl stop 'llamarig-job-fetch_*'",
    ):
        assert words in refused.output
    assert second.shell(unit) == running_unit
    assert running.poll() is None, running.output()
    assert again.poll() is None, again.output()
    kill(running)
    kill(again)


def test_prune_keeps_the_files_of_a_running_download(
    second: Deployment, deployment: Deployment, hub: Hub, tmp_path: Path
) -> None:
    """No declared model needs the files any more, but the download's unit still writes them."""
    # Files that differ from the second model's: partial files of a declared model are kept anyway.
    shards = {f"F16/Second-F16-0000{number}-of-00003.gguf": number for number in (1, 2, 3)}
    hub.add_repo(SECOND, {name: random_file(tmp_path / name, 6 * MIB, number) for name, number in shards.items()})
    hub.faults.add(Fault(origin="cdn", path=f"/repos/{SECOND}/*", bytes_per_s=10_000))
    running = second.start(log=tmp_path / "log")
    wait_for(lambda: len(partials(second)) == 3, "three partial files", deploy=running)
    kill(running)
    names = partials(second)
    listed = deployment.run(script="tasks/prune.py")
    assert listed.code == 0, str(listed)
    for name in names:
        (line,) = (line for line in listed.output.splitlines() if f"partial/{name}: " in line)
        assert "an aborted download that no declared model needs; kept: " in line
        assert "the running job fetch" in line
    refused = deployment.run("--data", f"delete=partial/{names[0]}", script="tasks/prune.py")
    assert refused.code == 1
    assert "the running job fetch" in refused.output
    assert "nothing was deleted" in refused.output
    assert deployment.shell("systemctl is-active 'llamarig-job-fetch_*'") == "active"
    assert partials(second) == names
    deployment.shell("systemctl stop 'llamarig-job-fetch_*'")
    left = ",".join(f"partial/{name}" for name in deployment.shell(f"cd {STORE}/.partial && ls").split())
    deleted = deployment.run("--data", f"delete={left}", script="tasks/prune.py")
    assert deleted.code == 0, str(deleted)
    assert partials(second) == []


def test_prune_deletes_only_named_leftovers_that_nothing_refers_to(second: Deployment, deployment: Deployment) -> None:
    assert second.run().code == 0
    # The first deployment does not declare the model, but its unit file still refers to its files.
    held = deployment.run(script="tasks/prune.py")
    assert held.code == 0, held
    assert f"no model of {SECOND} is declared; kept: " in held.output
    name = next(word for word in held.output.split() if word.startswith(f"models/{SECOND}/")).rstrip(":")
    refused = deployment.run("--data", f"delete={name}", script="tasks/prune.py")
    assert refused.code == 1
    assert "llamarig-second.service" in refused.output
    assert deployment.shell(f"find {STORE}/{SECOND} -name '*.gguf' | wc -l") == "3"

    deployment.shell(
        "systemctl disable --now llamarig-second; rm /etc/systemd/system/llamarig-second.service; "
        "systemctl daemon-reload"
    )
    # The unit is gone, but a process has a file open.
    reader = f"systemd-run --quiet --collect --unit=reader tail -f $(find {STORE}/{SECOND} -name '*-00002-of-*.gguf')"
    deployment.shell(reader)
    opened = deployment.run("--data", f"delete={name}", script="tasks/prune.py")
    assert opened.code == 1
    assert f"{name} cannot be deleted: a running process refers to it" in opened.output
    assert deployment.shell(f"find {STORE}/{SECOND} -name '*.gguf' | wc -l") == "3"
    deployment.shell("systemctl stop reader")
    # A drop-in of another unit names a file.
    dropin = "/etc/systemd/system/mine.service.d/model.conf"
    named = deployment.shell(f"find {STORE}/{SECOND} -name '*-00001-of-*.gguf'")
    deployment.write(dropin, f"[Service]\nEnvironment=MODEL={named}\n")
    refused = deployment.run("--data", f"delete={name}", script="tasks/prune.py")
    assert refused.code == 1
    assert f"{name} cannot be deleted: mine.service.d/model.conf refers to it" in refused.output
    deployment.shell(f"rm -r {Path(dropin).parent}")
    deployment.shell(f"mkdir -p /opt/llamarig/llama.cpp/old/bin {STORE}/.partial && touch {STORE}/.partial/{'0' * 64}")
    listed = deployment.run(script="tasks/prune.py")
    assert listed.changed == [], listed
    assert f"{name}: no model of {SECOND} is declared" in listed.output
    assert "releases/old: no declared build produces this release; kept: one of the last 2" in listed.output
    assert f"partial/{'0' * 64}: an aborted download that no declared model needs" in listed.output
    assert "models/llamarig/Tiny" not in listed.output
    typo = deployment.run("--data", "delete=releases/old,releases/odl", "--data", "keep=0", script="tasks/prune.py")
    assert typo.code == 1
    assert "'releases/odl' is not on the list" in typo.output
    assert deployment.shell("ls -d /opt/llamarig/llama.cpp/old")
    kept = deployment.run("--data", f"delete=releases/old,{name}", script="tasks/prune.py")
    assert kept.code == 1
    assert "releases/old cannot be deleted: one of the last 2" in kept.output
    deleted = deployment.run("--data", f"delete=releases/old,{name}", "--data", "keep=0", script="tasks/prune.py")
    assert deleted.code == 0, deleted
    gone = shlex.quote(f"{STORE}/{SECOND}")
    assert deployment.shell(f"ls -d {gone} /opt/llamarig/llama.cpp/old 2>/dev/null || echo gone") == "gone"
    assert deployment.shell(f"ls {STORE}/.partial") == "0" * 64
    assert deployment.run().changed == []
