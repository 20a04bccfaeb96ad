"""A Debian 13 virtual machine, for tests of what a container lacks: SMBIOS tables, kernel settings, a reboot.

QEMU runs in a chroot of Debian 13, because Debian 12's version panics the guest's kernel. It emulates in software, so
that no KVM is needed. Needs root, 3 GB in ~/.cache/llamarig/vm and, for the first run, Debian's mirrors.
"""

from __future__ import annotations

import shlex
import shutil
import subprocess
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.box.bootstrap import PACKAGES, SUITE
from tests.box.host import KEYRING, host_environment, run
from tests.box.paths import ADDRESS, root_login

GUEST_PACKAGES = (*PACKAGES, "python3", "linux-image-cloud-amd64", "initramfs-tools", "udev", "dmidecode")
BOOT_SECONDS = 240.0
STOP_SECONDS = 90.0
ATTEMPTS = 3
EMULATOR_FAULT = "iotlb_to_section: Assertion"
"""QEMU 10.0 aborts so now and then at boot when it emulates two processors in two threads; the guest has no part in it.
"""


class VirtualMachine:
    """A guest with its disk in ``directory`` and its sshd forwarded to a loopback port of this machine."""

    def __init__(self, directory: Path, port: int) -> None:
        self.directory = directory
        self.port = port
        self.key = directory / "id_ed25519"
        self.known_hosts = directory / "known_hosts"
        self.console = directory / "console.log"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def _tools(self) -> Path:
        """Root of the chroot that QEMU runs in. The guest's files are in its /vm, so that nothing has to be mounted."""
        return self.directory / "tools"

    def make(self) -> None:
        """Bootstrap the tools and the guest from Debian's mirror if they are missing, and make a fresh disk.

        :raises BoxError: with mmdebstrap's output
        """
        self.directory.mkdir(parents=True, exist_ok=True)
        guest = self.directory / "guest"
        wanted = {self._tools: ("qemu-system-x86", "seabios", "ipxe-qemu"), guest: GUEST_PACKAGES}
        with ThreadPoolExecutor() as pool:
            list(pool.map(_bootstrap, wanted.keys(), wanted.values()))
        if not self.key.exists():
            run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", self.key], what="could not make a key")
        _prepare(guest, self.key.with_suffix(".pub"))
        host_key = (guest / "etc/ssh/ssh_host_ed25519_key.pub").read_text()
        self.known_hosts.write_text(f"[{ADDRESS}]:{self.port} {host_key}")
        files = self._tools / "vm"
        files.mkdir(exist_ok=True)
        for name in ("vmlinuz", "initrd.img"):
            shutil.copyfile(guest / name, files / name)
        disk = files / "disk.img"
        disk.unlink(missing_ok=True)
        run(["mke2fs", "-q", "-t", "ext4", "-d", guest, disk, "3G"], what="could not make the guest's disk")

    def start(self, smbios: Sequence[str]) -> None:
        """Boot, and return when root can log in.

        :param smbios: values of QEMU's ``-smbios`` options
        :raises AssertionError: with the end of the console log, if the guest does not answer within BOOT_SECONDS
        """
        argv = [
            *("chroot", str(self._tools), "qemu-system-x86_64", "-accel", "tcg,thread=multi", "-cpu", "max"),
            *("-smp", "2", "-m", "1024", "-display", "none", "-serial", "stdio", "-no-reboot"),
            *("-kernel", "/vm/vmlinuz", "-initrd", "/vm/initrd.img"),
            *("-append", "root=/dev/vda rw console=ttyS0 quiet mitigations=off"),
            *("-drive", "file=/vm/disk.img,format=raw,if=virtio,cache=unsafe"),
            *("-netdev", f"user,id=net,hostfwd=tcp:{ADDRESS}:{self.port}-:22"),
            *("-device", "virtio-net-pci,netdev=net,romfile="),
            *(word for table in smbios for word in ("-smbios", table)),
        ]
        for attempt in range(1, ATTEMPTS + 1):
            if self._boots(argv):
                return
            text = self.console.read_text(errors="replace")[-2000:]
            if EMULATOR_FAULT in text and attempt < ATTEMPTS:
                continue
            raise AssertionError(f"the virtual machine does not answer:\n{text}")

    def _boots(self, argv: Sequence[str]) -> bool:
        """Start the emulator; whether root can log in within BOOT_SECONDS."""
        with self.console.open("wb") as console:
            self._process = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=console, stderr=console, env=host_environment()
            )
        deadline = time.monotonic() + BOOT_SECONDS
        while self._ssh("true", timeout=30).returncode:
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                return False
            time.sleep(1)
        return True

    @property
    def is_running(self) -> bool:
        """Whether it was started and has not ended."""
        return self._process is not None and self._process.poll() is None

    def shell(self, command: str) -> str:
        """Run a command as root in the guest, assert that it succeeds, and return its output."""
        done = self._ssh(command, timeout=120)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout.strip()

    def write(self, path: str, text: str, mode: str = "644") -> None:
        """Write a file in the guest as root."""
        self.shell(f"mkdir -p {Path(path).parent} && printf %s {shlex.quote(text)} >{path} && chmod {mode} {path}")

    def power_off(self) -> None:
        """Shut the guest down cleanly and wait for the end of the process, so that all writes are on the disk."""
        assert self._process is not None
        self._ssh("systemctl poweroff", timeout=30)
        self._process.wait(STOP_SECONDS)

    def kill(self) -> None:
        """Kill the emulator process, if it was started."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def login(self) -> dict[str, object]:
        """pyinfra's host data for the SSH login."""
        return root_login(self.port, self.key, self.known_hosts)

    def _ssh(self, command: str, timeout: float) -> subprocess.CompletedProcess[str]:
        options = ("BatchMode=yes", "ConnectTimeout=10", "LogLevel=ERROR", f"UserKnownHostsFile={self.known_hosts}")
        argv = [
            *("ssh", "-F", "/dev/null", "-i", str(self.key), "-p", str(self.port)),
            *(word for option in options for word in ("-o", option)),
            *(f"root@{ADDRESS}", "--", command),
        ]
        try:
            return subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout)
        except subprocess.TimeoutExpired:
            return subprocess.CompletedProcess(argv, 255, "", f"no answer within {timeout:g} s")


