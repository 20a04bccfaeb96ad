"""The files that an audit writes, by pyinfra's real command line and its connector `@fake`."""

from __future__ import annotations

import json
import re
import signal
import subprocess
from pathlib import Path

import jsonschema
import pytest
from llamarig.records.audit_report import AuditRecord

from tests.box.audit_report import read_report
from tests.box.deployment import wait_for
from tests.prepared_pyinfra import PYINFRA, run_pyinfra

REPOSITORY = Path(__file__).resolve().parents[2]
_INVENTORY = """\
import hashlib

from group_data.rehearsal import rig

_at_once = {{"fake_delay": 0, "fake_delay_jitter": 0}}
_declared = {{**rig, "host": {{**rig["host"], "swappiness": 10}}}}
_text = "# Written by llamarig: keeps model weights in RAM.\\nvm.swappiness = 10\\n"
_file = "/etc/sysctl.d/90-llamarig.conf"


def _output(value):
    return {{
        "@@llamarig": f"@@llamarig 1\\n== swappiness\\n{{value}}\\n== at-boot\\n# {{_file}}\\nvm.swappiness = 10\\n\\n"
        "@@llamarig ok",
        f"sha256sum --zero -- {{_file}}": f"{{hashlib.sha256(_text.encode()).hexdigest()}}  {{_file}}",
        "stat -L": f"{{_file}}\\troot root 644 regular file",
        "id -u; id -un": "0\\nroot",
    }}


_no_swappiness = {{"success": False, "stderr": "no such thing"}}
_fails = {{"@@llamarig": "", "id -u; id -un": "0\\nroot", "== swappiness": _no_swappiness}}
boxes = [
    ("@fake/a-clean", {{**_at_once, "rig": _declared, "fake_responses": _output(10)}}),
    ("@fake/b-differs", {{**_at_once, "rig": _declared, "fake_responses": _output({swappiness})}}),
    ("@fake/c-fails", {{**_at_once, "rig": _declared, "fake_responses": _fails}}),
    ("d-gone", {{"ssh_hostname": "127.0.0.1", "ssh_port": 1, "rig": _declared}}),
]
"""


class Audit:
    """A run of tasks/audit.py; ``report`` and ``text`` are the files it writes."""

    def __init__(self, directory: Path, *arguments: str) -> None:
        self.json, self.text = directory / "report.json", directory / "audit.prom"
        inventory = directory / "inventory.py"
        inventory.write_text(_INVENTORY.format(swappiness=60))
        files = (f"json={self.json}", f"prometheus={self.text}", "only=memory.swappiness")
        data = [word for item in files for word in ("--data", item)]
        self.arguments = ["-y", str(inventory), "tasks/audit.py", *data, *arguments]

    def run(self) -> subprocess.CompletedProcess[str]:
        return run_pyinfra(*self.arguments, timeout=300)

    @property
    def report(self) -> AuditRecord:
        return read_report(self.json)

    def clean(self) -> dict[str, int]:
        """Host -> 1 where a monitoring system reads it as clean."""
        samples = (line.split() for line in self.text.read_text().splitlines())
        return {
            words[0].split('"')[1]: int(words[1]) for words in samples if words[0].startswith("llamarig_audit_clean{")
        }


@pytest.mark.parametrize("mode", [(), ("--serial",), ("--no-wait",)], ids=["in step", "serial", "no wait"])
def test_every_host_is_reported_once_in_each_of_pyinfras_orders(tmp_path: Path, mode: tuple[str, ...]) -> None:
    audit = Audit(tmp_path, *mode)
    done = audit.run()
    output = done.stdout + done.stderr
    assert done.returncode == 1, output
    assert {host.host: (host.status, host.why) for host in audit.report.hosts} == {
        "@fake/a-clean": ("clean", "everything is as declared"),
        "@fake/b-differs": ("findings", "memory.swappiness"),
        "@fake/c-fails": ("could-not-look", "reading it failed, see the output of this run"),
        "d-gone": ("could-not-look", "it could not be reached"),
    }, output
    assert audit.report.status == "findings"
    assert audit.report.hosts[0].host == "@fake/b-differs", "worst first"
    assert audit.clean() == {"@fake/a-clean": 1, "@fake/b-differs": 0, "@fake/c-fails": 0, "d-gone": 0}
    for host in audit.report.hosts:
        assert output.count(f"{host.host}: {host.status}") == 1, output
    if not mode:
        assert output.index("@fake/b-differs: findings") < output.index("@fake/a-clean: clean")


