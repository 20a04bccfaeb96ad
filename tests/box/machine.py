"""Start, stop and destroy the rehearsal box: a disposable Debian 13 under systemd-nspawn, reached over SSH.

The box shares this host's network (its sshd listens on a loopback port) or, isolated, has only a loopback interface.
"""

from __future__ import annotations

import fcntl
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tests.box.bootstrap import bootstrap, claim_directory, prepare
from tests.box.host import BoxError, check_host, host_environment, remove_tree, run, say, tail
from tests.box.paths import ADDRESS, HOSTNAME, Rehearsal
from tests.box.processes import runs, send_signal, strings_of, text_of

__all__ = [
    "BoxError",
    "Mode",
    "Network",
    "bootstrap",
    "destroy",
    "down",
    "is_up",
    "isolated_prefix",
    "mode",
    "ssh",
    "ssh_argv",
    "up",
]

Network = Literal["host", "isolated"]

START_SECONDS = 60.0
STOP_SECONDS = 30.0
EXEC_POLLS = 100
POLL_SECONDS = 0.1

# systemd-nspawn reads it; see systemd's docs/ENVIRONMENT.md.
WRITABLE_SYSCTL = "SYSTEMD_NSPAWN_API_VFS_WRITABLE"
NAMESPACE_OPTION = "--network-namespace-path="


@dataclass(frozen=True)
class Mode:
    """Options that a box was started with."""

    network: Network = "host"
    writable_sysctl: bool = False
    virtual: bool = False

    def __str__(self) -> str:
        if self.virtual:
            return "in a virtual machine"
        network = "sharing this host's network" if self.network == "host" else "with no network but loopback"
        return f"{network}, sysctl writable" if self.writable_sysctl else network


def up(rehearsal: Rehearsal, *, network: Network = "host", writable_sysctl: bool = False) -> None:
    """Start the box (and make it if necessary); return when root can log in and systemd has finished starting.

    A box that already runs in this mode is left alone; in another mode it is restarted.

    `writable_sysctl`: let the box write kernel settings (vm.* and others). They are shared with this host, so use it
    only in tests of those settings, and restore them. systemd-sysctl.service is masked in this mode, because starting
    the box would otherwise apply Debian's settings to this host.

    Raises BoxError, with the end of the console log, if the box does not answer within 60 s.
    """
    check_host()
    wanted = Mode(network, writable_sysctl)
    claim_directory(rehearsal)
    with exclusive(rehearsal):
        running = mode(rehearsal)
        if running == wanted:
            prepare(rehearsal)
            say(f"The box is already up, {wanted}.")
            return
        if running is not None:
            say(f"The box is up, but {running}: restarting it.")
            _stop(rehearsal)
        bootstrap(rehearsal)
        prepare(rehearsal)
        say(f"Starting the box, {wanted}...")
        began = time.monotonic()
        _start(rehearsal, wanted)
        try:
            state = wait_until_ready(rehearsal, deadline=began + START_SECONDS)
        except BaseException:
            _stop(rehearsal)
            raise
        say(f"The box is up ({state}) after {time.monotonic() - began:.1f} s.")


def down(rehearsal: Rehearsal) -> None:
    """Power the box off and wait until it has ended. Does nothing if it is not up."""
    if not rehearsal.marker.exists():
        return
    with exclusive(rehearsal):
        _stop(rehearsal)


def destroy(rehearsal: Rehearsal) -> None:
    """Power the box off and delete its state directory.

    Raises BoxError for a directory that was not made by `bootstrap`.
    """
    directory = rehearsal.directory
    if not directory.exists():
        return
    if not rehearsal.marker.exists():
        raise BoxError(
            f"Not deleting {directory}: llamarig did not make it (there is no {rehearsal.marker.name} in it)."
        )
    down(rehearsal)
    say(f"Deleting {directory}...")
    # Delete the marker last, so that an interrupted destroy can be repeated.
    for entry in sorted(directory.iterdir()):
        if entry != rehearsal.marker:
            remove_tree(entry)
    remove_tree(directory)


def is_up(rehearsal: Rehearsal) -> bool:
    """Return whether the box's systemd-nspawn is running (not whether its sshd answers)."""
    return _pid(rehearsal) is not None


def mode(rehearsal: Rehearsal) -> Mode | None:
    """Return the mode of the running box, None if it is not up. Read from the process, so it cannot be stale."""
    pid = _pid(rehearsal)
    if pid is None:
        return None
    if disk_option(rehearsal) in strings_of(pid, "cmdline"):
        return Mode(virtual=True)
    isolated = any(argument.startswith(NAMESPACE_OPTION) for argument in strings_of(pid, "cmdline"))
    writable = f"{WRITABLE_SYSCTL}=1" in strings_of(pid, "environ")
    return Mode("isolated" if isolated else "host", writable)


