"""The rehearsal box itself: start, stop, persistence, isolation from the host, and destruction."""

from __future__ import annotations

import dataclasses
import os
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.box import machine
from tests.box.bootstrap import prepare
from tests.box.machine import BoxError, Mode, ssh
from tests.box.paths import DEFAULT_PORT, Rehearsal

pytestmark = pytest.mark.box


@pytest.fixture(scope="module")
def box(users_box: Rehearsal) -> Iterator[Rehearsal]:
    """A box for this module only, which its tests start and stop as they need."""
    # Not in pytest's tmp_path, which is kept for three runs (350 MB each) and may be a small tmpfs.
    parent = Path(tempfile.mkdtemp(prefix="llamarig-test-", dir="/var/tmp"))
    rehearsal = Rehearsal(parent / "box", _free_port(), users_box.cache)
    try:
        machine.bootstrap(rehearsal, seed=_seed(users_box))
        yield rehearsal
    finally:
        machine.destroy(rehearsal)
        parent.rmdir()


def test_up_returns_when_systemd_has_started_everything(box: Rehearsal) -> None:
    machine.up(box)

    assert machine.is_up(box)
    assert ssh(box, "systemctl is-system-running", check=False).stdout.strip() in ("running", "degraded")
    assert ssh(box, "hostname").stdout == "rehearsal\n"
    assert ssh(box, ". /etc/os-release; echo $VERSION_CODENAME").stdout == "trixie\n"


def test_up_leaves_a_running_box_alone(box: Rehearsal) -> None:
    machine.up(box)
    boot_time = "cat /proc/1/stat | cut -d' ' -f22"
    before = ssh(box, boot_time).stdout

    machine.up(box)

    assert ssh(box, boot_time).stdout == before


def test_login_is_possible_only_by_key_and_from_this_host(box: Rehearsal) -> None:
    machine.up(box)
    settings = ssh(box, "sshd -T").stdout.splitlines()

    assert "passwordauthentication no" in settings
    assert "permitrootlogin without-password" in settings
    assert [line for line in settings if line.startswith("listenaddress")] == [f"listenaddress 127.0.0.1:{box.port}"]


def test_a_failing_or_hanging_command_raises_an_error_with_its_output(box: Rehearsal) -> None:
    machine.up(box)
    with pytest.raises(BoxError, match="exit status 4:\nno such model"):
        ssh(box, "echo no such model >&2; exit 4")
    assert ssh(box, "exit 4", check=False).returncode == 4
    with pytest.raises(BoxError, match=r"did not end within 0\.5 s"):
        ssh(box, "sleep 5", timeout=0.5)


def test_units_may_lock_unlimited_memory(box: Rehearsal) -> None:
    if subprocess.run(["sh", "-c", "ulimit -l unlimited"], capture_output=True, check=False).returncode:
        pytest.skip("root may not raise its own limit here (no CAP_SYS_RESOURCE), so neither may the box")
    machine.up(box)
    limit = ssh(box, "systemd-run --quiet --pipe --wait -p LimitMEMLOCK=infinity sh -c 'ulimit -l'").stdout
    assert limit == "unlimited\n"


def test_apt_and_pythons_tls_work_behind_the_hosts_proxy(box: Rehearsal) -> None:
    machine.up(box)
    ssh(box, "apt-get -q update && apt-get -q -y install --no-install-recommends python3", timeout=300)
    request = "import urllib.request as u; print(u.urlopen('https://pypi.org/simple/uv/', timeout=30).status)"
    assert ssh(box, f'set -a; . /etc/environment; python3 -c "{request}"').stdout == "200\n"


def test_files_survive_a_stop_and_start(box: Rehearsal) -> None:
    machine.up(box)
    ssh(box, "echo kept > /opt/kept")

    machine.down(box)
    assert not machine.is_up(box)
    assert not box.pid_file.exists()

    machine.up(box)
    assert ssh(box, "cat /opt/kept").stdout == "kept\n"


