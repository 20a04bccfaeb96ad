"""What a command of engine/upload.py writes."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable

from pyinfra.api.command import PyinfraCommand


def is_upload(command: PyinfraCommand) -> bool:
    return "base64 -d" in str(command)


def targets(commands: Iterable[str]) -> list[str]:
    """Paths of the files that these commands write."""
    return [path for command in commands for path in re.findall(r'^mv -fT "\$part" (.*)$', command, re.MULTILINE)]


def uploaded(command: PyinfraCommand) -> bytes:
    """The content that an upload sends."""
    sent = command.connector_arguments["_stdin"]
    assert isinstance(sent, str)
    return base64.b64decode(sent)