def disk_option(rehearsal: Rehearsal) -> str:
    """QEMU's option that names the disk of the box, by which its process is recognised."""
    return f"file={rehearsal.disk},format=raw,if=virtio,cache=unsafe"


def isolated_prefix(rehearsal: Rehearsal) -> list[str]:
    """Return the prefix with which a command (pyinfra, ssh) reaches the box in isolated mode.

    The command has only the box's loopback network then, too.
    """
    return ["ip", "netns", "exec", rehearsal.network_namespace]


def ssh_argv(rehearsal: Rehearsal) -> list[str]:
    """Return the ssh command line for the running box; append the remote command.

    It ignores the user's ssh configuration and accepts only the box's host key.
    """
    running = mode(rehearsal)
    prefix = isolated_prefix(rehearsal) if running is not None and running.network == "isolated" else []
    options = (
        "BatchMode=yes",
        "ConnectTimeout=5",
        "GlobalKnownHostsFile=/dev/null",
        "IdentitiesOnly=yes",
        "LogLevel=ERROR",
        "StrictHostKeyChecking=yes",
        f'UserKnownHostsFile="{rehearsal.known_hosts}"',
    )
    arguments = [argument for option in options for argument in ("-o", option)]
    key, port = str(rehearsal.key), str(rehearsal.port)
    return [*prefix, "ssh", "-F", "/dev/null", "-i", key, "-p", port, *arguments, f"root@{ADDRESS}"]


