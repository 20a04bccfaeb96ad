"""pyinfra's config file. pyinfra reads it first, before any inventory, so it holds what must apply to every command.

A config file of your own (`--config FILE`) needs the same two lines.
"""

from llamarig.commands.command_line import check_command_line

check_command_line()
