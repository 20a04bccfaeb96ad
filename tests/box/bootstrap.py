"""Make the rehearsal box's file system, and copy the host's settings into it before every start."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from tests.box.host import KEYRING, BoxError, check_host, host_environment, remove_tree, run, say, tail
from tests.box.paths import ADDRESS, HOSTNAME, Rehearsal

SUITE = "trixie"

# What a fresh Debian server has at its first SSH login; llamarig installs everything else. Python is left out because
# many images lack it.
PACKAGES = (
    "systemd",
    "systemd-sysv",
    "dbus",
    "openssh-server",
    "ca-certificates",
    "iproute2",
    "procps",
    "sudo",
    "git",
)

HOST_CERTIFICATES = Path("/usr/local/share/ca-certificates")
PROXY_VARIABLES = ("http_proxy", "https_proxy", "no_proxy")
APT_PROXY = "etc/apt/apt.conf.d/95rehearsal-proxy"
MANAGER_PROXY = "etc/systemd/system.conf.d/95-rehearsal-proxy.conf"


def bootstrap(rehearsal: Rehearsal, *, seed: Path | None = None) -> None:
    """Make the box's file system from Debian's mirror if there is none yet: about 30 s and 350 MB.

    `seed`: the file system of a stopped box to copy instead, which needs no network.
    Raises BoxError if the host lacks something, or with the end of mmdebstrap's log.
    """
    check_host()
    claim_directory(rehearsal)
    if rehearsal.root.is_dir():
        return
    unfinished = rehearsal.unfinished_root
    if unfinished.exists():
        say("Removing what an interrupted bootstrap left.")
        remove_tree(unfinished)
    if seed is None:
        say(f"Bootstrapping Debian 13 into {rehearsal.root} (about 30 s)...")
        _mmdebstrap(unfinished, rehearsal.bootstrap_log)
    else:
        say(f"Copying {seed} to {rehearsal.root}...")
        run(
            ["cp", "-a", "--reflink=auto", "--one-file-system", "--", seed, unfinished],
            what=f"could not copy {seed}",
        )
    _write(unfinished / "etc/hostname", f"{HOSTNAME}\n")
    _write(unfinished / "etc/hosts", f"127.0.0.1 localhost\n127.0.1.1 {HOSTNAME}\n::1 localhost ip6-localhost\n")
    unfinished.rename(rehearsal.root)


def claim_directory(rehearsal: Rehearsal) -> None:
    """Create the state directory, or make sure that it is one of ours.

    Raises BoxError for a directory with other things in it.
    """
    directory = rehearsal.directory
    if rehearsal.marker.exists():
        return
    if directory.exists() and any(directory.iterdir()):
        raise BoxError(
            f"{directory} holds other things than a rehearsal box.\n"
            "Set LLAMARIG_REHEARSAL_DIR to a directory that does not exist yet."
        )
    directory.mkdir(parents=True, exist_ok=True)
    directory.chmod(0o700)
    rehearsal.marker.write_text("llamarig made this directory and may delete it with everything in it.\n")


def prepare(rehearsal: Rehearsal) -> None:
    """Bring into the box what depends on this host: keys, port, certificates, proxies, resolver.

    Done before every start and on every `up`; writes only what differs.
    """
    make_keys(rehearsal)
    _prepare_ssh(rehearsal)
    root = rehearsal.root
    resolver = Path("/etc/resolv.conf")
    if resolver.exists():
        _write(root / "etc/resolv.conf", resolver.read_text())
    _prepare_certificates(root)
    _prepare_proxies(root)


def _mmdebstrap(target: Path, log: Path) -> None:
    argv = [
        "mmdebstrap",
        "--variant=minbase",
        f"--include={','.join(PACKAGES)}",
        # An older Debian or another distribution lacks the suite's keys among its trusted ones.
        f"--keyring={KEYRING}",
        SUITE,
        str(target),
    ]
    with log.open("w") as output:
        done = subprocess.run(
            argv,
            env=host_environment({"DEBIAN_FRONTEND": "noninteractive"}),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            check=False,
        )
    if done.returncode:
        raise BoxError(f"mmdebstrap could not make the box; {log} ends:\n{tail(log)}")


def make_keys(rehearsal: Rehearsal) -> None:
    """Make the key that logs in and the host key where they are missing, and write known_hosts."""
    for key, comment in ((rehearsal.key, "llamarig rehearsal"), (rehearsal.host_key, HOSTNAME)):
        if not key.exists():
            run(
                ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", key],
                what=f"could not make {key}",
            )
    public_host_key = rehearsal.host_key.with_name(rehearsal.host_key.name + ".pub").read_text()
    _write(rehearsal.known_hosts, f"[{ADDRESS}]:{rehearsal.port} {public_host_key}")


def sshd_settings(rehearsal: Rehearsal, address: str) -> str:
    """Settings of the box's sshd, which listens on the box's port of ``address``."""
    return (
        f"ListenAddress {address}\n"
        f"Port {rehearsal.port}\n"
        # Offer only the key that is in known_hosts.
        "HostKey /etc/ssh/ssh_host_ed25519_key\n"
        "PermitRootLogin prohibit-password\n"
        "PasswordAuthentication no\n"
        "KbdInteractiveAuthentication no\n"
    )


def _prepare_ssh(rehearsal: Rehearsal) -> None:
    etc_ssh = rehearsal.root / "etc/ssh"
    _write(etc_ssh / "ssh_host_ed25519_key", rehearsal.host_key.read_text(), mode=0o600)
    _write(etc_ssh / "ssh_host_ed25519_key.pub", rehearsal.host_key.with_suffix(".pub").read_text())
    _write(etc_ssh / "sshd_config.d/00-rehearsal.conf", sshd_settings(rehearsal, ADDRESS))
    dot_ssh = rehearsal.root / "root/.ssh"
    dot_ssh.mkdir(mode=0o700, exist_ok=True)
    _write(dot_ssh / "authorized_keys", rehearsal.public_key.read_text(), mode=0o600)


def _prepare_certificates(root: Path) -> None:
    """Copy the host's local CA certificates, such as that of a proxy that inspects TLS, into the box."""
    directory = root / "usr/local/share/ca-certificates/host"
    wanted = {path.name: path.read_bytes() for path in HOST_CERTIFICATES.glob("*.crt")}
    present = {path.name: path.read_bytes() for path in directory.glob("*.crt")} if directory.is_dir() else {}
    if wanted == present:
        return
    if directory.exists():
        shutil.rmtree(directory)
    directory.mkdir(parents=True)
    directory.chmod(0o755)  # regardless of the umask: every user of the box reads the certificates
    for name, content in wanted.items():
        (directory / name).write_bytes(content)
        (directory / name).chmod(0o644)
    try:
        run(
            ["chroot", root, "update-ca-certificates", "--fresh"],
            what="could not make the box trust this host's certificates",
            # The host's SSL_CERT_FILE and the like name files that the box does not have.
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"},
        )
    except BoxError:
        shutil.rmtree(directory)  # otherwise the next run would take them for installed
        raise


