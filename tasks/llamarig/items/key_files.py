"""The API key files and certificates of a box's models, compared before anything is fetched or built."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from pyinfra.api.command import QuoteString, StringCommand

from llamarig.declare.front import UPSTREAM_KEYS
from llamarig.declare.rig import Rig
from llamarig.engine.control_machine import ControlMachine
from llamarig.engine.item import Commands, Difference, Item, Query, Seen, Severity, query
from llamarig.facts.files import Ownership
from llamarig.facts.key_files import KeyFile, KeyFiles

_MODES = ("600", "400")
_EXPECTED = "a file owned by root, mode 600 or 400, with at least one key"


class UsableKeyFiles(Item):
    """Every declared api_key_file has a usable key, owned by root with mode 600 or 400; certificates are there."""

    name = "API key files"
    check = "llama.key-files"
    severity = Severity.ERROR

    def queries(self, rig: Rig, here: ControlMachine) -> Iterable[Query[Any]]:
        """Nothing where no such file is declared."""
        if paths := key_paths(rig):
            yield query(KeyFiles, paths=paths)
        if paths := list(tls_files(rig)):
            yield query(Ownership, paths=paths)

    def differences(self, rig: Rig, seen: Seen) -> list[Difference]:
        """A deploy fixes owner and mode of a file; only the owner can write a key."""
        paths, certificates = key_paths(rig), tls_files(rig)
        found: list[Difference] = []
        if paths:
            keys = seen.get(KeyFiles, paths=paths)
            found += key_file_differences(rig, keys).values()
        if certificates:
            owners = seen.get(Ownership, paths=list(certificates))
            found += _tls_differences(certificates, owners)
        return found

    def fix(self, rig: Rig, seen: Seen, differences: list[Difference]) -> Commands:
        """Generate the keys between a front and its models; set owner and mode of others. No key is read."""
        found = seen.get(KeyFiles, paths=key_paths(rig)) if key_paths(rig) else {}
        for path in key_file_differences(rig, found):
            if found.get(path, KeyFile(problem="missing")).problem:
                yield StringCommand(f"install -d -m 700 {UPSTREAM_KEYS} && {make_key(path)}")
            yield StringCommand("chown", "root:root", QuoteString(path))
            yield StringCommand("chmod", "600", QuoteString(path))


def key_paths(rig: Rig) -> list[str]:
    """Paths of the declared key files, each once."""
    return sorted({model.serve.api_key_file for model in rig.models if model.serve.api_key_file is not None})


def tls_files(rig: Rig) -> dict[str, str]:
    """Path of each declared certificate and of its key -> the field that names it."""
    fields = ("tls_certificate_file", "tls_key_file")
    owners = [*(model.serve for model in rig.models), *([rig.front] if rig.front is not None else [])]
    declared = {getattr(owner, field): field for owner in owners for field in fields}
    return {path: field for path, field in sorted(declared.items(), key=str) if path is not None}


def _tls_differences(declared: Mapping[str, str], owners: Mapping[str, str]) -> Iterable[Difference]:
    """Certificates that are missing, and keys that others may read. Whether they fit each other, a switch finds out.

    :param owners: path -> ``user group mode kind``
    """
    for path, field in declared.items():
        what, mode = f"{field} {path}", owners.get(path, "").split()[2:3]
        if not mode:
            remedy = "put the certificate with its chain, and its key, on the box (PEM, without a passphrase)"
            message = f"{what} is missing: {remedy}; nothing was changed"
            yield Difference(what, "a file", "missing", remedy=remedy, by_deploy=False, message=message)
        elif field == "tls_key_file" and int(mode[0], 8) & 0o007:
            remedy = f"chmod 600 {path}, and replace the key if others have logged in"
            message = f"{what} can be read by every user of the box: {remedy}; nothing was changed"
            yield Difference(what, "a private key", f"mode {mode[0]}", remedy=remedy, by_deploy=False, message=message)


def make_key(path: str) -> str:
    """A command for the box that writes a new key, and nothing if it cannot generate one."""
    return f'(umask 077; key=$(openssl rand -hex 32) && echo "$key" >{path}.new && mv {path}.new {path})'


def key_file_differences(rig: Rig, found: Mapping[str, KeyFile]) -> dict[str, Difference]:
    """Path -> what is wrong with that declared key file.

    :param found: path -> the key file on the box
    """
    differences = {}
    for path in key_paths(rig):
        file = found.get(path, KeyFile(problem="could not be read"))
        what = f"api_key_file {path}"
        if file.problem and path.startswith(f"{UPSTREAM_KEYS}/"):
            will = f"{path}: generates the key between the front and this model"
            differences[path] = Difference(what, _EXPECTED, file.problem, will=will)
        elif file.problem:
            remedy = (
                f"write it on the box, one key a line, owned by root and mode 600, in a directory that exists: "
                f"`{make_key(path)}`"
            )
            message = f"{what} {file.problem}: {remedy}; nothing was changed"
            differences[path] = Difference(
                what, _EXPECTED, file.problem, remedy=remedy, by_deploy=False, message=message
            )
        elif file.owner != "root" or file.mode not in _MODES:
            differences[path] = Difference(what, _EXPECTED, f"owned by {file.owner}, mode {file.mode}")
    return differences
