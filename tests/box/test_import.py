"""Model files that already lie on the box are taken from there in a real deploy, and nothing of them is downloaded."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.box.deployment import Deployment
from tests.box.hub import Hub
from tests.box.local_hub import REPOSITORY
from tests.box.refusals import lines
from tests.box.rehearse import chat
from tests.box.second_model import STORE

pytestmark = pytest.mark.box

MINE = "/srv/mine"
FIRST = "Tiny-Qwen3-Next-F16-00001-of-00003.gguf"
CACHE = "/home/me/.cache/huggingface"
SNAPSHOT = f"{CACHE}/hub/models--llamarig--tiny/snapshots/abc"


@pytest.fixture
def scattered(variant: Deployment, deployment: Deployment, hub: Hub) -> Iterator[Deployment]:
    """The shards of the model lie elsewhere: one is root's, one is in a user's cache of the Hub, one is the user's."""
    deployment.shell(
        f"id me 2>/dev/null || useradd -m me; systemctl stop llamarig-tiny; mkdir -p {MINE} {SNAPSHOT} {CACHE}/blobs; "
        f"cd {STORE}/{REPOSITORY}/*/F16; mv *-00001-of-* {MINE}/renamed.gguf; chmod 644 {MINE}/renamed.gguf; "
        f"chown root:root {MINE}/renamed.gguf; mv *-00002-of-* {CACHE}/blobs/2; mv *-00003-of-* {MINE}/; "
        f"ln -s ../../../../blobs/2 {SNAPSHOT}/two.gguf; chown -R me:me {CACHE} {MINE}/*-00003-of-*; "
        "rm .*.verified.json"
    )
    variant.rig["models"][0]["import_from"] = [MINE, CACHE]
    hub.log.clear()
    yield variant
    deployment.shell(f"rm -rf {MINE} {CACHE}")
    outcome = deployment.run()
    assert outcome.code == 0, str(outcome)


def sent(hub: Hub) -> int:
    """Bytes of model files that were downloaded."""
    return sum(request.bytes_sent for request in hub.log.requests() if request.origin == "cdn")


def inode(deployment: Deployment, path: str) -> str:
    return deployment.shell(f"stat -c %i {path}")


@pytest.mark.parametrize("by", ["copy", "move"])
def test_files_that_lie_on_the_box_are_not_downloaded(by: str, scattered: Deployment, hub: Hub) -> None:
    scattered.rig["models"][0]["import_by"] = by
    outcome = scattered.run()
    assert outcome.code == 0, str(outcome)
    assert sent(hub) == 0
    assert "files on the box:" in outcome.output
    assert chat(scattered.address, "Are you there?")
    shards = f"{STORE}/{REPOSITORY}/*/F16"
    assert scattered.shell(f"stat -c '%U %a' {shards}/*-00002-of-*") == "root 640"
    left = scattered.shell(f"find {MINE} {CACHE} -type f | sort").splitlines()
    if by == "move":
        assert left == []
    else:
        assert len(left) == 3
        # A file of the user's has bytes of its own in the store.
        assert inode(scattered, f"{shards}/*-00003-of-*") != inode(scattered, f"{MINE}/*-00003-of-*")
    assert scattered.run().changed == []


def test_a_file_that_is_not_there_is_downloaded(scattered: Deployment, hub: Hub) -> None:
    scattered.shell(f"rm {CACHE}/blobs/2; printf x >>{MINE}/renamed.gguf")
    outcome = scattered.run()
    assert outcome.code == 0, str(outcome)
    assert "2 of 3 not found there, and downloaded" in outcome.output
    assert sent(hub) > 0


def test_a_link_in_the_store_is_one_message(scattered: Deployment) -> None:
    scattered.rig["models"][0]["import_from"] = []
    scattered.shell(f"cd {STORE}/{REPOSITORY}/*/F16; ln -s {MINE}/renamed.gguf {FIRST}")
    try:
        outcome = scattered.run()
        assert outcome.code != 0
        (message,) = [line for line in lines(outcome) if "is a link to" in line]
        assert f"is a link to {MINE}/renamed.gguf" in message
        assert "declare the directory that it leads to as the model's import_from" in message
    finally:
        scattered.shell(f"find {STORE}/{REPOSITORY} -type l -delete")
