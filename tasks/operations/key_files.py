"""The API key files of a box's models, looked at before anything is fetched or built."""

from __future__ import annotations

from pyinfra.api.command import QuoteString, StringCommand
from pyinfra.api.operation import operation
from pyinfra.context import host

from tasks.facts.key_files import KeyFiles
from tasks.operations import Commands, closes
from tasks.operations.once import read_once
from tasks.operations.refuse import refuse
from tasks.planning.checks.llama_cpp import KeyFilesUsable
from tasks.planning.difference import Difference
from tasks.planning.key_files import key_file_differences, key_paths
from tasks.spec.rig import Rig


def key_files_found_wrong(rig: Rig) -> dict[str, Difference]:
    """Path -> what is wrong with that declared key file; the box is not asked where none is declared."""
    paths = key_paths(rig)
    if not paths:
        return {}
    found = read_once(KeyFiles, paths=paths)
    return key_file_differences(rig, found)


@operation()
@closes(KeyFilesUsable)
def key_files_usable(rig: Rig) -> Commands:
    """Every declared API key file holds a key, belongs to root and is for root alone."""
    wrong = key_files_found_wrong(rig)
    if unusable := [difference for difference in wrong.values() if not difference.by_deploy]:
        said = "; ".join(f"{item.what} {item.found}: {item.remedy}" for item in unusable)
        yield from refuse(f"{said}; nothing was changed")
        return
    for path, difference in wrong.items():
        host.log(difference.finding)
        yield StringCommand("chown", "root:root", QuoteString(path))
        yield StringCommand("chmod", "600", QuoteString(path))
    if not wrong:
        host.noop("every API key file is usable, and for root alone")
