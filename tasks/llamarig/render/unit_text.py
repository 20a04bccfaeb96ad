"""The systemd unit of a model: command line, limits and sandbox, each directive with its reason."""

from __future__ import annotations

import math
from collections.abc import Sequence

from llamarig.declare.build import Build
from llamarig.declare.model import Model
from llamarig.declare.placement import CpuOnly
from llamarig.declare.serve.endpoint import CREDENTIALS
from llamarig.remote.shared.server_url import server_url
from llamarig.render import layout
from llamarig.render.escaping import environment, exec_start
from llamarig.render.sandbox import network_lines, sandbox_lines
from llamarig.render.server_arguments import ModelFiles

_STARTS = 10
_RESTART_S = 10

_AFTER_DEVICES = (
    "# That unit loads the NVIDIA module and creates its device nodes; the sandbox of this one does not allow it.",
    f"Wants={layout.GPUS_UNIT}",
    f"After={layout.GPUS_UNIT}",
)

_WAIT_FOR_VRAM = (
    "# The previous server may still be releasing GPU memory. The wait is limited, and its failure is ignored.",
    f"ExecStartPre=-{layout.PYTHON} -I -B {layout.PROGRAMS}/llamarig/remote/serve/wait_for_vram.py",
)

_CHECK_KEY = (
    "# With a key file that has no key, llama-server would accept every request. As root, who alone may read the file.",
    f"ExecStartPre=+{layout.PYTHON} -I -B {layout.PROGRAMS}/llamarig/remote/serve/key_file.py {{path}}",
)


# What follows in _BOOT_LINES and start_lines decides how a start goes and nothing of a server that runs, so that
# remote/shared/unit_directives.py leaves it out: a change of it restarts no server.
_BOOT_LINES = (
    "# A boot does not wait until the model answers: without the default dependencies, multi-user.target comes before.",
    "DefaultDependencies=no",
    "Requires=sysinit.target",
    "After=sysinit.target basic.target",
    "Conflicts=shutdown.target",
    "Before=shutdown.target",
)
_STOP_AND_VRAM_S = 60
"""Seconds of a start beside the load: the wait for GPU memory takes 30 at most."""


def start_lines(model: Model, seconds: int) -> list[str]:
    """Directives by which a start has succeeded when the model answers.

    :param seconds: that a load may take
    """
    serve = model.serve
    url = server_url(serve.host, serve.port, prefix=serve.api_prefix or "", tls=serve.tls_key_file is not None)
    program = f"{layout.PYTHON} -I -B {layout.PROGRAMS}/llamarig/remote/serve/wait_until_ready.py"
    return [
        "# systemctl start returns when the model answers, or fails; journalctl -u has the server's last lines.",
        f"ExecStartPost={program} {exec_start([url, str(seconds)])}",
        f"TimeoutStartSec={seconds + _STOP_AND_VRAM_S}",
    ]


def declared_credentials(model: Model) -> dict[str, str]:
    """Field of serve -> path on the box of a file that the unit gets as a systemd credential."""
    return {field: path for field in CREDENTIALS if (path := getattr(model.serve, field)) is not None}


def credentials_in_unit(model: Model) -> dict[str, str]:
    """Field of serve -> path of its file inside the model's unit."""
    directory = f"/run/credentials/{layout.unit_name(model.name)}"
    return {field: f"{directory}/{CREDENTIALS[field]}" for field in declared_credentials(model)}


def load_timeout(model: Model, model_bytes: int) -> int:
    """Seconds that a load may take: as declared, else 120 s and the time a disk of 100 MB/s needs for the files.

    :param model_bytes: of all files of the model
    """
    return model.serve.load_timeout_s or 120 + math.ceil(model_bytes / 100e6)


