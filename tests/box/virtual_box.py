"""The rehearsal box as a virtual machine, where no container can be booted: QEMU with KVM, or emulated.

Neither needs a mount: mmdebstrap makes the file system in one run, llama.cpp is compiled in it by chroot on this
machine's processor (emulated, it would take hours), and mke2fs makes the disk of it. QEMU is Debian 13's, unpacked
beside the box and started through its own dynamic linker, because Debian 12's panics the guest's kernel.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import time
from pathlib import Path

from tests.abilities import REMEDY, Abilities, Choice, abilities, choose
from tests.box import machine, virtual_files
from tests.box.bootstrap import PACKAGES, SUITE, claim_directory, make_keys
from tests.box.compiler_cache import borrowed
from tests.box.host import KEYRING, BoxError, host_environment, remove_tree, require_programs, run, say, tail
from tests.box.live_output import run_live
from tests.box.paths import ADDRESS, Rehearsal

EMULATOR_PACKAGES = ("qemu-system-x86", "seabios", "ipxe-qemu")
# The compilers are what a deploy would install (llamarig.items.packages); it finds them, and the release, in place.
COMPILERS = ("build-essential", "ccache", "cmake", "curl", "dmidecode", "ninja-build", "python3", "python3-venv")
GUEST_PACKAGES = (*PACKAGES, *COMPILERS, "linux-image-cloud-amd64", "initramfs-tools", "udev")
PACKAGE_OF = {
    "mmdebstrap": "mmdebstrap",
    "mke2fs": "e2fsprogs",
    "ssh": "openssh-client",
    "ssh-keygen": "openssh-client",
}

DISK_SIZE = "6G"
EMULATED = "tcg,thread=multi"
"""QEMU's accelerator without KVM."""
MEMORY_MIB = 3072
KVM_SECONDS = 90.0
EMULATED_SECONDS = 420.0

FILE_SYSTEM_MIN, COMPILER_CORE_MIN, DEPLOY_KVM_MIN, DEPLOY_EMULATED_MIN = 5.0, 12.0, 3.0, 12.0
"""Minutes with a fast mirror: making the file system, compiling (divided by the cores), the rest."""


def up_here(rehearsal: Rehearsal) -> None:
    """Start the box as what this machine can boot; say what is missing for a container where it is none.

    :raises BoxError: where neither can be booted, or with what failed
    """
    found = abilities()
    choice = choose(found)
    if choice.kind == "none":
        raise BoxError(f"This machine can boot no box: {choice.reason}.\n{REMEDY}")
    if choice.kind == "container":
        if rehearsal.disk.exists():
            raise BoxError(_other_kind(rehearsal, "a virtual machine"))
        machine.up(rehearsal)
    else:
        if rehearsal.root.exists():
            raise BoxError(_other_kind(rehearsal, "a container"))
        up(rehearsal, found, choice)


def up(rehearsal: Rehearsal, found: Abilities, choice: Choice) -> None:
    """Make the virtual machine where it is missing, start it, and return when systemd has started everything.

    :raises BoxError: with the end of a log
    """
    require_programs(PACKAGE_OF)
    claim_directory(rehearsal)
    with machine.exclusive(rehearsal):
        if machine.is_up(rehearsal):
            say("The box is already up, in a virtual machine.")
            return
        say(f"{choice.reason[0].upper()}{choice.reason[1:]}.")
        is_made = _kernel(rehearsal).exists()
        say(estimate(found, cores=os.cpu_count() or 1, is_made=is_made))
        machine.check_port(rehearsal)
        make_keys(rehearsal)
        if not is_made:
            make(rehearsal)
        _start(rehearsal, kvm=found.kvm)


def estimate(found: Abilities, *, cores: int, is_made: bool) -> str:
    """What is done instead of a container, and how long it takes."""
    minutes = DEPLOY_KVM_MIN if found.kvm else DEPLOY_EMULATED_MIN
    if not is_made:
        minutes += FILE_SYSTEM_MIN + COMPILER_CORE_MIN / cores
    how = "with KVM" if found.kvm else "emulated, since /dev/kvm cannot be used"
    emulated = f", {minutes - DEPLOY_KVM_MIN + DEPLOY_EMULATED_MIN:.0f} where KVM does not work" if found.kvm else ""
    return f"Rehearsing in a virtual machine ({how}): about {minutes:.0f} minutes{emulated}."


