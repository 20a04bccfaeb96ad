"""What the rehearsal's virtual machine has beside packages: keys, network, proxies, and the release's build."""

from __future__ import annotations

import io
import re
import tarfile
from pathlib import Path

from tests.box.bootstrap import (
    APT_PROXY,
    HOST_CERTIFICATES,
    MANAGER_PROXY,
    apt_proxies,
    manager_proxies,
    proxies_of_host,
    sshd_settings,
)
from tests.box.paths import ADDRESS, HOSTNAME, Rehearsal

GUEST, HOST, RESOLVER = "10.0.2.15", "10.0.2.2", "10.0.2.3"
"""Addresses of QEMU's user network."""
BUILD = "root/rehearsal"
SCRIPT = f"/{BUILD}/prepare.sh"

_FORWARD = """\
[Socket]
ListenStream={listen}
FreeBind=yes

[Install]
WantedBy=sockets.target
"""
_FORWARDED = """\
[Service]
ExecStart=/usr/lib/systemd/systemd-socket-proxyd {to}
"""


def write(archive: Path, rehearsal: Rehearsal) -> None:
    """Write the files as a tar archive to unpack in the guest's root."""
    with tarfile.open(archive, "w") as tar:
        for directory, mode in (("root/.ssh", 0o700), (BUILD, 0o755)):
            entry = tarfile.TarInfo(directory)
            entry.type, entry.mode = tarfile.DIRTYPE, mode
            tar.addfile(entry)
        for name, (content, mode) in files(rehearsal).items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), mode
            tar.addfile(entry, io.BytesIO(content))


def files(rehearsal: Rehearsal) -> dict[str, tuple[bytes, int]]:
    """Path in the guest -> content and mode."""
    texts = {
        "etc/hostname": f"{HOSTNAME}\n",
        "etc/hosts": f"127.0.0.1 localhost\n127.0.1.1 {HOSTNAME}\n::1 localhost ip6-localhost\n",
        # Of this machine, for the build; the script replaces it.
        "etc/resolv.conf": Path("/etc/resolv.conf").read_text(),
        "etc/ssh/ssh_host_ed25519_key.pub": rehearsal.host_key.with_suffix(".pub").read_text(),
        "etc/ssh/sshd_config.d/00-rehearsal.conf": sshd_settings(rehearsal, "0.0.0.0"),
        "etc/systemd/network/10-wired.network": "[Match]\nName=en*\n[Network]\nDHCP=yes\n",
        **_forwards(rehearsal),
        **_proxies(),
        **_build(rehearsal),
    }
    found = {name: (text.encode(), 0o644) for name, text in texts.items()}
    found["etc/ssh/ssh_host_ed25519_key"] = rehearsal.host_key.read_bytes(), 0o600
    found["root/.ssh/authorized_keys"] = rehearsal.public_key.read_bytes(), 0o600
    for certificate in HOST_CERTIFICATES.glob("*.crt"):
        found[f"usr/local/share/ca-certificates/host/{certificate.name}"] = certificate.read_bytes(), 0o644
    return found


def outer_model_port(rehearsal: Rehearsal) -> int:
    """Where the guest passes requests from outside on to the model, which listens on loopback.

    Not the model's own port: a deploy refuses a port that another program has.
    """
    return rehearsal.model_port + 1


def _forwarded(rehearsal: Rehearsal) -> dict[str, tuple[str, str]]:
    """Unit -> where it listens and what it connects to: the Hub of this machine, and the model as if from outside."""
    hub, second, model = rehearsal.hub_port, rehearsal.hub_port + 1, rehearsal.model_port
    return {
        "rehearsal-hub": (f"{ADDRESS}:{hub}", f"{HOST}:{hub}"),
        "rehearsal-hub-files": (f"{ADDRESS}:{second}", f"{HOST}:{second}"),
        "rehearsal-model": (f"{GUEST}:{outer_model_port(rehearsal)}", f"{ADDRESS}:{model}"),
    }


def _forwards(rehearsal: Rehearsal) -> dict[str, str]:
    units = {}
    for name, (listen, to) in _forwarded(rehearsal).items():
        units[f"etc/systemd/system/{name}.socket"] = _FORWARD.format(listen=listen)
        units[f"etc/systemd/system/{name}.service"] = _FORWARDED.format(to=to)
    return units


def _proxies() -> dict[str, str]:
    # A proxy of this machine's loopback address has another one in the guest.
    proxies = {
        name: value if name == "no_proxy" else re.sub(r"(?<=//)(127\.0\.0\.1|localhost)(?=[:/]|$)", HOST, value)
        for name, value in proxies_of_host().items()
    }
    texts = {
        "etc/environment": "".join(f"{name}={value}\n" for name, value in proxies.items()),
        APT_PROXY: apt_proxies(proxies),
        MANAGER_PROXY: manager_proxies(proxies),
    }
    return {name: text for name, text in texts.items() if text}


def _build(rehearsal: Rehearsal) -> dict[str, str]:
    """The program that a deploy runs to build a release, its job, and the script that starts it."""
    # `python3 -m tests.box` reaches and destroys a box without the packages of .venv.
    from llamarig.declare.rig import Rig
    from llamarig.engine.jobs import job_text
    from llamarig.render.release import build_job

    from tests.box.deployment import REPOSITORY_ROOT, rehearsal_rig

    rig = Rig.model_validate(rehearsal_rig(rehearsal))
    package = REPOSITORY_ROOT / "tasks"
    sources = [package / "llamarig/__init__.py", *sorted((package / "llamarig/remote").rglob("*.py"))]
    (build,) = rig.builds
    job = build_job(build, rig.models)
    return {
        f"{BUILD}/job.json": job_text(job),
        SCRIPT[1:]: _script(rehearsal, job.release),
        **{f"{BUILD}/{source.relative_to(package)}": source.read_text() for source in sources},
    }


def _script(rehearsal: Rehearsal, release: str) -> str:
    """What is done in the guest's root, by chroot, before it boots. Its proxies are this machine's."""
    sockets = " ".join(f"{name}.socket" for name in _forwarded(rehearsal))
    return f"""\
export PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8 HOME=/root
unset SSL_CERT_FILE REQUESTS_CA_BUNDLE
update-ca-certificates --fresh >/dev/null
systemctl enable systemd-networkd {sockets}
mkdir -p /opt/llamarig/llama.cpp /var/lib/llamarig/work
# Without /proc, the dynamic linker does not know $ORIGIN.
test -e /proc/self/exe || export LD_LIBRARY_PATH={release}.part/bin
cd /{BUILD}
python3 -B -m llamarig.remote.build.build_release /{BUILD}
rm -rf /var/lib/llamarig
echo 'nameserver {RESOLVER}' >/etc/resolv.conf
"""