def test_a_question_that_does_not_end_is_the_reason_in_the_verdict_and_the_files(tmp_path: Path) -> None:
    audit = Audit(tmp_path, "--limit", "@fake/a-clean")
    inventory = tmp_path / "inventory.py"
    text = inventory.read_text()
    inventory.write_text(text.replace('"@@llamarig ok"', '"@@llamarig late"'))
    done = audit.run()
    assert done.returncode == 1
    assert "Traceback" not in done.stdout + done.stderr
    (host,) = audit.report.hosts
    assert host.status == "could-not-look"
    assert host.why.startswith("reading it failed: reading its "), host.why
    assert "did not end within 60 s" in host.why
    assert audit.clean() == {"@fake/a-clean": 0}


def test_files_of_an_earlier_clean_audit_are_replaced_where_no_host_is_reached(tmp_path: Path) -> None:
    audit = Audit(tmp_path, "--limit", "@fake/a-clean")
    assert audit.run().returncode == 0
    assert (audit.report.status, audit.clean()) == ("clean", {"@fake/a-clean": 1})
    gone = Audit(tmp_path, "--limit", "d-gone")
    done = gone.run()
    assert done.returncode == 1
    assert "No hosts remaining!" not in done.stdout + done.stderr
    assert "d-gone: could-not-look, it could not be reached" in done.stdout + done.stderr
    assert [(host.status, host.why) for host in gone.report.hosts] == [("could-not-look", "it could not be reached")]
    assert gone.clean() == {"d-gone": 0}


def test_files_of_an_earlier_clean_audit_are_replaced_where_an_audit_is_killed(tmp_path: Path) -> None:
    audit = Audit(tmp_path, "--limit", "@fake/a-clean")
    assert audit.run().returncode == 0
    assert audit.clean() == {"@fake/a-clean": 1}
    inventory = tmp_path / "inventory.py"
    inventory.write_text(inventory.read_text().replace('"fake_delay": 0', '"fake_delay": 3600'))
    killed = subprocess.Popen(
        [PYINFRA, *audit.arguments], cwd=REPOSITORY, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        wait_for(lambda: audit.clean() == {"@fake/a-clean": 0}, "a report that nothing was compared yet")
        assert killed.poll() is None, "the audit is still running"
    finally:
        killed.kill()
        killed.wait()
    assert audit.report.status == "could-not-look"
    assert audit.report.hosts[0].why.startswith("it had not been read completely")


def test_an_interrupted_audit_does_not_end_like_a_clean_one(tmp_path: Path) -> None:
    audit = Audit(tmp_path, "--limit", "@fake/a-clean")
    inventory = tmp_path / "inventory.py"
    inventory.write_text(inventory.read_text().replace('"fake_delay": 0', '"fake_delay": 3600'))
    running = subprocess.Popen(
        [PYINFRA, *audit.arguments], cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    wait_for(lambda: audit.text.exists(), "a report that nothing was compared yet")
    running.send_signal(signal.SIGINT)
    output, _ = running.communicate(timeout=60)
    assert running.returncode == 130, output
    assert "Interrupted." in output
    assert "Traceback" not in output
    assert audit.clean() == {"@fake/a-clean": 0}


def test_a_misspelt_check_is_the_reason_in_the_files(tmp_path: Path) -> None:
    audit = Audit(tmp_path, "--limit", "@fake/a-clean", "--data", "skip=memroy")
    done = audit.run()
    assert done.returncode == 1
    assert re.search(r"\[@fake/a-clean\]\s+there is no check 'memroy'", done.stdout + done.stderr)
    assert "Traceback" not in done.stdout + done.stderr
    (host,) = audit.report.hosts
    assert host.why.startswith("reading it failed: there is no check 'memroy'")


def test_a_file_that_cannot_be_written_fails_the_run_and_the_other_is_written(tmp_path: Path) -> None:
    audit = Audit(tmp_path, "--limit", "@fake/a-clean", "--data", f"json={tmp_path}/no/such/report.json")
    done = audit.run()
    assert done.returncode == 1
    message = "report.json cannot be written (No such file or directory): create its directory, or name a file"
    assert (done.stdout + done.stderr).count(message) == 1
    assert audit.clean() == {"@fake/a-clean": 1}


@pytest.mark.parametrize("arguments", [("--dry",), ("--data", "list=1")], ids=["dry", "list"])
def test_a_dry_run_and_a_list_of_checks_write_nothing(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    audit = Audit(tmp_path, "--limit", "@fake/a-clean", *arguments)
    assert audit.run().returncode == 0
    assert not audit.json.exists()
    assert not audit.text.exists()


def test_the_schema_refuses_anything_else(tmp_path: Path) -> None:
    audit = Audit(tmp_path, "--limit", "@fake/b-differs")
    audit.run()
    written = json.loads(audit.json.read_text())
    assert written["hosts"][0]["findings"], "the example needs findings"
    for broken in ({**written, "status": "well"}, {**written, "more": 1}, {"hosts": written["hosts"]}):
        audit.json.write_text(json.dumps(broken))
        with pytest.raises(jsonschema.ValidationError):
            read_report(audit.json)