def test_the_hosts_proxy_is_set_in_the_box_and_removed_again(box: Rehearsal, monkeypatch: pytest.MonkeyPatch) -> None:
    files = (
        "etc/environment",
        "etc/apt/apt.conf.d/95rehearsal-proxy",
        "etc/systemd/system.conf.d/95-rehearsal-proxy.conf",
    )
    for name in ("http_proxy", "https_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    prepare(box)
    (box.root / "etc/environment").write_text("LANG=C.UTF-8\n")

    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.example:3128/%20")
    prepare(box)
    environment, apt, manager = ((box.root / name).read_text() for name in files)
    assert environment == "LANG=C.UTF-8\nhttps_proxy=http://proxy.example:3128/%20\n"
    assert apt == 'Acquire::https::Proxy "http://proxy.example:3128/%20";\n'
    assert manager == '[Manager]\nDefaultEnvironment="https_proxy=http://proxy.example:3128/%%20"\n'

    monkeypatch.delenv("HTTPS_PROXY")
    prepare(box)
    assert (box.root / "etc/environment").read_text() == "LANG=C.UTF-8\n"
    assert not any((box.root / name).exists() for name in files[1:])


def test_an_isolated_box_reaches_no_network_and_is_reachable_in_its_namespace(box: Rehearsal) -> None:
    machine.up(box, network="isolated")

    assert machine.mode(box) == Mode("isolated")
    assert ssh(box, "ip route show table main; ip -br link").stdout.split()[:1] == ["lo"]
    attempt = ssh(
        box,
        "timeout 5 bash -c '</dev/tcp/192.0.2.1/80'",
        check=False,
    )
    assert "Network is unreachable" in attempt.stderr
    plain = machine.ssh_argv(box)[len(machine.isolated_prefix(box)) :]
    assert subprocess.run([*plain, "true"], capture_output=True, check=False).returncode != 0
    assert subprocess.run([*machine.isolated_prefix(box), *plain, "true"], check=False).returncode == 0

    machine.down(box)
    assert not Path("/run/netns", box.network_namespace).exists()


def test_kernel_settings_are_read_only_unless_requested(box: Rehearsal) -> None:
    # Writes the current value, because only the permission is tested.
    write = "sysctl -w vm.swappiness=$(sysctl -n vm.swappiness)"
    machine.up(box)
    assert ssh(box, write, check=False).returncode != 0

    machine.up(box, writable_sysctl=True)
    assert machine.mode(box) == Mode("host", writable_sysctl=True)
    ssh(box, write)
    # Otherwise starting the box would have written Debian's settings to this host.
    masked = ssh(box, "systemctl is-enabled systemd-sysctl.service", check=False).stdout
    assert masked.startswith("masked")


def test_a_port_in_use_is_refused_before_the_box_starts(box: Rehearsal) -> None:
    machine.down(box)
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        with_port_in_use = dataclasses.replace(box, port=other.getsockname()[1])
        with pytest.raises(BoxError, match="Set LLAMARIG_REHEARSAL_PORT"):
            machine.up(with_port_in_use)
    assert not machine.is_up(box)


def test_the_error_of_a_box_that_does_not_start_has_its_console_log(box: Rehearsal) -> None:
    machine.down(box)
    init = box.root / "usr/lib/systemd/systemd"
    init.rename(init.with_name("away"))
    try:
        with pytest.raises(BoxError, match=r"(?s)systemd-nspawn ended.*console\.log ends:\n.+"):
            machine.up(box)
    finally:
        init.with_name("away").rename(init)
    assert not box.pid_file.exists()


def test_a_reused_process_id_does_not_count_as_the_box(box: Rehearsal) -> None:
    machine.down(box)
    box.pid_file.write_text(str(os.getpid()))
    assert not machine.is_up(box)
    machine.down(box)  # must not signal this process


def test_an_interrupted_bootstrap_is_discarded_and_repeated(box: Rehearsal, tmp_path: Path) -> None:
    seed = tmp_path / "seed"
    (seed / "etc").mkdir(parents=True)
    interrupted = Rehearsal(tmp_path / "interrupted")
    (interrupted.unfinished_root / "stale").mkdir(parents=True)
    interrupted.marker.touch()

    machine.bootstrap(interrupted, seed=seed)

    assert interrupted.root.is_dir()
    assert not (interrupted.root / "stale").exists()
    assert not interrupted.unfinished_root.exists()


def test_destroy_removes_the_state_directory(tmp_path: Path) -> None:
    (tmp_path / "seed/etc").mkdir(parents=True)
    made = Rehearsal(tmp_path / "made")
    machine.bootstrap(made, seed=tmp_path / "seed")

    machine.destroy(made)

    assert not made.directory.exists()
    machine.destroy(made)  # a second call does nothing


def test_destroy_refuses_a_directory_it_did_not_make(tmp_path: Path) -> None:
    (tmp_path / "other-file").touch()
    foreign = Rehearsal(tmp_path)

    with pytest.raises(BoxError, match="Not deleting"):
        machine.destroy(foreign)
    with pytest.raises(BoxError, match="holds other things"):
        machine.up(foreign)

    assert [path.name for path in tmp_path.iterdir()] == ["other-file"]


def test_destroy_removes_a_running_box(box: Rehearsal) -> None:
    """Must stay the last test: it removes the box of this module."""
    machine.up(box, network="isolated")
    leader = int(box.pid_file.read_text())

    machine.destroy(box)

    assert not box.directory.exists()
    assert not Path("/run/netns", box.network_namespace).exists()
    assert not Path(f"/proc/{leader}/cmdline").exists() or not Path(f"/proc/{leader}/cmdline").read_bytes()


def _seed(users_box: Rehearsal) -> Path | None:
    """The file system of the user's box, if it is stopped and never deployed to; copying beats a bootstrap."""
    if not users_box.root.is_dir() or machine.is_up(users_box) or (users_box.root / "opt/llamarig").exists():
        return None
    return users_box.root


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port if port != DEFAULT_PORT else _free_port()