def proxies_of_host() -> dict[str, str]:
    """The proxy variables of this process, in lower case."""
    return {name: value for name in PROXY_VARIABLES if (value := os.environ.get(name) or os.environ.get(name.upper()))}


def apt_proxies(proxies: Mapping[str, str]) -> str:
    """apt's configuration for these proxies; empty without any."""
    return "".join(
        f'Acquire::{name.removesuffix("_proxy")}::Proxy "{value}";\n'
        for name, value in proxies.items()
        if name != "no_proxy"
    )


def manager_proxies(proxies: Mapping[str, str]) -> str:
    """systemd's configuration for these proxies: builds and downloads are units, which do not read /etc/environment."""
    assignments = " ".join(f'"{name}={value.replace("%", "%%")}"' for name, value in proxies.items())
    return f"[Manager]\nDefaultEnvironment={assignments}\n" if proxies else ""


def _prepare_proxies(root: Path) -> None:
    """Pass the host's proxy variables to logins, to apt, and to units started by systemd."""
    proxies = proxies_of_host()
    environment = root / "etc/environment"
    lines = environment.read_text().splitlines() if environment.is_file() and not environment.is_symlink() else []
    kept = [line for line in lines if line.partition("=")[0] not in PROXY_VARIABLES]
    text = "".join(f"{line}\n" for line in [*kept, *(f"{name}={value}" for name, value in proxies.items())])
    if lines or text:
        _write(environment, text)
    _write_or_remove(root / APT_PROXY, apt_proxies(proxies))
    _write_or_remove(root / MANAGER_PROXY, manager_proxies(proxies))


def _write_or_remove(path: Path, text: str) -> None:
    if text:
        _write(path, text)
    else:
        path.unlink(missing_ok=True)


def _write(path: Path, text: str, *, mode: int = 0o644) -> None:
    """Write a file by rename if it differs: following a symlink made in the box could overwrite a file of the host."""
    if not path.is_symlink() and path.is_file() and path.read_text() == text:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.new")
    fresh.unlink(missing_ok=True)
    fresh.touch(mode=mode)
    fresh.chmod(mode)
    fresh.write_text(text)
    fresh.replace(path)
