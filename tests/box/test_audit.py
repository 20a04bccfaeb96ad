"""The audit reports drift in its output, report and exit code, and changes nothing."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.box import machine
from tests.box.audit_report import AUDIT, audit, failing
from tests.box.deployment import Deployment

pytestmark = pytest.mark.box

# A digest of everything that a deploy could change, except /var/cache/llamarig, which other boxes of this host use too.
# Access times and the journal are left out, because an audit may change them.
FINGERPRINT = (
    "find /etc /opt /usr/local /var/lib/llamarig -xdev -printf '%p %T@ %C@ %s %m\\n' "
    "| grep -v '/etc/mtab ' | sort | sha256sum; systemctl show llamarig-tiny -p InvocationID -p ActiveState"
)
UNIT = "/etc/systemd/system/llamarig-tiny.service"
SHARD = "$(find /var/lib/llamarig/models -name '*-00002-of-00003.gguf')"


def test_a_converged_box_is_clean_and_read_in_one_command(deployment: Deployment, tmp_path: Path) -> None:
    before = deployment.shell(FINGERPRINT)
    for _ in range(2):
        outcome, host = audit(deployment, tmp_path / "report.json")
        assert outcome.code == 0, str(outcome)
        assert outcome.changed == []
        assert "rehearsal-box: clean" in outcome.output
        assert "\x1b[" not in outcome.output, "colours belong on a terminal only"
        assert host["status"] == "clean", host
        assert deployment.shell(FINGERPRINT) == before
    # A container has no firmware table, so the check reports its value as unknown.
    assert "memory.speed: not known" in outcome.output
    assert len(deployment.run("-vv", script=AUDIT).commands_sent) == 1, "everything is read in one command"


LISTEN_ON_ALL_ADDRESSES = (
    f"sed -i 's/127.0.0.1/0.0.0.0/' {UNIT} && systemctl daemon-reload && systemctl restart llamarig-tiny && "
    "for i in $(seq 120); do ss -Hltnp | grep llama-server | grep -q '0.0.0.0:' && exit 0; sleep 0.5; done; exit 1"
)
FOUR_CHANGES = (
    "rm /opt/llamarig/llama.cpp/*/bin/llama-bench",
    f"truncate -s -1000 {SHARD}",
    "chmod 700 /var/lib/llamarig/models",
    "rm -r /opt/llamarig/hub/lib/python3*/site-packages/hf_transfer-*.dist-info",
)


@pytest.mark.parametrize(
    ("command", "found"),
    [
        ("systemctl stop llamarig-tiny", [("llama.units", "llamarig-tiny.service")]),
        ("systemctl disable llamarig-tiny", [("llama.units", "llamarig-tiny.service")]),
        (LISTEN_ON_ALL_ADDRESSES, [("llama.units", "llamarig-tiny.service")]),
        (
            "; ".join(FOUR_CHANGES),
            [
                ("deploy.operation", "Directories"),
                ("deploy.operation", "Hub client"),
                ("llama.model-files", "model file Tiny-Qwen3-Next-F16-00002-of-00003.gguf"),
                ("llama.release", "llama.cpp release 0c1e57098bba43ac29e6"),
            ],
        ),
    ],
    ids=["stopped", "disabled", "edited to listen on all addresses", "four changes at once"],
)
def test_each_drift_is_one_finding_and_is_not_repaired(
    deployment: Deployment, tmp_path: Path, command: str, found: list[tuple[str, str]]
) -> None:
    deployment.shell(command, timeout=90)
    before = deployment.shell(FINGERPRINT)
    outcome, host = audit(deployment, tmp_path / "report.json")
    assert outcome.code == 1, str(outcome)
    assert sorted(failing(host)) == found, str(outcome)
    assert ("without a key" in outcome.output) == (command == LISTEN_ON_ALL_ADDRESSES)
    assert deployment.shell(FINGERPRINT) == before
    repaired = deployment.run()
    assert repaired.code == 0, str(repaired)
    assert audit(deployment, tmp_path / "report.json")[0].code == 0


@pytest.mark.parametrize(
    ("command", "undo", "check", "about"),
    [
        (
            "install -d /etc/llama.cpp && echo 'ctx-size = 512' >/etc/llama.cpp/config.ini",
            "rm -r /etc/llama.cpp",
            "llama.config-files",
            "/etc/llama.cpp/config.ini",
        ),
        (
            "echo 'export LLAMA_ARG_N_GPU_LAYERS=0' >/etc/profile.d/mine.sh",
            "rm /etc/profile.d/mine.sh",
            "llama.environment",
            "LLAMA_ARG_N_GPU_LAYERS in /etc/profile.d/mine.sh",
        ),
    ],
)
def test_stray_llama_cpp_settings_are_reported(
    deployment: Deployment, tmp_path: Path, command: str, undo: str, check: str, about: str
) -> None:
    deployment.shell(command)
    try:
        outcome, host = audit(deployment, tmp_path / "report.json")
    finally:
        deployment.shell(undo)
    assert outcome.code == 1, str(outcome)
    assert failing(host) == [(check, about)], str(outcome)
    assert "LLAMA_ARG_N_GPU_LAYERS=0" not in outcome.output


def test_an_undeclared_open_server_and_a_flag_that_the_build_lacks_are_reported(
    variant: Deployment, tmp_path: Path
) -> None:
    port = variant.box.port + 9
    # Make the build's recorded flags lack --cache-ram, which the model declares.
    manifest = "/opt/llamarig/llama.cpp/*/manifest.json"
    variant.shell(f'sed -i.saved \'s/"--cache-ram"/"--no-such"/\' {manifest}')
    variant.shell(
        "systemd-run --quiet --unit=stray --property=Environment=LLAMA_ARG_CTX_SIZE=512 sh -c '"
        # The program and the files of the tiny model: other tests leave further ones on the box.
        "exec $(readlink /proc/$(systemctl show llamarig-tiny -p MainPID --value)/exe) "
        f'--model $(find /var/lib/llamarig/models -name "Tiny-*-00001-of-00003.gguf" | head -n 1) '
        f"--host 0.0.0.0 --port {port}'"
    )
    try:
        variant.shell(
            f"for i in $(seq 120); do ss -Hltn | grep -q :{port} && exit 0; sleep 0.5; done; exit 1", timeout=90
        )
        outcome, host = audit(variant, tmp_path / "report.json")
    finally:
        # Of each release: other tests leave further ones on the box.
        variant.shell(f'systemctl stop stray; for saved in {manifest}.saved; do mv "$saved" "${{saved%.saved}}"; done')
    assert outcome.code == 1, str(outcome)
    findings = host["findings"]
    failed = {item["check"]: item for item in findings if item["fails"]}
    assert failed.keys() == {"llama.other-servers", "llama.units"}, str(outcome)
    assert (
        f"stray.service; LLAMA_ARG_CTX_SIZE set in the running process; listens on 0.0.0.0:{port} without a key"
        in str(failed["llama.other-servers"]["found"])
    )
    # A deploy would refuse this flag, so the remedy is not simply to deploy.
    assert "cache_ram_mib needs --cache-ram" in failed["llama.units"]["found"]
    assert failed["llama.units"]["remedy"] == "fix that, then run deploy.py"
    assert not failed["llama.units"]["by_deploy"]


def test_an_accepted_finding_is_reported_with_its_reason_and_does_not_fail(variant: Deployment, tmp_path: Path) -> None:
    variant.shell("install -d /etc/llama.cpp && touch /etc/llama.cpp/config.ini")
    variant.rig["host"]["accepted"] = {"llama.config-files": "shared with another tool"}
    try:
        outcome, host = audit(variant, tmp_path / "report.json")
    finally:
        variant.shell("rm -r /etc/llama.cpp")
    assert outcome.code == 0, str(outcome)
    assert "because shared with another tool" in outcome.output
    findings = host["findings"]
    assert [finding["accepted"] for finding in findings if finding["accepted"]] == ["shared with another tool"]


def test_a_declared_value_that_cannot_be_read_fails_the_audit(variant: Deployment, tmp_path: Path) -> None:
    variant.rig["host"]["memory_mts"] = 6000
    outcome, host = audit(variant, tmp_path / "report.json")
    assert outcome.code == 1, str(outcome)
    assert host["status"] == "could-not-look"
    assert "dmidecode" in str(host["why"])


def test_only_and_skip_select_checks_and_a_misspelt_check_is_refused(deployment: Deployment, tmp_path: Path) -> None:
    deployment.shell("systemctl stop llamarig-tiny")
    try:
        outcome, host = audit(deployment, tmp_path / "report.json", "only=memory,cpu.affinity")
        assert outcome.code == 0, str(outcome)
        checks, skipped = host["checks"], host["skipped"]
        assert {check.split(".")[0] for check in checks} == {"memory", "cpu"}
        assert skipped["llama.units"] == "only=memory,cpu.affinity"
        outcome, host = audit(deployment, tmp_path / "report.json", "skip=llama.units")
        assert outcome.code == 0, str(outcome)
        assert host["skipped"] == {"llama.units": "skip=llama.units"}
    finally:
        deployment.shell("systemctl start llamarig-tiny")
    typo = deployment.run("--data", "only=memroy", script=AUDIT)
    assert typo.code == 1
    assert "there is no check 'memroy'" in typo.output


def test_list_prints_the_checks_with_severity_and_description(deployment: Deployment) -> None:
    outcome = deployment.run("--data", "list=1", script=AUDIT)
    assert outcome.code == 0, str(outcome)
    assert "memory.speed (warning)" in outcome.output
    assert "expects RAM at its rated speed" in outcome.output


def test_a_prometheus_file_is_written_and_an_unwritable_report_fails(deployment: Deployment, tmp_path: Path) -> None:
    text = tmp_path / "llamarig.prom"
    audit(deployment, tmp_path / "report.json", f"prometheus={text}")
    assert 'llamarig_audit_clean{host="rehearsal-box"} 1' in text.read_text()
    nowhere = deployment.run("--data", f"json={tmp_path}/no/such/directory/report.json", script=AUDIT)
    assert nowhere.code == 1
    assert "cannot be written (No such file or directory)" in nowhere.output


def test_an_unreachable_host_fails_the_audit(deployment: Deployment, tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    deployment.more_hosts.append(("gone", {"ssh_port": 1}))
    try:
        outcome = deployment.run("--data", f"json={report}", script=AUDIT)
    finally:
        deployment.more_hosts.clear()
    assert outcome.code == 1, str(outcome)
    record = json.loads(report.read_text())
    assert {host["host"]: host["status"] for host in record["hosts"]} == {
        "gone": "could-not-look",
        "rehearsal-box": "clean",
    }
    assert record["status"] == "could-not-look"


def test_an_audit_without_root_reports_what_it_could_not_read(variant: Deployment, tmp_path: Path) -> None:
    variant.shell("id auditor >/dev/null 2>&1 || useradd --create-home auditor")
    variant.shell(
        "install -d -m 700 -o auditor /home/auditor/.ssh && "
        "install -m 600 -o auditor /root/.ssh/authorized_keys /home/auditor/.ssh/authorized_keys"
    )
    variant.ssh["ssh_user"] = "auditor"
    outcome, host = audit(variant, tmp_path / "report.json", "only=memory.speed,llama.open-port")
    assert outcome.code == 0, str(outcome)
    assert "only root may read the firmware's table" in outcome.output, host
    assert "llama.open-port: not known: only root sees the processes of other users" in outcome.output, host


def test_bandwidth_and_read_speed_are_measured_on_request(deployment: Deployment, tmp_path: Path) -> None:
    outcome, host = audit(deployment, tmp_path / "report.json", "bandwidth=1", "disk=1")
    assert outcome.code == 0, (outcome, host)
    measured, findings = host["measured"], host["findings"]
    # A container does not see the memory modules' rating, and the tiny model's files are too small to time a read.
    speed = re.fullmatch(r"(\d+\.\d) GB/s", measured["memory.bandwidth"])
    assert speed is not None
    assert float(speed[1]) > 0.1
    assert f"measured for memory.bandwidth: {speed[0]}" in outcome.output
    unknown = {finding["check"]: finding["found"] for finding in findings if finding["severity"] == "unknown"}
    assert speed[0] in unknown["memory.bandwidth"]
    assert ("disk.read-speed" in unknown) is ("disk.read-speed" not in measured)


def test_free_ram_is_checked_only_for_models_that_are_not_running(variant: Deployment, tmp_path: Path) -> None:
    """A container sees this machine's memory, so the model declares nearly all of it, without using it."""
    total = int(variant.shell("awk '/^MemTotal:/ {print $2}' /proc/meminfo")) // 1024
    # The check adds 16 MiB of weights and 1 GiB of buffers; the remaining 64 MiB are less than the kernel itself uses.
    variant.rig["models"][0]["serve"]["cache_ram_mib"] = total - 1024 - 16 - 64
    assert audit(variant, tmp_path / "report.json", "only=memory.room")[1]["findings"] == []
    program = "import time; memory = bytearray(1200 << 20); time.sleep(600)"
    variant.shell(f"systemctl stop llamarig-tiny; systemd-run --quiet --unit=holder /usr/bin/python3 -c '{program}'")
    try:
        variant.shell(
            "p=$(systemctl show holder -P MainPID); for i in $(seq 120); do "
            "test $(awk '/^RssAnon:/ {print $2}' /proc/$p/status) -gt 1200000 && exit 0; sleep 0.5; done; exit 1",
            timeout=90,
        )
        outcome, host = audit(variant, tmp_path / "report.json", "only=memory.room")
    finally:
        variant.shell("systemctl stop holder; systemctl start llamarig-tiny")
    assert outcome.code == 0, "only caches would lack memory, which fails no audit"
    findings = host["findings"]
    assert [(item["check"], item["about"], item["severity"]) for item in findings] == [("memory.room", "tiny", "note")]
    assert " GiB of RAM available now; the largest holders of the rest: " in findings[0]["found"]
    assert "python3 (pid " in findings[0]["found"]


