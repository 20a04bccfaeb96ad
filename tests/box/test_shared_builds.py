"""One box builds, another without a compiler receives the release over SSH; failed transfers harm neither box."""

from __future__ import annotations

import copy
import json
import os
import re
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import click
import pytest
from llamarig.declare.rig import Rig
from llamarig.items.packages import wanted_packages
from llamarig.render.release import release_id, release_path

from tests.box import machine, sudo_login
from tests.box.deployment import HOST, Deployment, Outcome, kill, wait_for
from tests.box.paths import Rehearsal
from tests.box.refusals import refusal
from tests.box.rehearse import chat

pytestmark = pytest.mark.box

SECOND = "second-box"
FAULTY_SFTP_SERVER = Path(__file__).with_name("faulty_sftp_server.py")
SFTP = "/usr/lib/openssh/sftp-server"
RECEIVED = "Releases received"
PACKED = "Releases packed"


class Pair:
    """Two boxes that share a build. ``both`` deploys to both, ``second`` is the box that receives the release."""

    def __init__(self, both: Deployment, second: Deployment) -> None:
        self.both, self.second = both, second
        rig = Rig.model_validate(both.rig)
        self.release = release_path(rig.builds[0], rig.models)
        self.work = f"/var/lib/llamarig/work/{release_id(rig.builds[0], rig.models)}"

    def run(self, *arguments: str) -> Outcome:
        return self.both.run(*arguments)

    def delete_release(self) -> None:
        """Delete the release of the second box. Its server keeps running with the files that it has open."""
        self.second.shell(f"rm -rf {self.release} {self.work}")

    def has_release(self) -> bool:
        """Return whether the second box has the release. Assert that no unfinished copy is beside it."""
        found = self.second.shell(f"ls -d {self.release}* 2>/dev/null || true").split()
        assert found in ([], [self.release])
        return bool(found)


@pytest.fixture(scope="module")
def second_box(rehearsal: Rehearsal) -> Iterator[Rehearsal]:
    """A second fresh box on the same host network."""
    directory = rehearsal.directory.with_name(f"{rehearsal.directory.name}-second")
    box = Rehearsal(directory, rehearsal.port + 15, rehearsal.cache)
    if not os.environ.get("LLAMARIG_KEEP_TEST_BOX"):
        machine.destroy(box)
    machine.up(box)
    try:
        yield box
    finally:
        machine.down(box)
        if not os.environ.get("LLAMARIG_KEEP_TEST_BOX"):
            machine.destroy(box)


@pytest.fixture(scope="module")
def first_pair_run(
    converged: Deployment, second_box: Rehearsal, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Pair, Outcome]:
    """The converged box, declared to build for a second one, and the run in which the second received the release.

    The first box's release was deleted before, so that the same run builds and transfers it.
    """
    variant = converged.variant(tmp_path_factory.mktemp("pair"))
    variant.rig["builds"][0]["built_by"] = HOST
    rig = copy.deepcopy(variant.rig)
    rig["models"][0]["serve"]["port"] = second_box.port + 10
    login = {
        "ssh_port": second_box.port,
        "ssh_key": str(second_box.key),
        "ssh_known_hosts_file": str(second_box.known_hosts),
    }
    variant.more_hosts = [(SECOND, {**login, "rig": rig})]
    pair = Pair(variant, replace(variant, box=second_box, rig=rig, more_hosts=[]))
    pair.both.shell(f"rm -rf {pair.release}")
    pair.delete_release()
    return pair, pair.run()


@pytest.fixture
def served(deployment: Deployment, first_pair_run: tuple[Pair, Outcome]) -> Iterator[Pair]:
    """The converged pair. Afterwards assert that both converge again and that the second box answers."""
    pair, outcome = first_pair_run
    if outcome.code:
        pytest.fail(f"the two boxes did not converge: {outcome}", pytrace=False)
    yield pair
    outcome = pair.run()
    assert outcome.code == 0, str(outcome)
    assert pair.has_release()
    assert chat(pair.second.address, "All as before?")


