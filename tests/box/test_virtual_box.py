"""The rehearsal in a virtual machine, for machines that cannot boot a container."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.abilities import abilities, container_lacks
from tests.box import machine, virtual_box, virtual_files
from tests.box.deployment import REPOSITORY_ROOT
from tests.box.host import BoxError
from tests.box.paths import Rehearsal
from tests.test_abilities import IN_A_CONTAINER

PORT = 22822


@pytest.fixture
def box(tmp_path: Path) -> Rehearsal:
    """A box of which only the keys are there; they are text here."""
    rehearsal = Rehearsal(tmp_path / "box", 27000, tmp_path)
    rehearsal.directory.mkdir()
    for key in (rehearsal.key, rehearsal.host_key):
        key.write_text("private\n")
        key.with_suffix(".pub").write_text("public\n")
    rehearsal.disk.touch()
    return rehearsal


def test_the_estimate_says_how_it_runs_and_counts_what_is_made_already() -> None:
    kvm, emulated = IN_A_CONTAINER, replace(IN_A_CONTAINER, kvm=False)
    assert "with KVM" in virtual_box.estimate(kvm, cores=2, is_made=False)
    assert "where KVM does not work" in virtual_box.estimate(kvm, cores=2, is_made=False)
    assert "since /dev/kvm cannot be used" in virtual_box.estimate(emulated, cores=2, is_made=True)

    def minutes(cores: int, is_made: bool) -> int:
        words = virtual_box.estimate(emulated, cores=cores, is_made=is_made).split()
        return int(words[words.index("about") + 1])

    assert minutes(2, True) < minutes(16, False) < minutes(2, False)


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("[33/300] Building CXX object x.o", "    compiling llama.cpp: 33/300 objects (11 %)"),
        ("I: installing essential packages...", "    installing essential packages..."),
        ("I: skipping chroot/mount/dev as requested", None),
        ("Selecting previously unselected package libc6.", None),
        ("(Reading database ... 100%)", None),
    ],
)
def test_of_mmdebstraps_output_its_steps_and_the_compilers_count_are_shown(line: str, shown: str | None) -> None:
    assert virtual_box.shown(line) == shown


def test_only_the_loopback_address_of_this_machine_is_forwarded(box: Rehearsal) -> None:
    argv = virtual_box.emulator_argv(box, "kvm")
    (network,) = [word for word in argv if word.startswith("user,")]
    forwards = [option for option in network.split(",") if option.startswith("hostfwd")]
    ports = {27000: 27000, 27010: 27011}
    assert forwards == [f"hostfwd=tcp:127.0.0.1:{port}-10.0.2.15:{guests}" for port, guests in ports.items()]
    assert machine.disk_option(box) in argv, "the process would not be recognised as the box's"


def test_the_machines_files_are_roots_and_its_keys_are_closed(box: Rehearsal, tmp_path: Path) -> None:
    virtual_files.write(tmp_path / "files.tar", box)
    with tarfile.open(tmp_path / "files.tar") as tar:
        entries = {entry.name: entry for entry in tar}
    assert {(entry.uid, entry.gid) for entry in entries.values()} == {(0, 0)}
    modes = {name: entries[name].mode for name in ("root/.ssh", "root/.ssh/authorized_keys", "etc/hosts")}
    assert modes == {"root/.ssh": 0o700, "root/.ssh/authorized_keys": 0o600, "etc/hosts": 0o644}
    assert entries["etc/ssh/ssh_host_ed25519_key"].mode == 0o600


def test_the_release_is_compiled_for_a_processor_that_may_be_emulated(box: Rehearsal) -> None:
    job, _ = virtual_files.files(box)["root/rehearsal/job.json"]
    assert b'"GGML_NATIVE": "OFF"' in job
    box.disk.unlink()
    assert b"GGML_NATIVE" not in virtual_files.files(box)["root/rehearsal/job.json"][0]


def test_the_models_port_is_free_in_the_virtual_machine(box: Rehearsal) -> None:
    """Regression: the deploy refused it, since the unit that passes requests on had it."""
    sockets = [text for name, (text, _) in virtual_files.files(box).items() if name.endswith(".socket")]
    assert len(sockets) == 3
    assert not [text for text in sockets if f":{box.model_port}\n".encode() in text]


def test_a_proxy_of_this_machine_is_reached_from_the_virtual_machine(
    box: Rehearsal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://localhost:3128/")
    monkeypatch.setenv("https_proxy", "http://localhost.example:3128")
    text = virtual_files.files(box)["etc/environment"][0].decode()
    assert text == "http_proxy=http://10.0.2.2:3128/\nhttps_proxy=http://localhost.example:3128\n"


def test_a_box_of_the_other_kind_is_not_touched(box: Rehearsal) -> None:
    if container_lacks(abilities()):
        box.disk.unlink()
        box.root.mkdir()
    with pytest.raises(BoxError, match=r"(?s)holds the box as a .*Run: python3 -m tests.box destroy"):
        virtual_box.up_here(box)


@pytest.fixture
def rehearsed(users_box: Rehearsal) -> Iterator[Rehearsal]:
    box = Rehearsal(users_box.cache / "test-virtual-box", PORT, users_box.cache)
    machine.destroy(box)
    yield box
    machine.destroy(box)


@pytest.mark.vm
@pytest.mark.long
def test_without_sys_admin_a_rehearsal_ends_with_an_answer_from_a_virtual_machine(rehearsed: Rehearsal) -> None:
    """Regression: it ended with `clone() failed: Operation not permitted`."""
    argv = [sys.executable, "-m", "tests.box.rehearse"]
    if not container_lacks(abilities()):
        argv = ["setpriv", "--bounding-set=-sys_admin", "--no-new-privs", *argv]
    environment = {
        **os.environ,
        "LLAMARIG_REHEARSAL_DIR": str(rehearsed.directory),
        "LLAMARIG_REHEARSAL_PORT": str(rehearsed.port),
        "XDG_CACHE_HOME": str(rehearsed.cache.parent),
    }
    done = subprocess.run(argv, cwd=REPOSITORY_ROOT, env=environment, capture_output=True, text=True, timeout=3600)
    assert done.returncode == 0, done.stdout + done.stderr
    for part in ("CAP_SYS_ADMIN", "Rehearsing in a virtual machine", "compiling llama.cpp", "What to do next"):
        assert part in done.stdout
    assert machine.ssh(rehearsed, "systemctl is-active llamarig-tiny").stdout == "active\n"
    assert machine.ssh(rehearsed, "systemd-detect-virt --vm").stdout.strip() in ("kvm", "qemu")
