"""How one difference is closed: commands for the difference only."""

from __future__ import annotations

from collections.abc import Generator

from pyinfra.api.command import PyinfraCommand

Commands = Generator[PyinfraCommand, None, None]
"""What an operation is: pyinfra asks for the first command to know whether it will change anything."""