def unit_text(
    model: Model,
    build: Build,
    release: str,
    files: ModelFiles,
    arguments: Sequence[str],
    peers: Sequence[str],
    model_bytes: int,
    pinned: bool = False,
) -> str:
    """The unit file.

    :param release: directory of the release that serves
    :param files: of the model
    :param arguments: of llama-server, for that release
    :param peers: units that must not run beside this one
    :param model_bytes: size of all files of the model
    :param pinned: whether the server loads weights into pinned memory (placement/pinned_weights.py)
    """
    serve = model.serve
    # The key file itself is root's alone; the check of it that runs before the server is root's, too.
    key = [serve.api_key_file] if serve.api_key_file is not None else []
    earlier = [peer for peer in peers if peer < layout.unit_name(model.name)]
    lines = [
        f"# {model.name}: {model.repo}. Written by llamarig; the next deploy overwrites edits.",
        "[Unit]",
        f"Description=llama.cpp server for {model.name}",
        *_BOOT_LINES,
        "After=network.target",
        *(_AFTER_DEVICES if build.backend == "cuda" else ()),
        *([f"Conflicts={' '.join(peers)}"] if peers else []),
        # Ordered units are stopped before the other one is started. One direction per pair, or the order is a cycle.
        *([f"After={' '.join(earlier)}"] if earlier else []),
        f"# After {_STARTS} failed starts in a row the unit stays down. To allow new starts:",
        f"# systemctl reset-failed {layout.unit_name(model.name)}",
        f"StartLimitIntervalSec={_STARTS * (load_timeout(model, model_bytes) + _RESTART_S)}",
        f"StartLimitBurst={_STARTS}",
        "",
        "[Service]",
        "Type=exec",
        f"User={layout.USER}",
        *(_WAIT_FOR_VRAM if build.backend == "cuda" and not isinstance(serve.placement, CpuOnly) else ()),
        *([line.format(path=serve.api_key_file) for line in _CHECK_KEY] if serve.api_key_file is not None else ()),
        f"ExecStart={_command_line([f'{release}/bin/llama-server', *arguments])}",
        *start_lines(model, load_timeout(model, model_bytes)),
        *(f"Environment={environment(name, value)}" for name, value in unit_environment(model, build).items()),
        *([] if key else ["# No API key: the server listens on loopback only."]),
        *(f"LoadCredential={CREDENTIALS[field]}:{path}" for field, path in declared_credentials(model).items()),
        *([f"CPUAffinity={serve.cpu_affinity}"] if serve.cpu_affinity is not None else []),
        *_limits(model, pinned),
        *network_lines(serve),
        "Restart=on-failure",
        f"RestartSec={_RESTART_S}",
        "# After an out-of-memory kill the unit stays down: a restart would be killed again. Free memory first.",
        "RestartPreventExitStatus=SIGKILL",
        "# On SIGTERM the server stops computing at once, but then waits for its clients to disconnect.",
        "TimeoutStopSec=10",
        "",
        *sandbox_lines(build, release, [*files.all, *key, *serve.readable_paths]),
        "",
        "[Install]",
        "WantedBy=multi-user.target",
    ]
    return "\n".join(lines) + "\n"


def _command_line(words: Sequence[str]) -> str:
    """Value of ExecStart=, one flag per line, so that units can be read and compared."""
    lines: list[list[str]] = [[]]
    for word in words:
        if word.startswith("--"):
            lines.append([])
        lines[-1].append(word)
    return " \\\n    ".join(exec_start(line) for line in lines)


def unit_environment(model: Model, build: Build) -> dict[str, str]:
    """Environment variables of a model's server."""
    uuids = model.serve.gpus if build.backend == "cuda" else ()
    own = {
        # GPU libraries and llama.cpp keep caches there; the service user has no home directory.
        "HOME": "/tmp",
        # The numbering of nvidia-smi; CUDA's own default is by speed.
        **({"CUDA_DEVICE_ORDER": "PCI_BUS_ID"} if build.backend == "cuda" else {}),
        # Only these cards, in this order, whichever slots they are in; the first is CUDA0.
        **({"CUDA_VISIBLE_DEVICES": ",".join(uuids)} if uuids else {}),
    }
    return own | model.serve.environment


def _limits(model: Model, pinned: bool) -> list[str]:
    limits = []
    if model.serve.load_mode in ("mlock", "mmap+mlock"):
        limits += ["# load_mode mlock locks the whole model into RAM.", "LimitMEMLOCK=infinity"]
    if model.serve.memory_max_mib is not None:
        limits += [
            "# The server is killed if it takes more RAM than planned, before the box runs out of memory.",
            f"MemoryMax={model.serve.memory_max_mib}M",
        ]
        limits += ["# Without this the server could use as much swap on top.", "MemorySwapMax=0"]
    elif pinned:
        limits += [
            "# Where the driver fails to pin weights it silently uses pageable memory: keep that out of swap.",
            "MemorySwapMax=0",
        ]
    if model.serve.priority > 0:
        limits += ["# --prio uses real-time scheduling.", "LimitRTPRIO=90", "LimitNICE=-20"]
    else:
        limits += ["# No real-time scheduling: priority is not declared.", "RestrictRealtime=yes"]
    return limits
