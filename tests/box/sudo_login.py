"""A login on a box as another user than root, who may use sudo."""

from __future__ import annotations

from typing import Any

from tests.box.deployment import Deployment

LOGIN: dict[str, Any] = {"ssh_user": "owner", "_sudo": True}
"""pyinfra's host data for it."""


def allow(deployment: Deployment) -> None:
    """Create the user on the box, with root's keys."""
    deployment.shell(
        "id owner >/dev/null 2>&1 || useradd --create-home --shell /bin/bash owner; "
        "echo 'owner ALL=(ALL) NOPASSWD: ALL' >/etc/sudoers.d/owner; "
        "install -d -m 700 -o owner /home/owner/.ssh && "
        "install -m 600 -o owner /root/.ssh/authorized_keys /home/owner/.ssh/authorized_keys"
    )
