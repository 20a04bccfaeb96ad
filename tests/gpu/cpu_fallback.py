"""Show on a real GPU that a unit which may not open the GPU's devices is caught: by audit, liveness probe and switch.

Run as root after tests/gpu/deploy.py, with the same environment variables. A drop-in closes the devices to one unit;
its server then serves from the CPU. The drop-in is removed at the end, and the unit started anew.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from pathlib import Path

MODEL = sys.argv[1] if len(sys.argv) > 1 else "all-on-gpu"
UNIT, LIVENESS = f"llamarig-{MODEL}.service", "llamarig_liveness.service"
DROP_IN = Path(f"/run/systemd/system/{UNIT}.d/no-devices.conf")
AUDIT = ("pyinfra", "-y", "tests/gpu/inventory.py", "tasks/audit.py", "--data", "only=llama.gpu")
JOB = Path(f"/var/lib/llamarig/jobs/switch-{MODEL}")


def run(*command: str) -> subprocess.CompletedProcess[str]:
    """Run a command."""
    return subprocess.run(command, capture_output=True, text=True)


def restart() -> None:
    """Start the unit anew and wait until it is ready."""
    run("systemctl", "daemon-reload")
    run("systemctl", "restart", UNIT)
    text = Path(f"/etc/systemd/system/{UNIT}").read_text()
    port = re.findall(r"--port (\d+)", text)[0]
    while run("curl", "-sf", f"http://127.0.0.1:{port}/health").returncode:
        time.sleep(0.5)


def audited() -> bool:
    """Print what the audit's check finds; return whether it is clean."""
    done = run(*AUDIT)
    print(*(line for line in (done.stdout + done.stderr).splitlines() if "llama.gpu" in line), sep="\n")
    return done.returncode == 0


def liveness_said() -> str:
    """Run the liveness probe once; return its output."""
    run("systemctl", "start", LIVENESS)
    invocation = run("systemctl", "show", LIVENESS, "-p", "InvocationID", "--value").stdout.strip()
    run("journalctl", "--sync")
    said = run("journalctl", f"_SYSTEMD_INVOCATION_ID={invocation}", "-o", "cat", "--no-pager").stdout
    print(*(line for line in said.splitlines() if UNIT in line), sep="\n")
    return said


def main() -> None:
    """Exit with 1 if something is not caught, or if the unit as it is deployed is reported."""
    caught = {"the deployed unit is clean": audited()}
    run("systemctl", "stop", "llamarig_liveness.timer")
    DROP_IN.parent.mkdir(parents=True, exist_ok=True)
    try:
        DROP_IN.write_text("[Service]\nDeviceAllow=\nDevicePolicy=closed\n")
        restart()
        caught["the audit finds it"] = not audited()
        caught["the liveness probe restarts it once"] = "restarting it" in liveness_said()
        restart()
        caught["the liveness probe reports it then"] = "also after a restart" in liveness_said()
        # The switch lists devices in the sandbox of the unit's own text, so that only its start shows the drop-in.
        switch = f"cd /opt/llamarig/lib && /opt/llamarig/bin/python3 -B -m llamarig.remote.serve.switch_unit {JOB}"
        run("sh", "-c", switch)
        status = json.loads((JOB / "status.json").read_text())
        print(f"switch: {status['state']}: {status['message']}")
        caught["a start fails"] = status["state"] == "failed" and "serves from the CPU" in status["message"]
    finally:
        DROP_IN.unlink()
        restart()
        run("systemctl", "start", "llamarig_liveness.timer")
    caught["without the drop-in it is clean again"] = audited()
    for what, is_so in caught.items():
        print(f"{'yes' if is_so else 'NO '} {what}")
    sys.exit(not all(caught.values()))


if __name__ == "__main__":
    main()
