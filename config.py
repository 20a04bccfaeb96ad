"""pyinfra reads this first, whatever it is to run from here: before the inventory, and where there is no inventory.

A config file of your own (`--config FILE`) needs the same two lines.
"""

from tasks.operations.command_line import check_command_line

check_command_line()
