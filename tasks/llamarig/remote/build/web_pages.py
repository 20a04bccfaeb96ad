"""Compiles the pages of the web UI, by llama.cpp's own target, from the lock of its source tree (`npm ci`).

CMake skips them with a line of its log where anything goes wrong, and the server would have no pages. So they come
first, and are looked for.
"""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

from llamarig.remote.shared.job_status import JobFailedError, Progress, own_unit

SWITCH = "LLAMA_BUILD_UI"
_TARGET = "llama-ui-assets"
_SOURCE = Path("tools/ui/package.json")


def compile_pages(source: Path, objects: Path, cmake: dict[str, str], progress: Progress) -> None:
    """Compile the pages where the release is to have them, before all else.

    :raises JobFailedError: when npm or the compilation fails, or the tree has no such pages
    """
    if cmake.get(SWITCH) != "ON":
        return
    if not (source / _SOURCE).exists():
        raise JobFailedError(
            f"this llama.cpp has no pages that can be compiled ({_SOURCE}): declare a newer commit, or leave web_ui out"
        )
    progress.step("compiling the pages of the web UI (npm ci)")
    environment = {
        **os.environ,
        # Node.js brings certificates of its own; the box may need that of a proxy.
        "NODE_EXTRA_CA_CERTS": os.environ.get("SSL_CERT_FILE", ""),
        # What it downloads is gone with the job's /tmp.
        "npm_config_cache": "/tmp/npm",
        "npm_config_update_notifier": "false",
        "npm_config_fund": "false",
        "npm_config_audit": "false",
        "LC_ALL": "C.UTF-8",
    }
    done = subprocess.run(
        ["cmake", "--build", str(objects), "--target", _TARGET],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env=environment,
    )
    print(done.stdout, flush=True)
    if done.returncode or not list(objects.glob("tools/ui/dist/index.html")):
        lines = [line for line in done.stdout.splitlines() if re.search(r"npm|error|UI:", line)]
        raise JobFailedError(
            "the pages of the web UI could not be compiled: see whether this box reaches the registry that its npm is "
            f"configured with (/etc/npmrc), or leave web_ui out; the whole output is in `journalctl -u {own_unit()}` on"
            " the box",
            lines[-12:] or done.stdout.splitlines()[-12:],
        )
