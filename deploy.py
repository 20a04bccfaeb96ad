"""A box, top to bottom: `pyinfra inventory/home.py deploy.py`."""

from llamarig.commands.deploy import deploy

deploy()
