"""API key files: a deploy corrects owner and mode, and refuses a file without a usable key."""

from __future__ import annotations

import re

import pytest
from llamarig import declare as d
from llamarig.declare.rig import Rig
from llamarig.engine.control_machine import ControlMachine
from llamarig.engine.item import Seen, query
from llamarig.facts.files import Ownership
from llamarig.facts.key_files import KeyFile, KeyFiles
from llamarig.items.all_items import ITEMS
from llamarig.items.key_files import UsableKeyFiles, key_paths

from tests.engine.fake_run import OperationFailedError, converged_commands

PATH = "/etc/llamarig/keys/api"
USABLE = ("bom=0", "cr=0", "usable=1")


def rig(*paths: str | None) -> Rig:
    models = [
        d.model(
            name=f"m{number}",
            repo="o/r",
            quant="Q4",
            build="cpu",
            serve=d.serve(port=8080 + number, context=4096, api_key_file=path),
        )
        for number, path in enumerate(paths)
    ]
    return Rig.model_validate(d.rig(builds=[d.build(name="cpu", backend="cpu")], models=models))


def fixes(of: Rig, *lines: str) -> list[str]:
    """Commands that change a box whose key file is as these lines of the fact say."""
    commands = converged_commands([UsableKeyFiles()], of, {"stat -L": "\n".join(lines)})
    return [command for command in commands if re.match("chown|chmod", command)]


@pytest.mark.parametrize(
    ("stat", "is_fixed"),
    [
        ("root 600 65 regular file", False),
        ("root 400 65 regular file", False),
        ("root 640 65 regular file", True),
        ("root 700 65 regular file", True),
        ("anna 600 65 regular file", True),
    ],
)
def test_owner_and_mode_are_corrected(stat: str, is_fixed: bool, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="pyinfra")
    commands = fixes(rig(PATH), f"key={PATH}", f"stat={stat}", *USABLE)
    assert commands == ([f"chown root:root {PATH}", f"chmod 600 {PATH}"] if is_fixed else [])
    owner, mode = stat.split()[:2]
    assert (f"api_key_file {PATH}: owned by {owner}, mode {mode}" in caplog.text) == is_fixed


@pytest.mark.parametrize(
    ("lines", "why"),
    [
        ((), "is not there"),
        (("stat=root 600 0 regular empty file", "bom=0", "cr=0", "usable=0"), "is empty"),
        (("stat=root 600 9 regular file", "bom=0", "cr=0", "usable=0"), "has no usable key"),
        (("stat=root 600 9 regular file", "bom=1", "cr=0", "usable=1"), "byte order mark"),
        (("stat=anna 644 9 regular file", "bom=0", "cr=1", "usable=0"), "carriage returns"),
        (("stat=root 700 9 directory",), "is not a regular file"),
    ],
)
def test_a_file_without_a_usable_key_is_refused(
    lines: tuple[str, ...], why: str, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(OperationFailedError) as failed:
        fixes(rig(PATH), f"key={PATH}", *lines)
    assert not [command for command in failed.value.commands if re.match("chown|chmod", command)]
    *_, message = [record.getMessage() for record in caplog.records if "nothing was changed" in record.getMessage()]
    for words in ("@fake", f"api_key_file {PATH} ", why, "one key a line", f"mv {PATH}.new {PATH})`", "mode 600"):
        assert words in message


def test_each_file_is_compared_once() -> None:
    assert key_paths(rig(PATH, None, "/other", PATH)) == [PATH, "/other"]


def test_without_a_key_file_nothing_is_read() -> None:
    item, of = UsableKeyFiles(), rig(None)
    assert list(item.queries(of, ControlMachine())) == []
    assert item.differences(of, Seen("box", ControlMachine(), {})) == []


def test_a_file_that_the_box_reports_nothing_of_is_refused() -> None:
    item, of = UsableKeyFiles(), rig(PATH)
    (difference,) = item.differences(of, Seen("box", ControlMachine(), {query(KeyFiles, paths=[PATH]): {}}))
    assert difference.found == "could not be read"
    assert not difference.by_deploy


def test_a_deploy_fixes_owner_and_mode_of_each_file() -> None:
    item, of = UsableKeyFiles(), rig(PATH, "/other")
    found = {PATH: KeyFile(owner="root", mode="600"), "/other": KeyFile(owner="anna", mode="600")}
    (difference,) = item.differences(
        of, Seen("box", ControlMachine(), {query(KeyFiles, paths=[PATH, "/other"]): found})
    )
    assert difference.what == "api_key_file /other"
    assert difference.by_deploy


def test_key_files_come_before_everything_else() -> None:
    assert isinstance(ITEMS[0], UsableKeyFiles)


def with_tls() -> Rig:
    chain, key = "/etc/tls/chain.pem", "/etc/tls/key.pem"
    serve = d.serve(port=8080, context=4096, tls_certificate_file=chain, tls_key_file=key)
    models = [d.model(name="m", repo="o/r", quant="Q4", build="cpu", serve=serve)]
    return Rig.model_validate(d.rig(builds=[d.build(name="cpu", backend="cpu", tls=True)], models=models))


@pytest.mark.parametrize(
    ("lines", "messages"),
    [
        (["/etc/tls/chain.pem\troot root 644 regular file", "/etc/tls/key.pem\troot ssl-cert 640 regular file"], []),
        (
            ["/etc/tls/chain.pem\troot root 644 regular file", "/etc/tls/key.pem\troot root 644 regular file"],
            ["tls_key_file /etc/tls/key.pem can be read by every user of the box: chmod 600"],
        ),
        (
            [],
            ["tls_certificate_file /etc/tls/chain.pem is missing", "tls_key_file /etc/tls/key.pem is missing"],
        ),
    ],
)
def test_a_certificate_is_there_and_its_key_is_private(lines: list[str], messages: list[str]) -> None:
    of, item, paths = with_tls(), UsableKeyFiles(), ["/etc/tls/chain.pem", "/etc/tls/key.pem"]
    here = ControlMachine()
    assert list(item.queries(of, here)) == [query(Ownership, paths=paths)]
    seen = Seen("box", here, {query(Ownership, paths=paths): Ownership().process(lines)})
    found = [one.message for one in item.differences(of, seen)]
    assert [message.startswith(start) for message, start in zip(found, messages, strict=True)] == [True] * len(messages)
