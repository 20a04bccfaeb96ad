"""A box whose Python is too old: uv installs a newer one from the declared mirror, or one message says why it cannot.

A box without any Python is covered by all other tests, because the fresh box has none. A rehearsal cannot reach GitHub,
which hosts uv's Python builds, so the mirror's archive contains the box's own Python under the name of the real build.
uv, the mirror, the sha256 check and the programs that run on the installed Python are real.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import PurePosixPath

import pytest
from llamarig.items.python import PYTHON_DOWNLOADS, UV_PYTHON

from tests.box.deployment import Deployment
from tests.box.rehearse import chat

pytestmark = pytest.mark.box

MIRROR = "/srv/pythons"
SHARD = "$(find /var/lib/llamarig/models -name '*-00002-of-00003.gguf')"
REPLACE_PYTHON = """
dpkg-divert --quiet --local --rename --divert /usr/bin/python3.distribution --add /usr/bin/python3
printf '#!/bin/sh\\necho version=3.8\\n' >/usr/bin/python3 && chmod 755 /usr/bin/python3 && rm /opt/llamarig/bin/python3
"""
RESTORE_PYTHON = f"""
rm -rf /usr/bin/python3 /opt/llamarig/cpython {MIRROR} /etc/uv
dpkg-divert --quiet --local --rename --remove /usr/bin/python3
"""
# With the layout of uv's archives: python/bin, python/lib. Links are resolved, as uv refuses links out of the archive.
MAKE_ARCHIVE = """
set -e; cd $(mktemp -d); mkdir -p python/bin python/lib
version=$(/usr/bin/python3.distribution -c 'import sys; print("python%d.%d" % sys.version_info[:2])')
cp /usr/bin/$version python/bin/; ln -s $version python/bin/python3
cp -rL /usr/lib/$version python/lib/; find python -name __pycache__ -prune -exec rm -r {{}} +
mkdir -p "$(dirname '{archive}')"; tar -czf '{archive}' python; rm -r python; sha256sum <'{archive}' | cut -c1-64
"""


@pytest.fixture
def too_old(variant: Deployment, deployment: Deployment) -> Iterator[Deployment]:
    """A box whose /usr/bin/python3 reports version 3.8, and a declared mirror that is still empty."""
    deployment.shell(REPLACE_PYTHON)
    variant.rig["host"]["python_mirror"] = f"file://{MIRROR}"
    try:
        yield variant
    finally:
        deployment.shell(RESTORE_PYTHON)
        outcome = deployment.run()
        assert outcome.code == 0, str(outcome)
        assert deployment.run().changed == []


def test_uv_installs_a_verified_python_from_the_mirror(too_old: Deployment) -> None:
    empty_mirror = too_old.run()
    assert empty_mirror.code == 1, str(empty_mirror)
    output = empty_mirror.output
    assert (
        "/usr/bin/python3 is Python 3.8 without venv, ensurepip or ssl, llamarig's programs need 3.9 or newer" in output
    )
    assert f"CPython {UV_PYTHON} could not be downloaded from file://{MIRROR}: install a newer python3" in output
    assert 'host_policy(python_mirror="https://...")' in output
    assert "Traceback" not in output
    wanted = re.search(rf"{MIRROR}(/\S+\.tar\.gz)", output)
    assert wanted is not None, output
    assert chat(too_old.address, "Do you still serve?")

    # An archive with another sha256 than the one uv expects is not installed.
    sha256 = too_old.shell(MAKE_ARCHIVE.format(archive=f"{MIRROR}{wanted[1]}"), timeout=120)
    tampered = too_old.run()
    assert tampered.code == 1, str(tampered)
    assert "Hash mismatch" in tampered.output
    assert sha256 in tampered.output
    assert too_old.shell("ls -d /opt/llamarig/cpython/cpython-* /opt/llamarig/bin/python3 2>/dev/null || true") == ""

    # With this sha256 in uv's settings on the box, uv installs the archive, and llamarig's programs run on it.
    expect_archive(too_old, wanted[1], sha256)
    too_old.shell(f"rm -r /opt/llamarig/hub; truncate -s -1000 {SHARD}")
    outcome = too_old.run()
    assert outcome.code == 0, str(outcome)
    assert "Python" in outcome.changed
    for path in ("/opt/llamarig/bin/python3", "/opt/llamarig/hub/bin/python"):
        assert too_old.shell(f"readlink -f {path}").startswith("/opt/llamarig/cpython/cpython-")
    assert chat(too_old.address, "And on the other Python?")
    assert too_old.run().changed == []


def expect_archive(deployment: Deployment, path: str, sha256: str) -> None:
    """Set uv's expected sha256 of the archive at this path of the mirror, in uv's settings on the box."""
    processor = deployment.shell("uname -m")
    major, minor, patch = (int(number) for number in UV_PYTHON.split("."))
    build = {
        "name": "cpython",
        "arch": {"family": processor, "variant": None},
        "os": "linux",
        "libc": "gnu",
        "major": major,
        "minor": minor,
        "patch": patch,
        "prerelease": "",
        "url": f"{PYTHON_DOWNLOADS}{path}",
        "sha256": sha256,
        "variant": None,
        "build": PurePosixPath(path).parts[1],
    }
    deployment.write("/etc/uv/pythons.json", json.dumps({f"cpython-{UV_PYTHON}-linux-{processor}-gnu": build}))
    deployment.write("/etc/uv/uv.toml", 'python-downloads-json-url = "file:///etc/uv/pythons.json"\n')
