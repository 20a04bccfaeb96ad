"""What a switch checks before it changes anything: key file, certificate, flags, the GPU in the sandbox, the port; and
once the server is ready, whether it computes on its GPU."""

from __future__ import annotations

import ssl
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path

from llamarig.remote.serve.key_file import first_key
from llamarig.remote.serve.model_units import credentials_of, log_of, state_of
from llamarig.remote.serve.port_in_use import listeners
from llamarig.remote.serve.unit_sandbox import (
    character_drivers,
    closed_devices,
    device_nodes,
    has_gpu,
    list_devices,
)
from llamarig.remote.shared.deadline import run_within
from llamarig.remote.shared.gpu_use import no_gpu_line, open_devices
from llamarig.remote.shared.job_status import JobFailedError
from llamarig.remote.shared.jobs import SwitchJob
from llamarig.remote.shared.server_log import read_log

FLAGS_S = 60.0
"""Seconds for a check of flags, which takes less than one where the GPU driver answers."""


def check_key_file(job: SwitchJob) -> None:
    """Check the API key file: without a usable key llama-server does not start, or serves without authentication."""
    try:
        api_key(job)
    except OSError as error:
        raise JobFailedError(
            f"{error}: write it on the box, one key per line, owned by root and mode 600; nothing was changed"
        ) from None


def check_certificate(job: SwitchJob) -> None:
    """Load the certificate and its key as the server will. Its own message would be that it cannot bind."""
    files = credentials_of(job.text)
    certificate, key = files.get("tls-certificate"), files.get("tls-key")
    if certificate is None or key is None:
        return
    for path in (certificate, key):
        if not Path(path).is_file():
            raise JobFailedError(f"{path} is missing: put the certificate and its key on the box; nothing was changed")
    try:
        # With an empty passphrase: a unit has no terminal to enter one at.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, password="")
    except (OSError, ValueError) as error:
        raise JobFailedError(
            f"{certificate} and {key} are not a certificate and its private key (PEM, without a passphrase): {error}; "
            "nothing was changed"
        ) from None


def check_flags(command: Sequence[str]) -> None:
    """Run llama-server with ``--help``: it parses all flags, loads nothing, and exits with 1 where it rejects one."""
    if not Path(command[0]).exists():
        raise JobFailedError(f"{command[0]} is missing: run deploy.py, which builds it again; nothing was changed")
    try:
        done = run_within(command, FLAGS_S)
    except subprocess.TimeoutExpired:
        raise JobFailedError(
            f"llama-server --help of this build did not end within {FLAGS_S:.0f} s: the GPU driver may hang (see "
            "`dmesg`), and then the box needs a restart; nothing was changed"
        ) from None
    if done.returncode:
        output = [line for line in done.stderr.splitlines() if line.strip()]
        # Some of its errors are followed by the usage text of the flag, or of all flags.
        errors = [line for line in output if line.startswith("error")]
        raise JobFailedError(
            "this build of llama-server rejects the declared flags: correct them; nothing was changed",
            errors or output[-5:],
        )


def check_gpu(job: SwitchJob) -> None:
    """Check that the build sees a GPU in its sandbox: otherwise llama-server serves from the CPU, without a warning."""
    program = job.check[0]
    inside = list_devices(program, job.environment, job.text)
    if has_gpu(inside):
        return
    as_root = list_devices(program, job.environment)
    if not has_gpu(as_root):
        raise JobFailedError(
            "this build of llama-server sees no GPU: check the driver (nvidia-smi, vulkaninfo, rocminfo); "
            "nothing was changed",
            [*as_root.stdout.splitlines(), *as_root.stderr.splitlines()][-6:],
        )
    closed = closed_devices(job.text, device_nodes(), character_drivers(Path("/proc/devices").read_text()))
    raise JobFailedError(
        "this build of llama-server sees a GPU as root, but none in the sandbox of its unit"
        + (f", which is kept from {', '.join(closed)}" if closed else "")
        + ": give device nodes mode 666 (NVIDIA), or report the name that is missing; nothing was changed",
        [*inside.stdout.splitlines(), *inside.stderr.splitlines()][-6:],
    )


def check_gpu_use(job: SwitchJob) -> None:
    """Check that a server that is ready computes on the GPU that its model is placed on."""
    if job.needs_gpu and (why := _why_on_cpu(job)):
        raise JobFailedError(
            f"{job.unit} serves from the CPU, although its model is placed on a GPU ({why}): check the driver "
            "(nvidia-smi, vulkaninfo, rocminfo), then run deploy.py again"
        )


def _why_on_cpu(job: SwitchJob) -> str:
    """Why a server does not compute on a GPU; empty where it does, or where that is not known."""
    lines = log_of(job.unit)
    if line := no_gpu_line(lines):
        return f"its log: {line}"
    buffers = read_log(lines).memory  # logged by the first start of a planned model
    if buffers and not any(name[-1].isdigit() for name in buffers):
        return f"its log has buffers in {', '.join(buffers)} only"
    if open_devices(state_of(job.unit)["MainPID"]) != []:
        return ""
    # Mesa's software driver for Vulkan (tests/gpu/README.md) has no device.
    is_software = "llvmpipe" in list_devices(job.check[0], job.environment, job.text).stdout
    return "" if is_software else "it has no device of a GPU open"


def check_port(port: int, ours: Iterable[str], outcome: str = "") -> None:
    """Check that no program but these units listens on the port: two that bind with SO_REUSEPORT share the requests."""
    pids = {state_of(unit)["MainPID"] for unit in ours}
    for listener in listeners(port):
        if listener.pid not in pids:
            raise JobFailedError(
                f"port {port} is in use by {listener}: give the model another serve.port, or stop that program{outcome}"
            )


def api_key(job: SwitchJob) -> str | None:
    """The first key of the key file; None for a model without one.

    :raises OSError: for a missing file, or one without a usable key
    """
    return first_key(job.api_key_file) if job.api_key_file else None
