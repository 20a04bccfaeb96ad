"""The front of a box: its clients' keys, what it runs on, and its service, whose running answers no deploy ends."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from pyinfra.api.command import StringCommand
from pyinfra.operations import server

from llamarig.declare.front import Front
from llamarig.declare.rig import Rig
from llamarig.engine.control_machine import ControlMachine
from llamarig.engine.item import Commands, Difference, Item, Query, Seen, Severity, query
from llamarig.engine.upload import upload
from llamarig.facts.files import FileSizes, Ownership, Sha256Sums, UserExists
from llamarig.facts.unit_files import UnitFile, UnitFiles
from llamarig.facts.virtual_environments import VirtualEnvironment
from llamarig.items.base_system import Programs
from llamarig.items.python import Python
from llamarig.items.virtual_environments import create_environment, environment_differences
from llamarig.render import layout
from llamarig.render.front import (
    HELPER_SOCKET,
    KEYS,
    SERVICE,
    SETTINGS,
    SOCKET,
    UNITS,
    UNITS_FILE,
    USER,
    key_paths,
    settings_text,
    unit_texts,
    units_file_text,
)

_LOCK = "front-requirements.txt"
_HASH_BYTES = 64
_RUNS = ("/remote/front/", "/remote/shared/record.py")
"""Parts of the paths of the programs that the service has loaded."""
_READY_WITHIN_S = 60
_DIRECTORIES = {layout.FRONT: f"root {USER} 750 directory", KEYS: f"root {USER} 750 directory"}
_KEY_FILE = f"root {USER} 640 regular file"


class FrontKeys(Item):
    """Every declared key of a front has its hash on the box, in a file of root's."""

    name = "Keys of the front"
    check = "front.keys"
    severity = Severity.ERROR

    def queries(self, rig: Rig, here: ControlMachine) -> Iterable[Query[Any]]:
        """Nothing where no such key is declared."""
        if rig.front is not None and rig.front.keys:
            yield query(FileSizes, paths=list(key_paths(rig.front)))

    def differences(self, rig: Rig, seen: Seen) -> list[Difference]:
        """One for each key, which only the owner can make: it is shown once, to who runs the command."""
        if rig.front is None or not rig.front.keys:
            return []
        sizes = seen.get(FileSizes, paths=list(key_paths(rig.front)))
        return [_missing_key(path) for path in key_paths(rig.front) if sizes.get(path, 0) < _HASH_BYTES]


class FrontEnvironment(Item):
    """The virtual environment of the front has aiohttp and the rest of its lock."""

    name = "Packages of the front"
    needs = (Python,)

    def queries(self, rig: Rig, here: ControlMachine) -> Iterable[Query[Any]]:
        """The distributions that are installed there."""
        if rig.front is not None:
            yield query(VirtualEnvironment, path=layout.FRONT_VENV)

    def differences(self, rig: Rig, seen: Seen) -> list[Difference]:
        """One if a distribution is missing or has another version."""
        if rig.front is None:
            return []
        found = seen.get(VirtualEnvironment, path=layout.FRONT_VENV)
        return environment_differences(layout.FRONT_VENV, found, seen.here.requirements[_LOCK])

    def fix(self, rig: Rig, seen: Seen, differences: list[Difference]) -> Commands:
        """Create it again. A front that runs has its modules in memory, and is restarted by the next item."""
        yield from create_environment(layout.FRONT_VENV, seen.here.requirements[_LOCK])


class FrontService(Item):
    """The front runs with the declared settings, and may start the units of the declared models alone."""

    name = "Front"
    check = "front.service"
    severity = Severity.ERROR
    needs = (FrontKeys, FrontEnvironment, Programs)

    def queries(self, rig: Rig, here: ControlMachine) -> Iterable[Query[Any]]:
        """Its units; with a declared front also its user, its directories and its files."""
        yield query(UnitFiles, names=list(UNITS))
        if rig.front is not None:
            yield query(UserExists, user=USER)
            yield query(Ownership, paths=_owned(rig.front))
            yield query(Sha256Sums, paths=[SETTINGS, UNITS_FILE])

    def differences(self, rig: Rig, seen: Seen) -> list[Difference]:
        """One at most for each file, for the user, and for the service."""
        units = seen.get(UnitFiles, names=list(UNITS))
        if rig.front is None:
            running = [name for name in (SERVICE, SOCKET, HELPER_SOCKET) if _is_there(units, name)]
            will = "front: stopped, no longer declared; the models' own ports are their addresses again"
            return [Difference(SERVICE, "stopped and disabled", "running or enabled", will=will)] if running else []
        found = list(_base_differences(rig.front, seen))
        digests = seen.get(Sha256Sums, paths=[SETTINGS, UNITS_FILE])
        for path, text in _files(rig, rig.front).items():
            if digests.get(path) != hashlib.sha256(text.encode()).hexdigest():
                found.append(Difference(path, "what is declared", "missing or different"))
        texts = unit_texts(rig.front, _digest(rig, rig.front, seen))
        found += [
            Difference(
                name, "the unit that this version writes", "missing or different", texts=(_text(units, name), text)
            )
            for name, text in texts.items()
            if _text(units, name) != text
        ]
        if any(unit.needs_reload for unit in units.values()):
            found.append(Difference("systemd", "the front's units as on the disk", "a daemon-reload is needed"))
        found += [
            Difference(name, "listening, also after a boot", "stopped or disabled")
            for name in (SOCKET, HELPER_SOCKET)
            if not (_unit(units, name).active and _unit(units, name).enabled)
        ]
        if not _unit(units, SERVICE).active:
            found.append(Difference(SERVICE, "running", "stopped"))
        return found

    def fix(self, rig: Rig, seen: Seen, differences: list[Difference]) -> Commands:
        """Write what differs. Restart the service where it runs with something else, after its running answers."""
        if rig.front is None:
            yield StringCommand(f"systemctl --quiet disable --now {SOCKET} {HELPER_SOCKET} && systemctl stop {SERVICE}")
            return
        wrong = {difference.what for difference in differences}
        if f"user {USER}" in wrong:
            yield from server.user._inner(
                user=USER,
                system=True,
                shell="/usr/sbin/nologin",
                home=layout.FRONT,
                ensure_home=False,
                create_home=False,
            )
        for path in _DIRECTORIES:
            yield StringCommand(f"install -d -o root -g {USER} -m 750 {path}")
        for path in key_paths(rig.front):
            yield StringCommand(f"chown root:{USER} {path} && chmod 640 {path}")
        for path, text in _files(rig, rig.front).items():
            yield upload(text, path)
        texts = unit_texts(rig.front, _digest(rig, rig.front, seen))
        for name in (name for name in texts if name in wrong):
            yield upload(texts[name], f"{layout.UNITS}/{name}")
        yield StringCommand(_restart(wrong))


