"""Downloads under Python 3.9, the oldest that a box may have: in a Debian 11 chroot, with the locked Hub client."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.box.deployment import wait_for
from tests.box.exclusive_use import exclusive_use
from tests.box.fetch_run import MIB, PATIENCE_S, REPOSITORY_ROOT, FetchRun, random_file
from tests.box.host import KEYRING, host_environment
from tests.box.hub import Hub
from tests.box.hub_faults import Fault
from tests.box.paths import Rehearsal

pytestmark = pytest.mark.box

CERTIFICATES = Path("etc/ssl/certs/ca-certificates.crt")


@pytest.fixture(scope="module")
def debian_11(users_box: Rehearsal) -> Iterator[Path]:
    """A root directory for chroot; made once, in about a minute."""
    if os.geteuid() != 0:
        if os.environ.get("CI"):
            pytest.fail("a chroot needs root, and CI must not skip this test")
        pytest.skip("a chroot needs root: run `sudo python3 -m tests check`")
    root = users_box.cache / "debian-11"
    with exclusive_use(root):
        if not root.exists():
            part = root.with_suffix(".part")
            shutil.rmtree(part, ignore_errors=True)
            command = ["mmdebstrap", "--variant=minbase", "--include=python3,python3-venv,ca-certificates", "--quiet"]
            command += [f"--keyring={KEYRING}", "bullseye", str(part)]
            subprocess.run(command, env=host_environment({"DEBIAN_FRONTEND": "noninteractive"}), check=True)
            part.rename(root)
        # The chroot needs this machine's resolver and certificates to reach PyPI.
        shutil.copy("/etc/resolv.conf", root / "etc/resolv.conf")
        shutil.copy(Path("/") / CERTIFICATES, root / CERTIFICATES)
        programs = root / "opt/llamarig/lib/llamarig/remote"
        shutil.rmtree(programs, ignore_errors=True)
        shutil.copytree(REPOSITORY_ROOT / "tasks/llamarig/remote", programs)
        shutil.copy(REPOSITORY_ROOT / "tasks/llamarig/items/locks/hub-requirements.txt", root / "tmp")
        yield root
        shutil.rmtree(root / "tmp/store", ignore_errors=True)


def in_chroot(root: Path, command: str) -> list[str]:
    return ["chroot", str(root), "sh", "-c", f"cd /opt/llamarig/lib && {command}"]


def test_a_killed_download_is_resumed_under_python_3_9(debian_11: Path) -> None:
    version = subprocess.run(in_chroot(debian_11, "python3 -V"), capture_output=True, text=True, check=True).stdout
    assert version.startswith("Python 3.9.")
    install = (
        "rm -rf /opt/llamarig/hub && python3 -m venv /opt/llamarig/hub && /opt/llamarig/hub/bin/python -m pip "
        f"--disable-pip-version-check --quiet --cert /{CERTIFICATES} install --require-hashes --only-binary :all: "
        "-r /tmp/hub-requirements.txt"
    )
    subprocess.run(in_chroot(debian_11, install), check=True, timeout=PATIENCE_S)
    store = debian_11 / "tmp/store"
    shutil.rmtree(store, ignore_errors=True)
    store.mkdir(parents=True)
    sources = {f"{seed}.gguf": random_file(store / f"source-{seed}", 20 * MIB + seed, seed) for seed in (1, 2)}
    with Hub(store / "hub") as hub:
        fetching = FetchRun(hub, store / "box", "acme/old-GGUF", sources)
        job = json.dumps(fetching.job).replace(str(debian_11), "")
        (fetching.jobs / "job.json").write_text(job)
        directory = str(fetching.jobs).removeprefix(str(debian_11))
        fetch = in_chroot(
            debian_11, f"exec /opt/llamarig/hub/bin/python -B -m llamarig.remote.download.fetch_shards {directory}"
        )
        hub.faults.add(Fault(origin="cdn", bytes_per_s=1_500_000))
        running = subprocess.Popen(fetch)
        wait_for(lambda: fetching.bytes_sent() > 8 * MIB, "the first 8 MiB")
        assert running.poll() is None
        running.kill()
        running.wait()
        hub.faults.clear()
        hub.faults.add(Fault(origin="cdn", reset_after_bytes=300_000, times=3))
        done = subprocess.run(fetch, capture_output=True, text=True, timeout=PATIENCE_S)
        assert done.returncode == 0, done.stdout + done.stderr
        fetching.assert_complete()
