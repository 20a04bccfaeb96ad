"""The disposable box of this machine, planned for a card that it does not have: for tasks/plan.py, not for a deploy."""

from inventory import rehearsal as _inventory

# Not imported by name: pyinfra makes a group of every list here.
rehearsal_card = _inventory.rehearsal