def make(rehearsal: Rehearsal) -> None:
    """Unpack QEMU and make kernel, initrd and disk; the compiler's cache is that of all boxes.

    :raises BoxError: with the end of mmdebstrap's log
    """
    tools = _tools(rehearsal)
    if not tools.exists():
        _unpack_emulator(rehearsal, tools)
    # The kernel is written last: where it is there, everything is.
    rehearsal.disk.touch()
    files = rehearsal.directory / "files.tar"
    virtual_files.write(files, rehearsal)
    initrd, kernel = _initrd(rehearsal), _kernel(rehearsal)
    kernel_part = kernel.with_suffix(".part")
    with borrowed(rehearsal.build_cache, rehearsal.directory / "ccache") as own, rehearsal.disk.open("r+b") as disk:
        cache = shlex.quote(str(own))
        # In a user namespace this file is another user's, in directories that are closed to it.
        rehearsal.disk.chmod(0o666)
        hooks = [
            f"tar-in {shlex.quote(str(files))} /",
            'mkdir -p "$1/var/cache/llamarig"',
            f"sync-in {cache} /var/cache/llamarig",
            # What was compiled is kept even if a later step fails.
            f'chroot "$1" sh -eu {virtual_files.SCRIPT} || touch "$1/failed"',
            f"sync-out /var/cache/llamarig {cache}",
            'test ! -e "$1/failed"',
            'rm -rf "$1/var/cache/llamarig" "$1/root/rehearsal"',
            f"download /initrd.img {shlex.quote(str(initrd))}",
            f"download /vmlinuz {shlex.quote(str(kernel_part))}",
            make_file_system(disk.fileno()),
        ]
        say("Making the virtual machine's file system; llama.cpp is compiled in it, on this machine's processor...")
        words = ["--variant=minbase", f"--include={','.join(GUEST_PACKAGES)}", "--format=null"]
        words += [f"--customize-hook={hook}" for hook in hooks]
        _mmdebstrap(rehearsal, words, "-", "Root file system", pass_fds=(disk.fileno(),))
    rehearsal.disk.chmod(0o600)
    files.unlink()
    kernel_part.rename(kernel)


def make_file_system(descriptor: int) -> str:
    """The hook that makes the disk of the directory "$1".

    In a user namespace mmdebstrap has mounted /proc there, parts of which nobody may read: a bind mount leaves it out.
    Root without CAP_SYS_ADMIN can mount nothing, and neither has mmdebstrap then.
    """
    mke2fs = f"mke2fs -q -F -t ext4 /proc/self/fd/{descriptor} {DISK_SIZE} -d"
    without_mounts = f'mount --bind "$1" /mnt && {mke2fs} /mnt'
    return f'if unshare --mount true; then unshare --mount sh -ec \'{without_mounts}\' sh "$1"; else {mke2fs} "$1"; fi'


def shown(line: str) -> str | None:
    """A line of mmdebstrap's output as the user sees it; None for most."""
    if match := re.match(r"\[(\d+)/(\d+)\] ", line):
        done, total = int(match[1]), int(match[2])
        return f"    compiling llama.cpp: {done}/{total} objects ({100 * done // total} %)"
    if re.match(r"I: (running apt-get update|(downloading|extracting|installing) )", line):
        return f"    {line.removeprefix('I: ')}"
    return None


def _mmdebstrap(rehearsal: Rehearsal, words: list[str], target: str, operation: str, **options: object) -> None:
    argv = ["mmdebstrap", *words, f"--keyring={KEYRING}", SUITE, target]
    with rehearsal.bootstrap_log.open("w") as log:

        def seen(line: str) -> str | None:
            log.write(f"{line}\n")
            log.flush()
            return shown(line)

        # The file system of 1.5 GB is made in a temporary directory, and /tmp may be in RAM.
        temporary = os.environ.get("TMPDIR", "/var/tmp")
        environment = host_environment({"DEBIAN_FRONTEND": "noninteractive", "TMPDIR": temporary})
        status = run_live(
            argv,
            cwd=rehearsal.directory,
            operation=operation,
            shown=seen,
            env=environment,
            stdin=subprocess.DEVNULL,
            **options,
        )
    if status:
        log_end = tail(rehearsal.bootstrap_log)
        raise BoxError(f"mmdebstrap could not make the virtual machine; {rehearsal.bootstrap_log} ends:\n{log_end}")


