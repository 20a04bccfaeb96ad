"""Text of boxes, of the Hub and of files is shown as text: no character of it is obeyed by the terminal."""

from __future__ import annotations

import json
import os
import pty
import re
import shutil
import subprocess
import sys
import termios
import tty
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import llamarig
import pytest
from llamarig.commands.audit import queries_of_audit
from llamarig.declare.rig import Rig
from llamarig.engine.item import Query
from llamarig.items.all_items import ITEMS
from llamarig.records.model_lock import ModelLock
from llamarig.remote.shared.job_status import Progress
from llamarig.remote.shared.printable import printable

from tests.items.converged_box import batch_reply, converged_box, cpu_rig, fact_command, write_lock_file
from tests.placement.cuda_rig import rig as cuda_rig
from tests.prepared_pyinfra import run_pyinfra

ROOT = Path(__file__).resolve().parents[2]
CAPTURES = ROOT / "tests/facts/data/answers"
ATTACKS = {
    "ESC: clear the screen": "\x1b[2J",
    "ESC: cursor up and clear the line": "\x1b[1A\x1b[2K",
    "ESC: conceal": "\x1b[8m",
    "ESC: answer back": "\x1b[6n",
    "OSC: window title": "\x1b]0;title\x07",
    "OSC: clipboard": "\x1b]52;c;cm0gLXJm\x1b\\",
    "OSC: a link": "\x1b]8;;http://evil.example\x1b\\",
    "DCS": "\x1bP+q544e\x1b\\",
    "BEL": "\x07",
    "CR": "bad\rgood",
    "BS": "bad\b\b\b",
    "VT and FF": "\x0b\x0c",
    "NUL": "\0",
    "DEL": "\x7f",
    "C1: CSI": "\x9b2J",
    "C1: NEL": "\x85",
    "bidi override": "\u202egnp.exe",
    "bidi isolate": "\u2066a\u2069",
    "bidi marks": "\u200e\u200f\u061c",
    "zero width": "\u200b\u2060\ufeff",
    "line separators": "\u2028\u2029",
    "tags": "\U000e0041",
    "surrogate": "\udc9b",
}
HOSTILE = "".join(ATTACKS.values())
_COLOUR = re.compile(r"\x1b\[(?:0|1|3[1-6])m")

SINKS = f"""
import click, logging, sys, traceback, warnings
import pyinfra
from pyinfra.api.output import echo, format_text, set_echo, set_formatter
from pyinfra_cli.log import setup_logging
from llamarig.engine.refuse import report
from llamarig.engine.screen import announce, announce_heading, say, use_printable_streams
from tests.engine.fake_run import fake_run

HOSTILE = {HOSTILE!r}
set_formatter(click.style)
set_echo(click.echo)
setup_logging(logging.DEBUG)
use_printable_streams()
with fake_run() as this:
    host = this.host()
    say(host, HOSTILE)
    say(host, HOSTILE, fg="red")
    report(host, HOSTILE, [HOSTILE])
    host.log(HOSTILE)
    host.log_styled(HOSTILE, fg="red")
    echo(host.print_prefix + HOSTILE)
    echo(host.print_prefix + format_text(HOSTILE, "red"), err=True)
announce(HOSTILE)
announce(HOSTILE, fg="green")
announce_heading(HOSTILE)
for level in ("debug", "info", "warning", "error", "critical", "exception"):
    getattr(pyinfra.logger, level)(HOSTILE)
logging.getLogger("paramiko").warning(HOSTILE)
warnings.warn(HOSTILE)
click.echo(HOSTILE)
print(HOSTILE, HOSTILE, sep=HOSTILE)
sys.stdout.writelines([HOSTILE])
sys.stderr.write(HOSTILE)
try:
    raise ValueError(HOSTILE)
except ValueError:
    traceback.print_exc()
raise SystemExit(HOSTILE)
"""


def forbidden(output: str) -> set[str]:
    """Characters of an output that a terminal obeys, apart from line breaks, tabs and the colours that pyinfra uses."""
    text = _COLOUR.sub("", output)
    return {character for line in text.split("\n") for character in line if printable(character) != character}


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS.keys())
def test_no_character_without_a_glyph_is_left(attack: str) -> None:
    shown = printable(f"a{attack}z")
    assert shown.isprintable()
    assert shown.startswith("a")
    assert shown.endswith("z")
    assert shown.isascii()


def test_ordinary_text_is_shown_as_it_is() -> None:
    for text in ("Größe 模型 🙂 █▌ [red]no markup[/red] \\x1b", "a\ttab", ""):
        assert printable(text) == text
    assert printable("no\u00a0break\u3000space") == "no break space"
    assert printable("one\ntwo") == r"one\ntwo", "a name with a line break must not begin a line of its own"


def test_every_sink_of_a_terminal(tmp_path: Path) -> None:
    """On a pseudo-terminal, because click removes colours where there is none."""
    ours, theirs = pty.openpty()
    tty.setraw(theirs, termios.TCSANOW)
    script = tmp_path / "sinks.py"
    script.write_text(SINKS)
    progress = {"PYINFRA_PROGRESS": "off"}  # its line ends in a carriage return
    environment = {**os.environ, **progress, "PYTHONPATH": f"{ROOT}:{Path(llamarig.__file__).parents[1]}"}
    process = subprocess.Popen(
        [sys.executable, str(script)], stdin=theirs, stdout=theirs, stderr=theirs, env=environment, cwd=ROOT
    )
    os.close(theirs)
    output = b"".join(iter(lambda: _read(ours), b""))
    os.close(ours)
    assert process.wait(60) == 1
    text = output.decode()
    assert forbidden(text) == set()
    assert text.count(printable("\x1b]52;c;")) >= 25, text


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65536)
    except OSError:  # the other end is closed
        return b""