def test_swappiness_is_one_finding_and_deploy_fixes_it(deployment: Deployment, tmp_path: Path) -> None:
    """A container shares vm.swappiness with its host: the box may write it during this test, which restores it."""
    kernel = Path("/proc/sys/vm/swappiness")
    saved = kernel.read_text()
    variant = deployment.variant(tmp_path / "swappiness")
    variant.rig["host"]["swappiness"] = wanted = 23 if saved.strip() != "23" else 24
    rule, own_rule = "/etc/udev/rules.d/30-zram.rules", "/etc/udev/rules.d/99-llamarig.rules"
    machine.up(deployment.box, writable_sysctl=True)
    try:
        # CachyOS ships such a rule: udev sets the value at boot, after systemd-sysctl.
        variant.write(rule, 'SYSCTL{vm.swappiness}="150"\n')
        outcome, host = audit(variant, tmp_path / "report.json")
        assert failing(host) == [("memory.swappiness", "vm.swappiness")], str(outcome)
        assert f"150 from {rule} after a reboot" in outcome.output
        assert variant.run().code == 0
        assert variant.run().changed == []
        outcome = variant.run("-vv", script=AUDIT)
        assert (outcome.code, len(outcome.commands_sent)) == (0, 1), str(outcome)
        variant.shell(f"rm {rule} {own_rule}")
        variant.shell(f"echo 'vm.swappiness=61' >/etc/sysctl.d/99-mine.conf; test {wanted} != 61")
        outcome, host = audit(variant, tmp_path / "report.json")
        assert failing(host) == [("memory.swappiness", "vm.swappiness")], str(outcome)
        assert "remove vm.swappiness from /etc/sysctl.d/99-mine.conf" in outcome.output
    finally:
        kernel.write_text(saved)
        variant.shell(f"rm -f /etc/sysctl.d/90-llamarig.conf /etc/sysctl.d/99-mine.conf {rule} {own_rule}")
        machine.up(deployment.box)


def test_twenty_hosts_are_audited_in_one_run(deployment: Deployment, tmp_path: Path) -> None:
    """Twenty inventory entries for the one box stand in for twenty boxes."""
    many = "/etc/ssh/sshd_config.d/01-many.conf"
    # By default sshd drops some of more than ten simultaneous logins (MaxStartups 10:30:100).
    deployment.shell(f"echo 'MaxStartups 100' >{many}; systemctl reload ssh")
    report = tmp_path / "report.json"
    try:
        deployment.more_hosts += [(f"box-{index}", {}) for index in range(19)]
        outcome = deployment.run("--data", f"json={report}", script=AUDIT)
    finally:
        deployment.more_hosts.clear()
        deployment.shell(f"rm {many}; systemctl reload ssh")
    assert outcome.code == 0, str(outcome)
    assert len(json.loads(report.read_text())["hosts"]) == 20