def ssh(
    rehearsal: Rehearsal, command: str, *, check: bool = True, timeout: float = 60.0
) -> subprocess.CompletedProcess[str]:
    """Run a shell command as root in the box.

    Raises BoxError if it takes longer than `timeout` seconds or, with `check`, if it fails.
    """
    try:
        done = subprocess.run(
            [*ssh_argv(rehearsal), "--", command],
            env=host_environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise BoxError(f"On the box, `{command}` did not end within {timeout:g} s.") from None
    if check and done.returncode:
        output = f"{done.stdout}{done.stderr}".strip()
        raise BoxError(f"On the box, `{command}` failed with exit status {done.returncode}:\n{output}")
    return done


def _start(rehearsal: Rehearsal, wanted: Mode) -> None:
    rehearsal.build_cache.mkdir(parents=True, exist_ok=True)
    argv = [
        "systemd-nspawn",
        f"--directory={rehearsal.root}",
        f"--machine={rehearsal.machine_name}",
        f"--hostname={HOSTNAME}",
        "--register=no",
        "--settings=no",
        "--link-journal=no",
        "--resolv-conf=copy-host",
        # llama-server's --mlock locks the whole model; the default limit is 8 MiB. The limit stays at the default where
        # this host's root lacks CAP_SYS_RESOURCE, as in some CI sandboxes.
        "--rlimit=MEMLOCK=infinity",
        # Keep compiled objects and source archives outside the box, so that a new box builds in seconds.
        f"--bind={rehearsal.build_cache}:/var/cache/llamarig",
        # The signal that nspawn sends to the box's init on SIGTERM; this one means power off.
        "--kill-signal=SIGRTMIN+4",
    ]
    # On a host with systemd the box runs in its own scope, so that it outlives the login session that started it.
    # Without systemd there is no scope to create.
    if not Path("/run/systemd/system").is_dir():
        argv.append("--keep-unit")
    if wanted.network == "isolated":
        argv.append(f"{NAMESPACE_OPTION}{_make_namespace(rehearsal)}")
    else:
        check_port(rehearsal)
    argv.append("--boot")
    environment = {"PATH": host_environment()["PATH"], "LANG": "C.UTF-8"}
    if wanted.writable_sysctl:
        argv.append("systemd.mask=systemd-sysctl.service")
        environment[WRITABLE_SYSCTL] = "1"
    spawn(rehearsal, argv, environment)


def spawn(rehearsal: Rehearsal, argv: Sequence[str], environment: Mapping[str, str]) -> None:
    """Start the box's process, which outlives this one; its output goes to the console log."""
    # The shell exits at once and leaves it to init, in a session without a terminal: init reaps it, so that no zombie
    # keeps its process id.
    started = subprocess.run(
        ["sh", "-c", '"$@" </dev/null >"$0" 2>&1 & echo $!', rehearsal.console_log, *argv],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
        check=True,
    )
    rehearsal.pid_file.write_text(started.stdout)


def wait_until_ready(rehearsal: Rehearsal, *, deadline: float) -> str:
    """Return systemd's state (running or degraded) once it has started everything."""
    problem = "nothing answered"
    while (left := deadline - time.monotonic()) > 0:
        if not is_up(rehearsal):
            problem = f"{'QEMU' if rehearsal.disk.exists() else 'systemd-nspawn'} ended"
            break
        try:
            result = ssh(rehearsal, "systemctl is-system-running --wait", check=False, timeout=left)
        except BoxError as error:
            problem = str(error)
            continue
        state = result.stdout.strip()
        if state in ("running", "degraded"):
            return state
        problem = result.stderr.strip() or f"systemd says {state or 'nothing'}"
        time.sleep(POLL_SECONDS)
    raise BoxError(f"The box did not start: {problem}.\n{rehearsal.console_log} ends:\n{tail(rehearsal.console_log)}")


def _stop(rehearsal: Rehearsal) -> None:
    """Power the box off, or kill it if that fails; then remove its pid file and network namespace."""
    pid = _pid(rehearsal)
    if pid is not None:
        say("Powering the box off...")
        if (running := mode(rehearsal)) is not None and running.virtual:
            _power_off(rehearsal)
        # Killing nspawn alone leaves the box's init running; killing init ends every process in the box.
        children = [int(child) for child in text_of(pid, f"task/{pid}/children").split()]
        if is_up(rehearsal):
            send_signal(pid, signal.SIGTERM)
        if not _wait_until_gone(rehearsal, STOP_SECONDS):
            say(f"It did not within {STOP_SECONDS:g} s: killing it.")
            for process in (*children, pid):
                send_signal(process, signal.SIGKILL)
            if not _wait_until_gone(rehearsal, STOP_SECONDS):
                raise BoxError(f"The box (process {pid}) does not end, even when killed.")
    rehearsal.pid_file.unlink(missing_ok=True)
    namespace = rehearsal.network_namespace
    if _namespace_path(rehearsal).exists():
        run(["ip", "netns", "delete", namespace], what=f"could not delete network namespace {namespace}")


def _power_off(rehearsal: Rehearsal) -> None:
    """Shut a virtual machine down; QEMU itself would end at once at a signal."""
    try:
        done = ssh(rehearsal, "systemctl poweroff --no-block && echo begun", check=False, timeout=STOP_SECONDS)
    except BoxError:
        return
    if "begun" in done.stdout:
        _wait_until_gone(rehearsal, 3 * STOP_SECONDS)


def kill(rehearsal: Rehearsal) -> None:
    """End the process of a box that has not started."""
    if (pid := _pid(rehearsal)) is not None:
        send_signal(pid, signal.SIGKILL)
        _wait_until_gone(rehearsal, STOP_SECONDS)
    rehearsal.pid_file.unlink(missing_ok=True)


def cut_power(rehearsal: Rehearsal) -> None:
    """End every process of a container at once, as a power cut does; what its files hold by then stays."""
    with exclusive(rehearsal):
        if (pid := _pid(rehearsal)) is not None:
            # Its init alone: nspawn then removes its mounts, without which the box would not start again.
            for child in text_of(pid, f"task/{pid}/children").split():
                send_signal(int(child), signal.SIGKILL)
            if not _wait_until_gone(rehearsal, STOP_SECONDS):
                raise BoxError(f"The box (process {pid}) does not end after its init was killed.")
        rehearsal.pid_file.unlink(missing_ok=True)


def _wait_until_gone(rehearsal: Rehearsal, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if not is_up(rehearsal):
            return True
        time.sleep(POLL_SECONDS)
    return False


def _make_namespace(rehearsal: Rehearsal) -> Path:
    name = rehearsal.network_namespace
    path = _namespace_path(rehearsal)
    if not path.exists():
        run(["ip", "netns", "add", name], what=f"could not make network namespace {name}")
    run(["ip", "-n", name, "link", "set", "lo", "up"], what=f"could not start loopback in namespace {name}")
    return path


def _namespace_path(rehearsal: Rehearsal) -> Path:
    return Path("/run/netns") / rehearsal.network_namespace


def check_port(rehearsal: Rehearsal) -> None:
    """Raise BoxError if a process of this host uses the port. The box's sshd would fail with a less helpful message."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((ADDRESS, rehearsal.port))
        except OSError as error:
            raise BoxError(
                f"Port {rehearsal.port} of {ADDRESS} is in use ({error.strerror}).\n"
                "Set LLAMARIG_REHEARSAL_PORT to a free one."
            ) from None


def _pid(rehearsal: Rehearsal) -> int | None:
    """Return the process id of the box's systemd-nspawn if it is running.

    The command line is checked, because the id in the pid file may have been reused. A zombie has no command line and
    counts as ended.
    """
    try:
        pid = int(rehearsal.pid_file.read_text())
    except (FileNotFoundError, ValueError):
        return None
    for _ in range(EXEC_POLLS):
        command_line = strings_of(pid, "cmdline")
        # A process has no command line for a moment during exec; a box that has just been started has not ended.
        if command_line != [""] or not runs(pid):
            break
        time.sleep(0.01)
    return pid if {f"--directory={rehearsal.root}", disk_option(rehearsal)} & set(command_line) else None


@contextmanager
def exclusive(rehearsal: Rehearsal) -> Iterator[None]:
    """Lock the box, so that one process at a time starts or stops it; others wait."""
    with rehearsal.lock.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
