"""What of a login can be checked before any connection: private keys that are missing, damaged or locked."""

from __future__ import annotations

from collections.abc import Iterable

from paramiko import SSHException
from pyinfra.api.exceptions import PyinfraError
from pyinfra.api.host import Host
from pyinfra.connectors.ssh_util import load_key_with_certificate

from llamarig.engine.connection import has_terminal


def unusable_keys(hosts: Iterable[Host], directory: str) -> list[str]:
    """One line for each host with an `ssh_key` that cannot be used.

    :param directory: that relative paths start from
    """
    return [found for host in hosts if (found := _unusable_key(host, directory))]


def _unusable_key(host: Host, directory: str) -> str:
    key, password = host.data.get("ssh_key"), host.data.get("ssh_key_password")
    if not key:
        return ""
    what = f"{host.name}: ssh_key {key}"
    try:
        load_key_with_certificate(str(key), key_password=password, cwd=directory, allow_prompt=False)
    except PyinfraError as error:
        if "is encrypted" in str(error):
            # At a terminal, pyinfra asks for the passphrase.
            problem = "" if has_terminal() else "is encrypted, and there is no terminal to enter its passphrase at"
            remedy = "run ssh-agent and leave ssh_key out, or declare a key without one"
        elif "No such" in str(error):
            problem, remedy = "is not there", "name an existing private key, or leave it out to use SSH's own"
        else:
            problem, remedy = "is no private key that can be read", "name the private key, not the .pub beside it"
    except (SSHException, OSError, ValueError) as error:
        problem, remedy = f"cannot be read ({error})", "name the private key, not the .pub beside it"
    else:
        return ""
    return f"{what} {problem}: {remedy}; nothing was done" if problem else ""
