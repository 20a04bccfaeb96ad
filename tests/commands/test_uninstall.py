"""tasks/uninstall.py lists what is llamarig's on a box, and removes what is named, never what others use."""

from __future__ import annotations

from typing import Any

import pytest
from llamarig.commands.uninstall import box_taken_back
from llamarig.records.shard_sets import set_name
from llamarig.render import layout
from llamarig.render.model_paths import target

from tests.engine.fake_run import OperationFailedError, commands_of
from tests.items.converged_box import LOCKED, store_output

INSTALLED = f"""== units
llamarig-tiny.service active enabled
llamarig_liveness.timer active enabled
llamarig_liveness.service inactive static

== sizes
{3 << 30}\t/opt/llamarig/llama.cpp
1000\t/var/lib/llamarig/jobs

== settings
/etc/sysctl.d/90-llamarig.conf

== links

== user
llamarig

== owners
/etc/llamarig/keys/api
"""
FILE = LOCKED.shards[0]
NAME = f"models/{LOCKED.repo}/{LOCKED.commit}/{set_name(FILE.path)}"


def sent(
    *names: str, installed: str = INSTALLED, references: str = "", jobs: str = "", takeover: bool = False
) -> list[str]:
    """Commands that change the box."""
    replies = {
        "== units": installed,
        f"find -H {layout.MODELS} -type f": store_output([LOCKED]),
        "grep -RHZ": references,
        "ActiveEnterTimestamp": jobs,
        "readlink /proc": "",
    }
    call = (box_taken_back, {"name": "Uninstall", "names": names, "takeover": takeover})
    changing = ("rm ", "systemctl stop", "systemctl disable", "systemctl daemon-reload", "userdel")
    return [command for command in commands_of(call, replies=replies) if command.startswith(changing)]


def test_without_a_name_everything_is_listed_and_nothing_changed(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="pyinfra")
    assert sent() == []
    for line in (
        "unit llamarig-tiny.service: active enabled",
        "3.00 GiB  /opt/llamarig/llama.cpp",
        "setting /etc/sysctl.d/90-llamarig.conf",
        "user llamarig",
        "/etc/llamarig/keys/api is yours, and stays",
        "is removed with --data delete=box",
        NAME,
        "a model's files",
    ):
        assert line in caplog.text


def test_the_box_is_taken_back_without_its_models() -> None:
    assert sent("box") == [
        "systemctl stop --quiet 'llamarig-job-*'",
        "systemctl disable --quiet --now llamarig_liveness.timer llamarig-tiny.service llamarig_liveness.service",
        f"rm -f -- {layout.UNITS}/llamarig_liveness.timer {layout.UNITS}/llamarig-tiny.service "
        f"{layout.UNITS}/llamarig_liveness.service",
        "systemctl daemon-reload && systemctl reset-failed 'llamarig[-_]*' 2>/dev/null; true",
        "rm -rf --one-file-system -- /opt/llamarig/llama.cpp /var/lib/llamarig/jobs",
        "rm -rf -- /etc/sysctl.d/90-llamarig.conf",
        f"rm -rf -- {layout.SECRETS} {layout.MODELS}/.partial/.lock",
        "userdel llamarig",
    ]


def test_model_files_are_deleted_by_name() -> None:
    (deleted,) = sent(NAME)
    assert deleted.startswith(f"rm -f -- {target(LOCKED, FILE)}")
    assert sent("box", NAME)[-1] == deleted


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"names": ("everything",)}, "'everything' is not on the list"),
        (
            {
                "names": ("box",),
                "references": f"/etc/systemd/system/mine.service\tExecStart={layout.RELEASES}/x/bin/llama-server",
            },
            "mine.service uses files of llamarig's on this box: change or remove it first; nothing was deleted",
        ),
        (
            {
                "names": (NAME,),
                "references": f"/etc/systemd/system/llamarig-tiny.service\tExecStart=x -m {target(LOCKED, FILE)}",
            },
            "cannot be deleted: llamarig-tiny.service refers to it",
        ),
        (
            {"names": ("box",), "jobs": 'fetch\tSat 2026-11-21\t{}\t{"owner": "anna@laptop"}'},
            "jobs run on this box (fetch by anna@laptop since Sat 2026-11-21): wait for their end, or stop them",
        ),
    ],
)
def test_what_somebody_uses_is_not_removed(
    arguments: dict[str, Any], message: str, caplog: pytest.LogCaptureFixture
) -> None:
    names = arguments.pop("names")
    with pytest.raises(OperationFailedError) as error:
        sent(*names, **arguments)
    assert message in caplog.text
    assert not [command for command in error.value.commands if command.startswith(("rm ", "systemctl stop", "userdel"))]


def test_jobs_are_stopped_and_our_own_units_are_no_hindrance() -> None:
    own = f"/etc/systemd/system/llamarig-tiny.service\tExecStart={layout.RELEASES}/x/bin/llama-server"
    assert sent("box", references=own, jobs="fetch\tSat\t{}", takeover=True)[0].startswith("systemctl stop")


def test_what_a_link_leads_to_stays(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="pyinfra")
    installed = INSTALLED.replace("== links\n", "== links\n/opt/llamarig/llama.cpp /mnt/disk/llama.cpp\n")
    commands = sent("box", installed=installed)
    assert "rm -rf --one-file-system -- /var/lib/llamarig/jobs" in commands
    assert "rm -f -- /opt/llamarig/llama.cpp" in commands
    assert "/opt/llamarig/llama.cpp leads to /mnt/disk/llama.cpp, whose files stay" in caplog.text


def test_an_empty_box(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="pyinfra")
    replies = {"== units": "== units\n"}
    call = (box_taken_back, {"name": "Uninstall", "names": ("box",)})
    assert [command for command in commands_of(call, replies=replies) if command.startswith(("rm ", "userdel"))] == []
    assert "nothing of llamarig's is on this box" in caplog.text
