"""The rehearsal in a virtual machine, for machines that cannot boot a container."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from llamarig.declare.rig import Rig
from llamarig.render.release import release_path

from tests.abilities import abilities, container_lacks
from tests.box import local_hub, machine, virtual_box, virtual_files
from tests.box.deployment import REPOSITORY_ROOT, Deployment, rehearsal_rig, wait_for
from tests.box.exclusive_use import exclusive_use
from tests.box.host import BoxError
from tests.box.paths import Rehearsal
from tests.box.power_cut import CutMachine
from tests.box.power_cut_hook import MARK, PHASES, UNIT
from tests.box.rehearse import chat, is_healthy
from tests.remote.serve.switched_box import SwitchedBox
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


@pytest.mark.box
@pytest.mark.parametrize("may_mount", [True, False])
def test_the_machines_disk_has_no_file_of_what_is_mounted_in_its_directory(tmp_path: Path, may_mount: bool) -> None:
    """Regression: an ordinary user's rehearsal ended with `Permission denied while opening "auxv" to copy`."""
    root, image = tmp_path / "root", tmp_path / "disk.img"
    (root / "proc").mkdir(parents=True)
    (root / "etc").mkdir()
    (root / "etc/hostname").write_text("virtual\n")
    with image.open("w+b") as disk:
        image.chmod(0o666)
        hook = f"sh -c {shlex.quote(virtual_box.make_file_system(disk.fileno()))} exec {root}"
        argv = ["setpriv", "--bounding-set=-sys_admin", "--no-new-privs", "sh", "-ec", hook]
        if may_mount:
            mounted = f"mount -t proc proc {root}/proc && {hook}"
            argv = ["unshare", "--user", "--map-root-user", "--mount", "--pid", "--fork", "sh", "-ec", mounted]
        subprocess.run(argv, check=True, pass_fds=(disk.fileno(),))
    assert "/hostname/" in _listing(image, "etc")
    assert len(_listing(image, "proc").split()) == 2, "more than . and .."


def _listing(image: Path, directory: str) -> str:
    """Of a directory of a file system, one entry a line."""
    return subprocess.run(["debugfs", "-R", f"ls -p /{directory}", image], capture_output=True, text=True).stdout


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


def test_a_switch_comes_to_each_phase_of_the_power_cuts(tmp_path: Path) -> None:
    """With stand-ins for systemd and llama-server: the long test below would wait for a phase that never comes."""
    (tmp_path / "box").mkdir()
    box, console, hook = SwitchedBox(tmp_path / "box"), tmp_path / "console", tmp_path / "hook.py"
    hook.write_text(
        f"import sys\nsys.path.insert(0, {str(REPOSITORY_ROOT)!r})\n"
        "from tests.box import power_cut_hook as hook\n"
        f"hook.CONSOLE, hook.FIRST_WAIT_S, hook.WAIT_S = {str(console)!r}, 0, 0\n"
        "sys.addaudithook(hook.Phases())\n"
    )
    console.touch()
    box.record_start(UNIT, box.serve(UNIT, "old"))
    box.systemctl("enable", UNIT)
    box.more_environment = {"LLAMARIG_FAULT": str(hook)}
    try:
        assert box.switch(box.text("new"), unit=UNIT).startswith("done: ")
    finally:
        box.systemctl("stop", UNIT)
    assert console.read_text().split() == f"{MARK} {len(PHASES)}".split()


@dataclass(frozen=True)
class Rehearsed:
    """A rehearsal without CAP_SYS_ADMIN: its box, and how it ended."""

    box: Rehearsal
    code: int
    output: str


@pytest.fixture(scope="module")
def rehearsed(users_box: Rehearsal) -> Iterator[Rehearsed]:
    box = Rehearsal(users_box.cache / "test-virtual-box", PORT, users_box.cache)
    argv = [sys.executable, "-m", "tests.box.rehearse"]
    if not container_lacks(abilities()):
        argv = ["setpriv", "--bounding-set=-sys_admin", "--no-new-privs", *argv]
    environment = {
        **os.environ,
        "LLAMARIG_REHEARSAL_DIR": str(box.directory),
        "LLAMARIG_REHEARSAL_PORT": str(box.port),
        "XDG_CACHE_HOME": str(box.cache.parent),
    }
    with exclusive_use(box.directory):
        machine.destroy(box)
        try:
            done = subprocess.run(
                argv, cwd=REPOSITORY_ROOT, env=environment, capture_output=True, text=True, timeout=3600
            )
            yield Rehearsed(box, done.returncode, done.stdout + done.stderr)
        finally:
            local_hub.stop(box)
            machine.destroy(box)