@contextmanager
def faulty_sftp(box: Deployment, mode: str) -> Iterator[None]:
    """Replace the box's sftp-server by faulty_sftp_server.py; ``mode``: "slow" or "damage"."""
    box.write("/tmp/faulty_sftp_server.py", FAULTY_SFTP_SERVER.read_text())
    wrapper = "#!/bin/sh\nexec python3 -B /tmp/faulty_sftp_server.py"
    box.shell(
        f"echo {mode} >/run/sftp-fault; mv -n {SFTP} {SFTP}.real; echo {shlex.quote(wrapper)} >{SFTP}; chmod 755 {SFTP}"
    )
    try:
        yield
    finally:
        box.shell(f"mv -f {SFTP}.real {SFTP}")


def digests(deployment: Deployment, release: str) -> str:
    return deployment.shell(
        f"cd {release} && find . -type f -exec sha256sum {{}} + | sort; find . -type l -printf '%p %l\\n'"
    )


def connections(outcome: Outcome) -> int:
    """The number of SSH connections that the run made."""
    return len(re.findall(r"\] +Connected", click.unstyle(outcome.output)))


def test_the_second_box_serves_the_received_release_and_has_no_compiler(first_pair_run: tuple[Pair, Outcome]) -> None:
    pair, outcome = first_pair_run
    assert outcome.code == 0, str(outcome)
    assert {"Releases", PACKED, RECEIVED} <= set(outcome.changed)
    assert chat(pair.second.address, "Who built you?")
    assert chat(pair.both.address, "And you?")

    assert digests(pair.second, pair.release) == digests(pair.both, pair.release)
    rig = Rig.model_validate(pair.second.rig)
    first, second = (set(wanted_packages(rig, name)["debian"]) for name in (HOST, SECOND))
    compilers = first - second - {"git"}  # part of the fresh box
    assert {"build-essential", "cmake", "ninja-build", "ccache"} <= compilers
    query = f"dpkg-query -W -f '${{Package}} ${{db:Status-Status}}\\n' {' '.join(compilers)} 2>/dev/null || true"
    assert [line for line in pair.second.shell(query).splitlines() if line.endswith(" installed")] == []
    assert pair.second.shell("command -v cc c++ gcc cmake ninja || true") == ""
    assert pair.second.shell("ls -d /var/lib/llamarig/work/* 2>/dev/null || true") == ""
    assert pair.both.shell(f"ls {pair.work}/*.tar.gz 2>/dev/null || true") == ""


def test_a_second_run_changes_nothing_and_makes_one_connection_per_box(served: Pair) -> None:
    outcome = served.run()
    assert outcome.changed == [], str(outcome)
    assert connections(outcome) == 2
    audit = served.both.run(script="tasks/audit.py")
    assert audit.code == 0, str(audit)
    # A box that has its release does not need the box that built it.
    alone = served.run("--limit", SECOND)
    assert (alone.code, alone.changed) == (0, []), str(alone)
    assert connections(alone) == 1
    assert [step["name"] for step in served.run("--dry").plan if step["hosts_with_change"]] == []


def test_a_box_without_its_release_is_refused_if_the_builder_is_not_in_the_run(served: Pair) -> None:
    served.delete_release()
    refusal(served.run("--limit", SECOND), f"comes from {HOST}", "not part of this run", "--limit", host=SECOND)
    assert not served.has_release()
    assert chat(served.second.address, "Do you still serve?")


