"""pyinfra's config file. pyinfra reads it first, before any inventory, so it holds what must apply to every command.

A config file of your own (`--config FILE`) needs the last two lines.
"""

import os
import sys

# pyinfra switches the bytecode cache off, so that each command would compile the whole package again.
sys.dont_write_bytecode = bool(os.environ.get("PYTHONDONTWRITEBYTECODE"))

from llamarig.commands.command_line import check_command_line  # noqa: E402 - the cache has to be on before the package is imported

check_command_line()
