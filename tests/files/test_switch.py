"""A switch that fails, in whatever way, leaves what served serving.

systemd is played by systemctl_stand_in.py and llama-server by server_stand_in.py, because this machine's own units are
nobody's to switch; tests/box/test_releases.py and test_interrupted.py do the same with the real two.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tasks.files.job_status import Progress
from tests.files.server_stand_in import COMMIT

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
UNIT, PEER = "llamarig-a.service", "llamarig-b.service"
KEY = "sesame-0123456789"
# The program as it runs on a box, with units in a directory of the test's.
RUN = """
import sys
from pathlib import Path
from tasks.files import model_units
from tasks.files.job_status import run_job
from tasks.files.switch_unit import switch
model_units.UNITS = Path(sys.argv[2])
run_job(switch, unwinds=True)
"""


class SwitchedBox:
    """A directory as a box: units, proofs, one job."""

    def __init__(self, root: Path) -> None:
        self.root, self.units, self.proofs, self.job_directory = root, root / "units", root / "proofs", root / "job"
        for directory in (self.units, self.proofs, self.job_directory, root / "bin"):
            directory.mkdir()
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.program("systemctl", f'exec {sys.executable} -B {HERE}/systemctl_stand_in.py "$@"')
        self.program("journalctl", f"cat {root}/logs/* 2>/dev/null; true")
        self.program("ss", "true")

    def program(self, name: str, script: str) -> None:
        path = self.root / "bin" / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    @property
    def environment(self) -> dict[str, str]:
        path = f"{self.root}/bin:/usr/bin:/bin"
        return {**os.environ, "PATH": path, "LLAMARIG_STAND_IN": str(self.root), "PYTHONPATH": str(ROOT)}

    def systemctl(self, *words: str) -> str:
        return subprocess.run(
            [str(self.root / "bin" / "systemctl"), *words], env=self.environment, capture_output=True, text=True
        ).stdout

    def text(self, mode: str, *more: str, conflicts: str = "") -> str:
        program = [sys.executable, "-B", str(HERE / "server_stand_in.py"), "--host", "127.0.0.1"]
        command = shlex.join([*program, "--port", str(self.port), "--mode", mode, *more])
        return f"[Unit]\nConflicts={conflicts}\n[Service]\nExecStart={command}\n"

    def serve(self, unit: str, mode: str, *more: str) -> str:
        """What serves before the switch; its unit's text."""
        text = self.text(mode, *more)
        (self.units / unit).write_text(text)
        self.systemctl("daemon-reload")
        self.systemctl("start", unit)
        wait_for(lambda: self.answers() == mode)
        return text

    def prove(self, unit: str, text: str) -> None:
        (self.proofs / f"{unit}.json").write_text(json.dumps({"text": text, "job": {}}))

    def start(self, text: str, **job: Any) -> subprocess.Popen[bytes]:
        """The switch to a unit of this text, begun."""
        whole = {
            "unit": UNIT,
            "text": text,
            "check": [sys.executable, "-c", "pass"],
            "peers": [],
            "retired": [],
            "start": True,
            "enable": True,
            "port": self.port,
            "load_timeout_s": 15,
            "needs_gpu": False,
            "environment": {},
            "model_bytes": 1,
            "commit": COMMIT,
            "context_per_slot": 8192,
            "api_key_file": None,
            "proof": str(self.proofs / f"{job.get('unit', UNIT)}.json"),
            "plan": None,
            **job,
        }
        (self.job_directory / "job.json").write_text(json.dumps(whole))
        (self.job_directory / "status.json").unlink(missing_ok=True)
        command = [sys.executable, "-B", "-c", RUN, str(self.job_directory), str(self.units)]
        with (self.root / "output").open("wb") as output:
            return subprocess.Popen(command, env=self.environment, cwd=self.root, stdout=output, stderr=output)

    def switch(self, text: str, **job: Any) -> str:
        """How the switch to a unit of this text ended."""
        self.start(text, **job).wait(timeout=120)
        return self.ended()

    def status(self) -> dict[str, Any]:
        try:
            status: dict[str, Any] = json.loads((self.job_directory / "status.json").read_text())
        except OSError:
            return {}
        return status

    def ended(self) -> str:
        return f"{self.status().get('state')}: {self.status().get('message')}"

    def answers(self, key: str = "") -> str:
        """The mode of what serves, empty where nothing does."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/props", headers={"Authorization": f"Bearer {key}"}
        )
        try:
            with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=10) as response:
                return str(json.loads(response.read())["mode"])
        except OSError:
            return ""

    def left(self) -> set[str]:
        """Files of switches that have not ended."""
        return {file.name for file in (*self.units.iterdir(), *self.proofs.iterdir()) if "before" in file.name}


def wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.05)


@pytest.fixture
def box(tmp_path: Path) -> Iterator[SwitchedBox]:
    box = SwitchedBox(tmp_path)
    yield box
    for unit in (UNIT, PEER):
        box.systemctl("stop", unit)


FAULTS = [
    ("crashes", "ended while loading (exit 1)"),
    ("props-500", "HTTP 500"),
    ("props-redirect", "HTTP 302"),
    ("props-reset", "Connection reset by peer"),
    ("props-incomplete", "IncompleteRead"),
    ("props-bad-status", "BadStatusLine"),
    ("props-no-json", "no JSON"),
    ("props-deep", "no JSON"),
    ("props-list", "no object"),
    ("props-number", "no object"),
    ("props-settings-list", "does not say its context"),
    ("completion-list", "no object"),
    ("completion-timings", "answered a completion without a token"),
]


@pytest.mark.parametrize(("mode", "said"), FAULTS)
def test_whatever_the_new_server_does_the_old_one_serves_again(box: SwitchedBox, mode: str, said: str) -> None:
    old = box.serve(UNIT, "old")
    ended = box.switch(box.text(mode))
    assert ended.startswith("failed: llamarig-a.service "), ended
    assert said in ended
    assert f"{UNIT} serves again as before; it was away for " in ended
    assert box.answers() == "old"
    assert (box.units / UNIT).read_text() == old
    assert box.left() == set()


def test_a_switch_that_ends_well_leaves_nothing_behind(box: SwitchedBox) -> None:
    box.prove(UNIT, box.serve(UNIT, "old"))
    ended = box.switch(box.text("new"))
    assert ended.startswith(f"done: {UNIT} answers"), ended
    assert box.answers() == "new"
    assert box.left() == set()
    assert "--mode old" in json.loads((box.proofs / f"{UNIT}.previous.json").read_text())["text"]
    assert "--mode new" in json.loads((box.proofs / f"{UNIT}.json").read_text())["text"]


def test_what_nobody_foresaw(box: SwitchedBox) -> None:
    """A field of another type stands for a fault of the program itself, after the old model was stopped."""
    box.serve(UNIT, "old")
    ended = box.switch(box.text("new"), load_timeout_s="a word")
    assert "failed: TypeError: " in ended, ended
    assert "serves again as before" in ended
    assert box.answers() == "old"
    assert "Traceback" in (box.root / "output").read_text(), "for whoever mends it"


def test_a_disk_that_is_full_by_then(box: SwitchedBox) -> None:
    """No file can be written any more when the old text has to come back: not the unit's, not the job's own status."""
    old = box.serve(UNIT, "old")
    box.switch(box.text("crashes") + "# fills-the-disk\n")
    assert box.answers() == "old"
    assert (box.units / UNIT).read_text() == old


def test_a_disk_that_is_full_before(box: SwitchedBox) -> None:
    """What serves cannot be written down, so it is left alone. In place of a full disk, its name is taken."""
    old = box.serve(UNIT, "old")
    (box.units / f"{UNIT}.llamarig-before").mkdir()
    ended = box.switch(box.text("new"))
    assert ended.startswith("failed: what serves now cannot be written down"), ended
    assert ended.endswith("nothing was changed")
    assert (box.answers(), (box.units / UNIT).read_text()) == ("old", old)


def test_stopped_while_the_new_model_loads(box: SwitchedBox) -> None:
    old = box.serve(UNIT, "old")
    running = box.start(box.text("hangs"))
    wait_for(lambda: box.status().get("step") == "loading the model")
    running.send_signal(signal.SIGTERM)
    assert running.wait(timeout=60) == 0
    assert box.ended() == f"stopped: stopped before it was finished; {UNIT}, which served before, was started again"
    wait_for(lambda: box.answers() == "old")
    assert (box.units / UNIT).read_text() == old
    assert box.left() == set()


def test_stopped_while_the_old_model_is_put_back(box: SwitchedBox) -> None:
    """The old one takes so long that the switch is stopped before it answers."""
    box.serve(UNIT, "old")
    text = box.text("hangs")
    (box.units / UNIT).write_text(text)  # what is put back never becomes ready
    running = box.start(box.text("crashes"))
    wait_for(lambda: box.status().get("step") == "loading the model" and (box.units / UNIT).read_text() == text)
    running.send_signal(signal.SIGTERM)
    assert running.wait(timeout=60) == 0
    assert box.ended().endswith("which served before, was started again")


def test_killed_it_leaves_word_of_the_other_model_that_served(box: SwitchedBox) -> None:
    box.prove(PEER, box.serve(PEER, "peer"))
    running = box.start(box.text("hangs", conflicts=PEER), peers=[PEER])
    wait_for(lambda: box.status().get("step") == "loading the model")
    running.kill()
    running.wait()
    assert box.answers() != "peer"
    ended = box.switch(box.text("crashes", conflicts=PEER), peers=[PEER])
    assert f"{PEER} serves again as before" in ended, ended
    assert box.answers() == "peer"
    assert not (box.units / UNIT).exists(), "it never served"
    assert box.left() == set()


def test_a_second_switch_does_not_take_a_half_started_model_for_what_served(box: SwitchedBox) -> None:
    old = box.serve(UNIT, "old")
    running = box.start(box.text("hangs"))
    wait_for(lambda: box.status().get("step") == "loading the model")
    other = box.root / "other"
    other.mkdir()
    box.job_directory = other
    ended = box.switch(box.text("new"))
    assert ended.startswith("failed: another switch is under way on this box"), ended
    running.terminate()
    running.wait(timeout=60)
    wait_for(lambda: box.answers() == "old")
    assert (box.units / UNIT).read_text() == old


def test_killed_it_leaves_word_of_what_served_also_where_its_own_unit_was_proved_once(box: SwitchedBox) -> None:
    """Two that exclude each other, both proved; the switch back to one of them is killed while it loads."""
    box.prove(PEER, box.serve(PEER, "peer"))
    text = box.text("hangs", conflicts=PEER)
    (box.units / UNIT).write_text(text)
    box.prove(UNIT, text)
    running = box.start(text, peers=[PEER])
    wait_for(lambda: box.status().get("step") == "loading the model")
    running.kill()
    running.wait()
    ended = box.switch(box.text("crashes", conflicts=PEER), peers=[PEER])
    assert f"{PEER} serves again as before" in ended, ended
    assert box.answers() == "peer"


def test_what_answers_is_returned_to_rather_than_what_was_proved_longer_ago(box: SwitchedBox) -> None:
    """Started by hand after a deploy that only installed it: it serves, and no switch has proved it."""
    box.prove(UNIT, box.text("older"))
    text = box.serve(UNIT, "by-hand")
    ended = box.switch(box.text("crashes"))
    assert "serves again as before" in ended
    assert (box.answers(), (box.units / UNIT).read_text()) == ("by-hand", text)


@pytest.mark.parametrize("content", ["{}", "[]", "5", '{"text": 3}', "no JSON"])
def test_a_proof_that_is_none_is_no_reason_to_fail(box: SwitchedBox, content: str) -> None:
    box.serve(UNIT, "old")
    (box.proofs / f"{UNIT}.json").write_text(content)
    ended = box.switch(box.text("new"))
    assert ended.startswith("done: "), ended


def test_the_same_switch_begun_twice_goes_on_and_keeps_its_status(box: SwitchedBox) -> None:
    """Two deploys that looked at the same moment: the later program leaves, and both watch the earlier one."""
    box.serve(UNIT, "old")
    running = box.start(box.text("hangs"))
    wait_for(lambda: box.status().get("step") == "loading the model")
    second = subprocess.run(running.args, env=box.environment, cwd=box.root, capture_output=True, text=True)
    assert second.returncode == 1
    assert "this switch is under way already" in second.stderr
    assert box.status().get("state") == "running"
    running.terminate()
    running.wait(timeout=60)
    assert box.ended().startswith("stopped: ")
    wait_for(lambda: box.answers() == "old")


def test_a_systemd_that_does_not_answer_is_asked_nothing_more(box: SwitchedBox) -> None:
    old = box.serve(UNIT, "old")
    box.program("systemctl", "exit 1")
    ended = box.switch(box.text("new"))
    assert ended == f"failed: systemd does not say whether {UNIT} serves (systemctl show); nothing was changed"
    box.program("systemctl", f'exec {sys.executable} -B {HERE}/systemctl_stand_in.py "$@"')
    assert (box.answers(), (box.units / UNIT).read_text()) == ("old", old)


def test_a_systemd_that_reads_no_unit_proves_nothing(box: SwitchedBox) -> None:
    """It would start what it read before, and that would be recorded as what is declared."""
    old = box.serve(UNIT, "old")
    stand_in = f'exec {sys.executable} -B {HERE}/systemctl_stand_in.py "$@"'
    box.program("systemctl", f'test "$1" = daemon-reload && exit 1; {stand_in}')
    ended = box.switch(box.text("new"))
    assert f"systemd does not read {UNIT} (systemctl daemon-reload fails)" in ended
    assert "serves again as before" not in ended, "that is not known"
    assert (box.answers(), (box.units / UNIT).read_text()) == ("old", old)
    assert not (box.proofs / f"{UNIT}.json").exists()


@pytest.mark.parametrize("must_write", [True, False])
def test_a_status_that_no_disk_takes_stops_no_repair(tmp_path: Path, must_write: bool) -> None:
    """/dev/full refuses as a filesystem that copies on write does: an overwrite needs room too."""
    for name in ("status.json", "status.part"):
        (tmp_path / name).symlink_to("/dev/full")
    progress = Progress(tmp_path)
    progress.must_write = must_write
    with pytest.raises(OSError, match="No space left") if must_write else contextlib.nullcontext():
        progress.step("restoring what served before")


# --- keys -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    path = tmp_path / "key"
    path.write_text(f"# of the house\n{KEY}\n")
    return path


def test_the_key_is_asked_for_and_then_given(box: SwitchedBox, key_file: Path) -> None:
    ended = box.switch(box.text("new", "--api-key-file", str(key_file)), api_key_file=str(key_file))
    assert ended.startswith("done: "), ended
    assert (box.answers(), box.answers(KEY)) == ("", "new")


@pytest.mark.parametrize(
    ("mode", "given", "said"),
    [
        ("new", False, "answers a completion without its key, and so anyone's"),
        ("open", True, "answers a completion without its key, and so anyone's"),
        ("forbidden", True, "asked without its key, does not refuse with HTTP 401 (HTTP 403"),
    ],
)
def test_a_server_that_answers_without_the_key_does_not_serve(
    box: SwitchedBox, key_file: Path, mode: str, given: bool, said: str
) -> None:
    box.serve(UNIT, "old")
    flags = ["--api-key-file", str(key_file)] if given else []
    ended = box.switch(box.text(mode, *flags), api_key_file=str(key_file))
    assert said in ended
    assert box.answers() == "old"
    assert KEY not in (box.root / "output").read_text() + ended


@pytest.mark.parametrize("content", [None, b"", b"# none\n\n", b"\xef\xbb\xbf" + KEY.encode(), KEY.encode() + b"\r\n"])
def test_without_a_usable_key_nothing_is_touched(box: SwitchedBox, key_file: Path, content: bytes | None) -> None:
    old = box.serve(UNIT, "old")
    process = box.systemctl("show", UNIT)
    key_file.unlink()
    if content is not None:
        key_file.write_bytes(content)
    ended = box.switch(box.text("new", "--api-key-file", str(key_file)), api_key_file=str(key_file))
    assert ended.startswith(f"failed: api_key_file {key_file} "), ended
    assert ended.endswith("nothing was changed")
    assert KEY not in ended
    assert (box.systemctl("show", UNIT), (box.units / UNIT).read_text()) == (process, old)