@pytest.mark.vm
@pytest.mark.long
def test_without_sys_admin_a_rehearsal_ends_with_an_answer_from_a_virtual_machine(rehearsed: Rehearsed) -> None:
    """Regression: it ended with `clone() failed: Operation not permitted`."""
    assert rehearsed.code == 0, rehearsed.output
    for part in ("CAP_SYS_ADMIN", "Rehearsing in a virtual machine", "compiling llama.cpp", "What to do next"):
        assert part in rehearsed.output
    assert machine.ssh(rehearsed.box, "systemctl is-active llamarig-tiny").stdout == "active\n"
    assert machine.ssh(rehearsed.box, "systemd-detect-virt --vm").stdout.strip() in ("kvm", "qemu")


@dataclass(frozen=True)
class Upgrade:
    """An upgrade of the rehearsal's box to another release, which is there. ``cut``: its machine, which does not run.

    ``old``, ``new``: directories of the releases.
    """

    cut: CutMachine
    deployment: Deployment
    old: str
    new: str


@pytest.fixture
def upgrade(rehearsed: Rehearsed, tmp_path: Path) -> Iterator[Upgrade]:
    """Begun, with the machine's state saved at the first phase of the switch."""
    assert rehearsed.code == 0, rehearsed.output
    deployment = Deployment(rehearsed.box, tmp_path, rehearsal_rig(rehearsed.box))
    old = _release(deployment)
    deployment.rig["builds"][0]["cmake"]["LLAMARIG_TEST"] = "upgrade"
    new = _release(deployment)
    # A copy stands in for another build: emulated, compiling takes hours.
    deployment.shell(f"cp -a {old} {new}", timeout=300)
    virtual = deployment.shell("systemd-detect-virt --vm")
    machine.down(rehearsed.box)
    cut = CutMachine(rehearsed.box, "kvm" if virtual == "kvm" else virtual_box.EMULATED)
    try:
        cut.boot()
        cut.begin(old, new)
        yield Upgrade(cut, deployment, old, new)
    finally:
        cut.cut()


def _release(deployment: Deployment) -> str:
    rig = Rig.model_validate(deployment.rig)
    return release_path(rig.builds[0], rig.models)


# Program of the server, its unit file, whether it starts at boot, and what a switch has left over.
_STATE = f"""\
readlink /proc/$(systemctl show {UNIT} -p MainPID --value)/exe
grep -h ^ExecStart= /etc/systemd/system/{UNIT}
systemctl is-enabled {UNIT}
ls -d /var/lib/llamarig/proofs/switch-journal* /etc/systemd/system/*.llamarig-before 2>/dev/null; true"""


def _serves(upgrade: Upgrade) -> str:
    """`old`, `new`, or what is half done."""
    deployment = upgrade.deployment
    wait_for(lambda: is_healthy(deployment.address), "a server after the boot", timeout=300)
    assert chat(deployment.address, "Who are you?")
    program, starts, *rest = deployment.shell(_STATE).splitlines()
    for name, release in (("old", upgrade.old), ("new", upgrade.new)):
        server = f"{release}/bin/llama-server"
        if program == server and f"={server} " in starts and rest == ["enabled"]:
            return name
    return f"{program} runs, {starts}, {rest}"


@pytest.mark.vm
@pytest.mark.long
def test_after_a_power_cut_at_each_phase_of_an_upgrade_what_served_boots_or_what_was_deployed(
    upgrade: Upgrade,
) -> None:
    committed = list(PHASES).index("the switch is committed")
    found = {}
    for number, phase in enumerate(PHASES):
        upgrade.cut.cut_at(number + 1)
        upgrade.cut.boot()
        found[phase] = _serves(upgrade)
        print(f"{phase}: {found[phase]}")
        if number == committed - 1:
            # The next deploy finishes it.
            finished = upgrade.deployment.run()
            assert finished.code == 0, str(finished)
            assert _serves(upgrade) == "new"
        upgrade.cut.cut()
    assert found == {phase: "old" if number < committed else "new" for number, phase in enumerate(PHASES)}