def captured(fact_query: Query[Any]) -> str:
    """What the fact's command has printed on a real machine."""
    files = sorted(CAPTURES.glob(f"{fact_query.fact.__name__}.*.txt"))
    return files[0].read_text() if files else ""


def spoilt(text: str) -> str:
    return "\n".join(f"{line}{HOSTILE}" for line in text.splitlines()) or HOSTILE


def replies_of(queries: Iterable[Query[Any]], outputs: Mapping[Query[Any], str]) -> dict[str, str]:
    each = list(dict.fromkeys(queries))
    printed = {one: spoilt(outputs.get(one) or captured(one)) for one in each}
    return {**batch_reply(each, printed), **{fact_command(one): text for one, text in printed.items()}}


@pytest.mark.parametrize("command", [("tasks/audit.py",), ("deploy.py", "--dry"), ("tasks/prune.py",)])
@pytest.mark.parametrize("name", ["cpu", "cards"])
def test_every_source_of_a_box(tmp_path: Path, name: str, command: tuple[str, ...]) -> None:
    paths = {"model_lock": str(tmp_path / "lock.json"), "plan_file": str(tmp_path / "plans.json")}
    rig: Rig = (cpu_rig() if name == "cpu" else cuda_rig({})).model_copy(update=paths)
    write_lock_file(rig)
    box = converged_box(rig) if name == "cpu" else None
    here, outputs = (box.here, box.outputs) if box else (converged_box(cpu_rig(**paths)).here, {})
    queries = [one for item in ITEMS for one in item.queries(rig, here)]
    replies = {**replies_of(queries, outputs), **replies_of(queries_of_audit(rig, here), outputs)}
    (tmp_path / "replies.json").write_text(json.dumps({"rig": rig.model_dump(mode="json"), "replies": replies}))
    inventory = tmp_path / "inventory.py"
    inventory.write_text(
        f"import json\n_all = json.load(open({str(tmp_path / 'replies.json')!r}))\n"
        "boxes = [('@fake/box', {'fake_delay': 0, 'fake_delay_jitter': 0, 'rig': _all['rig'],"
        " 'fake_responses': {'id -u; id -un': '0\\nroot', **_all['replies']}})]\n"
    )
    files = {"json": tmp_path / "report.json", "prometheus": tmp_path / "audit.prom"}
    data = [word for key, file in files.items() for word in ("--data", f"{key}={file}")]
    options = ["-v"] if "--dry" in command else ["-v", "-y"]
    files_of = data if command[0] == "tasks/audit.py" else []
    done = run_pyinfra(*options, inventory, *command, *files_of, timeout=300)
    output = done.stdout + done.stderr
    assert forbidden(output) == set(), output
    assert "Traceback" not in output
    assert printable(ATTACKS["OSC: clipboard"]) in output, output
    if command[0] == "tasks/audit.py":
        for file in files.values():
            assert forbidden(file.read_text()) == set()


UNEXPECTED = f"""
from pyinfra.api.operation import operation
from pyinfra.context import state

@operation()
def unexpected():
    if state.is_executing:
        raise ValueError({HOSTILE.replace(ATTACKS["surrogate"], "")!r})
    yield "true"

unexpected()
"""


def test_an_unexpected_error_leaves_a_log_that_can_be_shown(tmp_path: Path) -> None:
    """pyinfra writes it by itself, in the directory that it runs in."""
    shutil.copy(ROOT / "config.py", tmp_path)
    (tmp_path / "unexpected.py").write_text(UNEXPECTED)
    done = run_pyinfra("-y", "--chdir", tmp_path, "@fake/box", "unexpected.py", timeout=300)
    assert "pyinfra-debug.log" in done.stderr
    assert forbidden(done.stdout + done.stderr) == set()
    log = (tmp_path / "pyinfra-debug.log").read_text()
    assert printable(ATTACKS["OSC: clipboard"]) in log
    assert forbidden(log) == set()


def test_a_job_of_a_box_reports_text(tmp_path: Path) -> None:
    Progress(tmp_path).end("failed", HOSTILE, [HOSTILE])
    status = json.loads((tmp_path / "status.json").read_text())
    assert status["message"].isprintable()
    assert status["lines"][0].isprintable()


def test_every_source_of_a_file(tmp_path: Path) -> None:
    rig = cpu_rig(model_lock=str(tmp_path / "lock.json"))
    content = ModelLock().model_dump(mode="json")
    (tmp_path / "lock.json").write_text(json.dumps({**content, HOSTILE: HOSTILE}))
    inventory = tmp_path / "inventory.py"
    declared = {"rig": rig.model_dump(mode="json"), "fake_delay": 0, "fake_delay_jitter": 0}
    declared["fake_responses"] = {"id -u; id -un": "0\nroot"}
    inventory.write_text(f"boxes = [('@fake/box', {declared!r})]\n")
    done = run_pyinfra("-y", inventory, "tasks/audit.py", timeout=300)
    output = done.stdout + done.stderr
    assert forbidden(output) == set(), output
    assert "is not a valid model lock" in output
