"""A source archive named by its package: from the index of the box's own pip, and of the declared commit."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.box.deployment import Deployment
from tests.box.refusals import keeps_serving, refusal

pytestmark = pytest.mark.box

OTHER = "1" * 40
INDEX, PORT = "/srv/index", 8099


@pytest.fixture
def other_build(deployment: Deployment, tmp_path: Path) -> Iterator[Deployment]:
    """A variant that declares another commit than its archive is of."""
    with keeps_serving(deployment, tmp_path / "variant") as variant:
        variant.rig["builds"][0]["source"]["commit"] = OTHER
        yield variant
        variant.shell(f"rm -rf /var/lib/llamarig/work/{OTHER}-*")


def refused(variant: Deployment) -> None:
    line = refusal(variant.run(), "build cpu", "the archive is of llama.cpp")
    assert f"declared {OTHER}" in line
    assert variant.shell(f"ls -d /opt/llamarig/llama.cpp/{OTHER}* 2>/dev/null || true") == ""


def test_an_archive_of_another_commit_is_not_built(other_build: Deployment) -> None:
    refused(other_build)


def test_the_archive_comes_from_the_index_that_the_boxs_pip_is_configured_with(other_build: Deployment) -> None:
    source = other_build.rig["builds"][0]["source"]
    assert source["package"] == "llama-cpp-python"
    cached = f"/var/cache/llamarig/sources/{source['sha256']}"
    file = f"{INDEX}/llama-cpp-python/llama_cpp_python-{source['version']}.tar.gz"
    other_build.shell(
        f"mkdir -p {INDEX}/llama-cpp-python && mv {cached} {file} && cp -p /etc/environment /etc/environment.before; "
        f"echo PIP_INDEX_URL=http://127.0.0.1:{PORT}/ >>/etc/environment; "
        f"systemd-run --quiet --unit=test-index python3 -m http.server --bind 127.0.0.1 --directory {INDEX} {PORT}"
    )
    try:
        refused(other_build)
        requests = other_build.shell("journalctl -u test-index -o cat --no-pager")
        assert f"GET /llama-cpp-python/{Path(file).name} " in requests
        assert other_build.shell(f"sha256sum <{cached}").startswith(source["sha256"])
    finally:
        other_build.shell(
            f"systemctl stop test-index; test -e {cached} || mv {file} {cached}; rm -rf {INDEX}; "
            "test ! -e /etc/environment.before || mv /etc/environment.before /etc/environment"
        )
