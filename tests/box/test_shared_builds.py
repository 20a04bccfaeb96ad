"""One box builds, another without a compiler gets the release over SSH; what goes wrong between them harms neither."""

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

from tests.box import machine
from tests.box.deployment import HOST, Deployment, Outcome, kill, wait_for
from tests.box.paths import Rehearsal
from tests.box.refusals import refusal
from tests.box.rehearse import chat

pytestmark = pytest.mark.box

SECOND = "second-box"
LINE = Path(__file__).with_name("faulty_sftp_server.py")
SFTP = "/usr/lib/openssh/sftp-server"
RECEIVED = "Releases received"
PACKED = "Releases packed"


class Pair:
    """Two boxes that share a build. ``both`` deploys to them, ``second`` looks at the one that receives."""

    def __init__(self, both: Deployment, second: Deployment) -> None:
        self.both, self.second = both, second
        rig = Rig.model_validate(both.rig)
        self.release = release_path(rig.builds[0], rig.models)
        self.archive = f"/var/lib/llamarig/work/{release_id(rig.builds[0], rig.models)}/release.tar.gz"

    def run(self, *arguments: str) -> Outcome:
        return self.both.run(*arguments)

    def lose_release(self) -> None:
        """As a fresh box has none; its server runs on with the files it has open."""
        self.second.shell(f"rm -rf {self.release} {self.archive}")

    def has_release(self) -> bool:
        """Whether there is anything under the final name; and there may be nothing half made beside it."""
        there = self.second.shell(f"ls -d {self.release}* 2>/dev/null || true").split()
        assert there in ([], [self.release])
        return bool(there)


@pytest.fixture(scope="module")
def second_box(rehearsal: Rehearsal) -> Iterator[Rehearsal]:
    """A fresh Debian beside the first, in the same network."""
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
    first_run: tuple[Deployment, Outcome], second_box: Rehearsal, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Pair, Outcome]:
    """The converged box, declared to build for a second one; and the run that brought that one its release.

    The first had lost its own, so that it is built in the very run that brings it to the second.
    """
    variant = first_run[0].variant(tmp_path_factory.mktemp("pair"))
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
    pair.lose_release()
    return pair, pair.run()


@pytest.fixture
def served(deployment: Deployment, first_pair_run: tuple[Pair, Outcome]) -> Iterator[Pair]:
    """Both have converged. Afterwards they do again, and the second one answers."""
    pair, outcome = first_pair_run
    if outcome.code:
        pytest.fail(f"the two boxes did not converge: {outcome}", pytrace=False)
    yield pair
    outcome = pair.run()
    assert outcome.code == 0, str(outcome)
    assert pair.has_release()
    assert chat(pair.second.address, "All as before?")


@contextmanager
def bad_line(box: Deployment, mode: str) -> Iterator[None]:
    """What is sent to the box comes slowly, or damaged."""
    box.write("/tmp/bad_line.py", LINE.read_text())
    wrapper = "#!/bin/sh\nexec python3 -B /tmp/bad_line.py"
    box.shell(
        f"echo {mode} >/run/bad-line; mv -n {SFTP} {SFTP}.real; echo {shlex.quote(wrapper)} >{SFTP}; chmod 755 {SFTP}"
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
    return len(re.findall(r"\] +Connected", click.unstyle(outcome.output)))


def test_the_second_box_serves_and_has_no_compiler(first_pair_run: tuple[Pair, Outcome]) -> None:
    pair, outcome = first_pair_run
    assert outcome.code == 0, str(outcome)
    assert {"Releases", PACKED, RECEIVED} <= set(outcome.changed)
    assert chat(pair.second.address, "Who built you?")
    assert chat(pair.both.address, "And you?")

    assert digests(pair.second, pair.release) == digests(pair.both, pair.release)
    rig = Rig.model_validate(pair.second.rig)
    first, second = (set(wanted_packages(rig, name)["debian"]) for name in (HOST, SECOND))
    compilers = first - second - {"git"}  # Debian's own there
    assert {"build-essential", "cmake", "ninja-build", "ccache"} <= compilers
    query = f"dpkg-query -W -f '${{Package}} ${{db:Status-Status}}\\n' {' '.join(compilers)} 2>/dev/null || true"
    assert [line for line in pair.second.shell(query).splitlines() if line.endswith(" installed")] == []
    assert pair.second.shell("command -v cc c++ gcc cmake ninja || true") == ""
    assert pair.second.shell("ls -d /var/lib/llamarig/work/* 2>/dev/null || true") == ""
    assert pair.both.shell(f"ls {pair.archive} 2>/dev/null || true") == ""


def test_a_second_run_changes_nothing_and_contacts_no_other_box(served: Pair) -> None:
    outcome = served.run()
    assert outcome.changed == [], str(outcome)
    assert connections(outcome) == 2
    audit = served.both.run(script="tasks/audit.py")
    assert audit.code == 0, str(audit)
    # With a whole release it needs no other box.
    alone = served.run("--limit", SECOND)
    assert (alone.code, alone.changed) == (0, []), str(alone)
    assert connections(alone) == 1
    assert [step["name"] for step in served.run("--dry").plan if step["hosts_with_change"]] == []


def test_the_box_that_builds_is_not_in_this_run(served: Pair) -> None:
    served.lose_release()
    refusal(served.run("--limit", SECOND), f"comes from {HOST}", "not part of this run", "--limit", host=SECOND)
    assert not served.has_release()
    assert chat(served.second.address, "Do you still serve?")


def test_killed_while_it_is_sent(served: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A killed run cannot clear its own temporary files away.
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    served.lose_release()
    with bad_line(served.second, "slow"):
        running = served.both.start(log=tmp_path / "log")
        size = f"stat -c %s {served.archive} 2>/dev/null || echo 0"
        wait_for(lambda: int(served.second.shell(size)) > 1_000_000, "the first million bytes", 120)
        kill(running)
    assert not served.has_release()
    assert chat(served.second.address, "Do you still serve?")
    outcome = served.run()
    assert outcome.code == 0, str(outcome)
    assert RECEIVED in outcome.changed
    assert served.has_release()


def test_damaged_on_the_way(served: Pair) -> None:
    served.lose_release()
    with bad_line(served.second, "damage"):
        refusal(served.run(), "the archive has sha256", f"on {HOST}", "send it again", host=SECOND)
    assert not served.has_release()
    assert chat(served.both.address, "Does it touch you?")


def test_damaged_where_it_was_built(served: Pair) -> None:
    """Its size is right, so only reading it shows the damage; it goes to no other box."""
    served.lose_release()
    library = served.both.shell(f"readlink -f {served.release}/bin/libllama.so")
    # A copy takes its place: the running server keeps the file it has open.
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
    """The second box is shown a /proc/cpuinfo without SSE4.2, as a machine of 2007 has it."""
    served.lose_release()
    served.second.shell("sed 's/ sse4_2 / /' /proc/cpuinfo >/tmp/cpuinfo && mount --bind /tmp/cpuinfo /proc/cpuinfo")
    try:
        outcome = served.run()
    finally:
        served.second.shell("umount /proc/cpuinfo")
    refusal(outcome, f"from {HOST} cannot run here", "it would use sse4_2,", "GGML_NATIVE", host=SECOND)
    assert PACKED not in outcome.changed
    assert not served.has_release()


def test_a_newer_c_library_is_refused_before_anything_is_sent(served: Pair) -> None:
    """The manifest of the first box's release names a future glibc, as one built on a newer system would."""
    served.lose_release()
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
    assert served.second.shell(f"ls {served.archive} 2>/dev/null || true") == ""
    assert not served.has_release()
