"""The web UI: its pages are compiled on the box from the lock of the pinned source, and a message is answered in them.

npm loads what the lock names from the registry that the box's npm is configured with.
"""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections.abc import Iterator
from html import unescape
from pathlib import Path

import pytest

from tests.box.deployment import Deployment
from tests.box.refusals import refusal

pytestmark = [pytest.mark.box, pytest.mark.long]

BUILD_S = 3600
ANSWER_S = 120
ANSWER = re.compile(r'aria-label="Assistant message with actions".*?</p>', re.DOTALL)


@pytest.fixture
def other_build(variant: Deployment) -> Iterator[Deployment]:
    """A variant with a build of its own, which is deleted afterwards."""
    variant.rig["models"][0]["serve"]["web_ui"] = True
    before = variant.shell("ls /opt/llamarig/llama.cpp").split()
    yield variant
    variant.shell(
        f"cd /opt/llamarig/llama.cpp && ls | grep -vxF '{chr(10).join(before)}' | while read -r release; do "
        'rm -rf "$release" "/var/lib/llamarig/work/$release"; done',
        timeout=300,  # the pages' packages are many small files
    )


def page(url: str, profile: Path) -> str:
    """The page's elements once its scripts and requests have come to rest."""
    command = [
        "chromium",
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--no-first-run",
        "--no-proxy-server",
        f"--user-data-dir={profile}",
        "--virtual-time-budget=30000",
        "--dump-dom",
        url,
    ]
    home = {name: str(profile) for name in ("HOME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME")}
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **home}, timeout=ANSWER_S)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_message_is_answered_in_the_web_ui(other_build: Deployment, tmp_path: Path) -> None:
    outcome = other_build.run(timeout=BUILD_S)
    assert outcome.code == 0, str(outcome)
    assert "compiling the pages of the web UI" in outcome.output
    # The UI sends the message that its address names.
    until = time.monotonic() + ANSWER_S
    while not (found := ANSWER.search(shown := page(f"{other_build.address}/?q=Hello", tmp_path / "profile"))):
        assert time.monotonic() < until, shown
    assert re.sub(r"<[^>]*>", "", unescape(found[0])).strip()


def test_a_box_whose_node_is_too_old_is_refused_before_it_builds(other_build: Deployment) -> None:
    other_build.write("/usr/local/bin/node", "#!/bin/sh\necho v18.19.1\n")
    other_build.shell("chmod +x /usr/local/bin/node")
    try:
        outcome = other_build.run()
    finally:
        other_build.shell("rm /usr/local/bin/node")
    refusal(outcome, "build cpu", "Node.js 18.19.1 is installed", "nothing was built")
    assert "compiling" not in outcome.output


def test_a_registry_that_is_not_reached_fails_the_build_in_words(other_build: Deployment) -> None:
    other_build.write("/etc/npmrc", "registry=http://127.0.0.1:9/\n")
    try:
        outcome = other_build.run(timeout=BUILD_S)
    finally:
        other_build.shell("rm /etc/npmrc")
    refusal(outcome, "the pages of the web UI could not be compiled", "/etc/npmrc", "leave web_ui out")