def _unpack_emulator(rehearsal: Rehearsal, tools: Path) -> None:
    say("Fetching QEMU of Debian 13 (about 50 MB)...")
    archive, part = tools.with_suffix(".tar"), tools.with_suffix(".part")
    words = ["--variant=extract", f"--include={','.join(EMULATOR_PACKAGES)}"]
    _mmdebstrap(rehearsal, words, str(archive), "QEMU")
    if part.exists():
        remove_tree(part)
    part.mkdir()
    # Without the device files, which an ordinary user may not make.
    unpack = ["tar", "--extract", "--file", str(archive), "--directory", str(part), "--exclude=./dev/*"]
    run([*unpack, "--no-same-owner"], what="could not unpack QEMU")
    archive.unlink()
    part.rename(tools)


def _start(rehearsal: Rehearsal, *, kvm: bool) -> None:
    """Start with KVM if `kvm` is set; emulate where it does not work, as in some virtual machines."""
    began = time.monotonic()
    attempts = [("kvm", "with KVM", KVM_SECONDS)] if kvm else []
    attempts.append((EMULATED, "emulated", EMULATED_SECONDS))
    for index, (accelerator, how, seconds) in enumerate(attempts):
        say(f"Starting the virtual machine, {how}...")
        machine.spawn(rehearsal, emulator_argv(rehearsal, accelerator), emulator_environment(rehearsal))
        try:
            state = machine.wait_until_ready(rehearsal, deadline=time.monotonic() + seconds)
        except BaseException as error:
            machine.kill(rehearsal)
            if not isinstance(error, BoxError) or index == len(attempts) - 1:
                raise
            say(f"KVM does not work here: {str(error).splitlines()[0]}")
        else:
            say(f"The box is up ({state}) after {time.monotonic() - began:.1f} s.")
            return


LIBRARIES = "usr/lib/x86_64-linux-gnu"


def emulator_argv(rehearsal: Rehearsal, accelerator: str) -> list[str]:
    """QEMU's command line: the box's ports are forwarded from this machine's loopback address."""
    tools = _tools(rehearsal)
    ports = {rehearsal.port: rehearsal.port, rehearsal.model_port: virtual_files.outer_model_port(rehearsal)}
    forwarded = ",".join(
        f"hostfwd=tcp:{ADDRESS}:{port}-{virtual_files.GUEST}:{guests}" for port, guests in ports.items()
    )
    return [
        *(str(tools / "usr/lib64/ld-linux-x86-64.so.2"), "--library-path", str(tools / LIBRARIES)),
        str(tools / "usr/bin/qemu-system-x86_64"),
        *("-L", str(tools / "usr/share/qemu"), "-L", str(tools / "usr/share/seabios")),
        *("-accel", accelerator, "-cpu", "max", "-smp", str(os.cpu_count() or 1), "-m", str(MEMORY_MIB)),
        *("-display", "none", "-serial", "stdio", "-no-reboot"),
        *("-kernel", str(_kernel(rehearsal)), "-initrd", str(_initrd(rehearsal))),
        *("-append", "root=/dev/vda rw console=ttyS0 quiet mitigations=off"),
        *("-drive", machine.disk_option(rehearsal)),
        *("-netdev", f"user,id=net,{forwarded}", "-device", "virtio-net-pci,netdev=net,romfile="),
    ]


def emulator_environment(rehearsal: Rehearsal) -> dict[str, str]:
    """The environment of QEMU's process."""
    path, modules = host_environment()["PATH"], _tools(rehearsal) / LIBRARIES / "qemu"
    return {"PATH": path, "LANG": "C.UTF-8", "QEMU_MODULE_DIR": str(modules)}


def _tools(rehearsal: Rehearsal) -> Path:
    return rehearsal.directory / "qemu"


def _kernel(rehearsal: Rehearsal) -> Path:
    return rehearsal.directory / "vmlinuz"


def _initrd(rehearsal: Rehearsal) -> Path:
    return rehearsal.directory / "initrd.img"


def _other_kind(rehearsal: Rehearsal, kind: str) -> str:
    return (
        f"{rehearsal.directory} holds the box as {kind}, which this process does not boot here.\n"
        "Run: python3 -m tests.box destroy, or set LLAMARIG_REHEARSAL_DIR to another directory."
    )
