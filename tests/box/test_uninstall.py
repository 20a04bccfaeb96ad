"""A box is taken back: everything is listed, and nothing is left but what is the owner's."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.box.deployment import Deployment

pytestmark = pytest.mark.box

SCRIPT = "tasks/uninstall.py"
OURS = (
    "ls -d /opt/llamarig /var/lib/llamarig/jobs /etc/systemd/system/llamarig* /etc/sysctl.d/90-llamarig.conf "
    "/etc/systemd/system/*.wants/llamarig* 2>/dev/null; id -u llamarig 2>/dev/null; "
    "systemctl list-units --all --no-legend 'llamarig*' | grep -v not-found"
)


@pytest.fixture
def box(deployment: Deployment) -> Iterator[Deployment]:
    """The box with a cache of its own, since that of all test boxes is mounted into it; deployed again afterwards."""
    deployment.shell("mount -t tmpfs none /var/cache/llamarig && touch /var/cache/llamarig/x")
    yield deployment
    deployment.shell("umount /var/cache/llamarig; rm -rf /etc/llamarig")
    outcome = deployment.run(timeout=1500)
    assert outcome.code == 0, str(outcome)


def test_a_box_is_listed_and_then_taken_back(box: Deployment) -> None:
    box.write("/etc/llamarig/keys/api", "key")
    box.write("/etc/systemd/system/mine.service", "[Service]\nExecStart=/opt/llamarig/llama.cpp/x/bin/llama-server\n")
    before = box.shell(OURS)

    listed = box.run(script=SCRIPT)
    assert listed.code == 0, str(listed)
    assert "unit llamarig-tiny.service: active enabled" in listed.output
    assert "/opt/llamarig/llama.cpp" in listed.output
    assert "user llamarig" in listed.output
    assert "models/llamarig/Tiny" in listed.output
    assert "/etc/llamarig/keys/api is yours, and stays" in listed.output
    assert "of model files; nothing was removed" in listed.output
    assert box.shell(OURS) == before

    refused = box.run("--data", "delete=box", script=SCRIPT)
    assert refused.code != 0
    assert "mine.service uses files of llamarig's on this box" in refused.output
    assert box.shell(OURS) == before
    box.shell("rm /etc/systemd/system/mine.service")

    models = box.shell("find /var/lib/llamarig/models -name '*.gguf' | sort")
    removed = box.run("--data", "delete=box", script=SCRIPT)
    assert removed.code == 0, str(removed)
    assert "removed everything but model files; " in removed.output
    assert box.shell(f"{OURS}; true") == ""
    assert box.shell("find /var/lib/llamarig -type f -name '*.gguf' | sort") == models
    assert box.shell("ls /var/cache/llamarig") == ""
    assert box.shell("cat /etc/llamarig/keys/api") == "key"

    again = box.run(script=SCRIPT)
    assert again.code == 0, str(again)
    # Those of the tiny model, and any that earlier tests have left.
    names = {line.split("GiB  ")[1].partition(":")[0] for line in again.output.splitlines() if "GiB  models/" in line}
    gone = box.run("--data", f"delete={','.join(['box', *sorted(names)])}", script=SCRIPT)
    assert gone.code == 0, str(gone)
    assert box.shell("ls -d /var/lib/llamarig 2>/dev/null; true") == ""
    empty = box.run(script=SCRIPT)
    assert "nothing of llamarig's is on this box" in empty.output