def _missing_key(path: str) -> Difference:
    name = path.rpartition("/")[2]
    make = (
        f"(umask 077; install -d -m 750 {layout.FRONT} {KEYS}; key=$(openssl rand -hex 32) && "
        f'printf %s "$key" | sha256sum | cut -c1-64 >{path}.new && mv {path}.new {path} && echo "$key")'
    )
    remedy = f"make it on the box as root, which shows it once: `{make}`"
    message = f"front key {name!r} has no hash in {path}: {remedy}; nothing was changed"
    what = f"front key {name}"
    return Difference(what, f"a hash in {path}", "missing", remedy=remedy, by_deploy=False, message=message)


def _owned(front: Front) -> list[str]:
    return [*_DIRECTORIES, *key_paths(front)]


def _base_differences(front: Front, seen: Seen) -> Iterator[Difference]:
    if not seen.get(UserExists, user=USER):
        yield Difference(f"user {USER}", "a system user", "missing")
    owners = seen.get(Ownership, paths=_owned(front))
    for path, expected in {**_DIRECTORIES, **dict.fromkeys(key_paths(front), _KEY_FILE)}.items():
        if owners.get(path) != expected:
            yield Difference(
                path, f"owned by root and {USER}, mode {expected.split()[2]}", owners.get(path) or "missing"
            )


def _files(rig: Rig, front: Front) -> Mapping[str, str]:
    return {SETTINGS: settings_text(rig, front), UNITS_FILE: units_file_text(rig)}


def _digest(rig: Rig, front: Front, seen: Seen) -> str:
    """Of the settings, the programs and the packages that the service is started with."""
    programs = sorted(
        f"{path} {file.sha256}" for path, file in seen.here.programs.items() if any(part in path for part in _RUNS)
    )
    parts = [settings_text(rig, front), *programs, seen.here.requirements[_LOCK]]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def _restart(wrong: set[str]) -> str:
    """Restart what differs, and wait until the front answers, or is ending the answers that it has begun.

    systemd opens no socket whose service runs, so for another address the service is stopped first, in peace as well.
    """
    first = f"systemctl stop {SERVICE}; systemctl restart {SOCKET}" if SOCKET in wrong else "true"
    helper = f"systemctl restart {HELPER_SOCKET}" if HELPER_SOCKET in wrong else "true"
    state = f"systemctl show {SERVICE} -p ActiveState --value"
    return (
        f"systemctl daemon-reload && systemctl --quiet enable {SOCKET} {HELPER_SOCKET} && {first} && {helper} && "
        f"systemctl start {SOCKET} {HELPER_SOCKET} && "
        f"{{ systemctl reset-failed {SERVICE} 2>/dev/null; systemctl --no-block restart {SERVICE}; }} && "
        f"for i in $(seq {_READY_WITHIN_S}); do sleep 1; case $({state}) in "
        f"active) exit 0 ;; deactivating) echo 'it restarts when the answers that it has begun have ended'; exit 0 ;; "
        f"esac; done; journalctl -u {SERVICE} -n 20 -o cat --no-pager >&2; exit 1"
    )


def _unit(units: Mapping[str, UnitFile], name: str) -> UnitFile:
    return units.get(name, UnitFile())


def _text(units: Mapping[str, UnitFile], name: str) -> str:
    return _unit(units, name).text


def _is_there(units: Mapping[str, UnitFile], name: str) -> bool:
    return _unit(units, name).active or _unit(units, name).enabled