def test_a_deploy_killed_during_the_transfer_is_repeated(
    served: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A killed run cannot delete its temporary files; tmp_path is cleaned up by pytest.
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    served.delete_release()
    with faulty_sftp(served.second, "slow"):
        running = served.both.start(log=tmp_path / "log")
        size = f"(echo 0; stat -c %s {served.work}/*.part 2>/dev/null) | sort -n | tail -n 1"
        wait_for(lambda: int(served.second.shell(size)) > 1_000_000, "the first million bytes", 120)
        kill(running)
    assert not served.has_release()
    assert chat(served.second.address, "Do you still serve?")
    outcome = served.run()
    assert outcome.code == 0, str(outcome)
    assert RECEIVED in outcome.changed
    assert served.has_release()


def test_two_deploys_at_once_install_one_release_also_as_another_user_than_root(served: Pair, tmp_path: Path) -> None:
    """Both pack and send it. The jobs on the boxes are the same work, which the later run waits for."""
    served.delete_release()
    sudo_login.allow(served.second)
    running = []
    logins: dict[str, dict[str, object]] = {"one": {}, "other": sudo_login.LOGIN}
    for name, login in logins.items():
        deploy = served.both.variant(tmp_path / name)
        deploy.more_hosts = [(host, {**data, **login}) for host, data in served.both.more_hosts]
        running.append(deploy.start(log=tmp_path / f"{name}.log"))
    for run in running:
        assert run.exit_code() == 0, run.output()
    assert served.has_release()
    assert digests(served.second, served.release) == digests(served.both, served.release)
    assert served.second.shell(f"find {served.release} ! -user root -o ! -group root") == ""
    for box in (served.both, served.second):
        assert box.shell(f"ls {served.work}/*.tar.gz* 2>/dev/null || true") == ""
    assert served.run().changed == []


def test_a_release_damaged_during_the_transfer_is_refused(served: Pair) -> None:
    served.delete_release()
    with faulty_sftp(served.second, "damage"):
        refusal(served.run(), "the archive has sha256", f"on {HOST}", "send it again", host=SECOND)
    assert not served.has_release()
    assert chat(served.both.address, "Does it touch you?")


def test_a_release_damaged_on_the_builder_is_not_sent(served: Pair) -> None:
    """The size is right, so the damage is found only by reading the file."""
    served.delete_release()
    library = served.both.shell(f"readlink -f {served.release}/bin/libllama.so")
    # Replace the library by a damaged copy: the running server keeps using the original.
    served.both.shell(
        f"cp -a {library} /tmp/damaged.so && printf '\\001' | dd of=/tmp/damaged.so bs=1 seek=200000 conv=notrunc && "
        f"mv {library} /tmp/whole.so && mv /tmp/damaged.so {library}"
    )
    try:
        outcome = served.run()
        refusal(outcome, "is damaged", Path(library).name, "delete it, then deploy again")
        refusal(outcome, f"comes from {HOST}", "which failed in this run", host=SECOND)
        assert not served.has_release()
    finally:
        served.both.shell(f"mv /tmp/whole.so {library}")


def test_an_older_processor_is_refused_before_anything_is_built(served: Pair) -> None:
    """The second box gets a /proc/cpuinfo without SSE4.2, like a processor from 2007."""
    served.delete_release()
    served.second.shell("sed 's/ sse4_2 / /' /proc/cpuinfo >/tmp/cpuinfo && mount --bind /tmp/cpuinfo /proc/cpuinfo")
    try:
        outcome = served.run()
    finally:
        served.second.shell("umount /proc/cpuinfo")
    refusal(outcome, f"from {HOST} cannot run here", "it would use sse4_2,", "GGML_NATIVE", host=SECOND)
    assert PACKED not in outcome.changed
    assert not served.has_release()


def test_a_release_that_needs_a_newer_glibc_is_refused_before_the_transfer(served: Pair) -> None:
    """The manifest of the release is changed to require a newer glibc, as after a build on a newer system."""
    served.delete_release()
    manifest = served.both.shell(f"cat {served.release}/manifest.json")
    newer = json.loads(manifest)
    assert newer["needs"]["glibc"].startswith("2."), newer["needs"]
    newer["needs"] |= {"glibc": "2.99", "made_on": "Debian 99"}
    served.both.write(f"{served.release}/manifest.json", json.dumps(newer))
    try:
        outcome = served.run()
    finally:
        served.both.write(f"{served.release}/manifest.json", manifest)
    refusal(outcome, f"from {HOST} cannot run here", "glibc 2.99", "Debian 99", "has 2.41", host=SECOND)
    assert served.second.shell(f"ls {served.work} 2>/dev/null || true") == ""
    assert not served.has_release()