def _bootstrap(root: Path, packages: Sequence[str]) -> None:
    if root.exists():
        return
    unfinished = root.with_name(f"{root.name}.part")
    if unfinished.exists():
        run(["rm", "-rf", "--one-file-system", "--", unfinished], what=f"could not delete {unfinished}")
    argv = ["mmdebstrap", "--variant=minbase", f"--include={','.join(packages)}", f"--keyring={KEYRING}", SUITE]
    run(
        [*argv, unfinished],
        what=f"could not bootstrap {root.name}",
        env=host_environment({"DEBIAN_FRONTEND": "noninteractive"}),
    )
    unfinished.rename(root)


def _prepare(guest: Path, public_key: Path) -> None:
    """Configure what a fresh server has: a network, and an SSH key for root."""
    (guest / "etc/hostname").write_text("virtual\n")
    (guest / "etc/systemd/network/10-wired.network").write_text("[Match]\nName=en*\n[Network]\nDHCP=yes\n")
    (guest / "etc/ssh/sshd_config.d/10-root.conf").write_text("PermitRootLogin prohibit-password\n")
    ssh = guest / "root/.ssh"
    ssh.mkdir(mode=0o700, exist_ok=True)
    shutil.copyfile(public_key, ssh / "authorized_keys")
    (ssh / "authorized_keys").chmod(0o600)
    run(["chroot", guest, "ssh-keygen", "-A"], what="could not make the guest's host keys")
    run(["chroot", guest, "systemctl", "enable", "systemd-networkd"], what="could not enable the guest's network")
